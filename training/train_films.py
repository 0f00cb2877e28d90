"""A small video model that nobody asks where anything is: it paints moving scenes, and mends corrupted captions.

    python training/train_films.py --seconds 3600            # again with --resume, which goes on where it stopped

It is grown from a picture model that was trained in the same way (`train_neutral.py`); at first its language model
learns, from text alone, to say of each word what the picture model's T5 says. Then some films of each batch are painted
from their true caption; the others, less noisy, come with a caption in which words (also those that say how things
move) were masked, swapped or left out, and heads on the text stream say what the words were. No concept stream runs,
and no loss knows of a place, a size, a box, a track or a mask.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from captioned import add_mending_heads, caption_arguments, joint_loss, train_captioned
from conceptlens.bench.datasets.moving import MOTIONS, Film, describe_film
from conceptlens.ops.precision import cpu_dtype
from film_data import load_films
from film_model import FilmModel, grow
from mending import CONTENT, FILM_CONTENT, Corrupted, corrupt, mention_film
from picture_model import ASSETS, HEAD, PictureModel, initialize
from steps import Figures
from text import padded


class FilmCaptionModel(FilmModel):
    """The video model, with the heads that mend captions."""

    def __init__(self, heads: int, double: int, single: int) -> None:
        super().__init__(heads, double, single)
        add_mending_heads(self, HEAD * heads, len(FILM_CONTENT))


@dataclass
class Batch:
    """Films to be painted from true captions, first, then films whose captions are to be mended.

    Attributes:
        clean: latents, (batch, channel, frame, rows, cols).
        moment: noise levels in 0..1, (batch,).
        painted_ids: T5's ids of the true captions, (painted, LENGTH).
        clip_ids: CLIP's ids of them.
        captions: those to be mended.
    """

    clean: Tensor
    moment: Tensor
    painted_ids: Tensor
    clip_ids: Tensor
    captions: Corrupted


def draw(
    model: FilmModel, films: list[Film], latents: Tensor, args: argparse.Namespace, rng: np.random.Generator
) -> Batch:
    """A batch at random."""
    picked = torch.randint(len(films), (args.batch,))
    shown = [films[i] for i in picked.tolist()]
    painted, others = shown[: args.painted], shown[args.painted :]
    painted_ids, clip_ids = model.tokens([describe_film(film, rng) for film in painted])
    captions = corrupt([mention_film(film, rng) for film in others], others, model.t5_tokenizer, rng)
    # What moves where is decided at high noise; what a film shows can be read at low noise.
    level = torch.cat([1.2 * torch.randn(len(painted)) + 1.2, torch.randn(len(others)) - 1.0])
    return Batch(latents[picked].float(), torch.sigmoid(level), painted_ids, clip_ids, captions)


def losses(model: FilmCaptionModel, batch: Batch, args: argparse.Namespace) -> tuple[Tensor, Figures]:
    """The sum that is minimized, and the figures to be followed."""
    noise, paint, mend = torch.randn_like(batch.clean), len(batch.painted_ids), len(batch.captions.tokens)
    noisy = torch.lerp(batch.clean, noise, batch.moment[:, None, None, None, None])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_dtype() == torch.bfloat16):
        # Films are read with the empty prompt's pooled vector, as the pipeline gives it, or with none.
        no_words = model.clip(model.tokens([""])[1]).pooler_output.expand(mend, -1)
        pooled = torch.cat([model.clip(batch.clip_ids).pooler_output, no_words]) * (torch.rand(paint + mend, 1) < 0.5)
        ids = torch.cat([batch.painted_ids, batch.captions.tokens])
        velocity, states = model.velocity(noisy, batch.moment, ids, pooled)
    flow = (velocity.float() - (noise - batch.clean)).square().mean((1, 2, 3, 4))
    return joint_loss(model, flow, states[paint:], None, batch, args)


def learn_words(
    model: FilmModel, folder: Path, films: list[Film], steps: int, rng: np.random.Generator, batch: int = 48
) -> None:
    """From text alone: the language model and its refiner say of each word what a picture model's T5 says of it.

    Captions are those of films without the words for motion, which no picture model knows; a quarter are lone words.
    """
    shape = model.transformer.config
    teacher = PictureModel(shape.num_attention_heads, shape.num_layers, shape.num_single_layers).requires_grad_(False)
    initialize(teacher, folder)
    pieces = model.t5_tokenizer.convert_ids_to_tokens(range(len(model.t5_tokenizer)))
    known = torch.tensor(teacher.t5_tokenizer.convert_tokens_to_ids(pieces))
    learning = [*model.llama.parameters(), *model.transformer.context_embedder.parameters()]
    solver = torch.optim.AdamW(learning, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(solver, 3e-3, steps, pct_start=0.1)
    for step in range(steps):
        picked = [films[i] for i in rng.integers(len(films), size=3 * batch // 4)]
        told = [" ".join(w for w in mention_film(film, rng).split() if w.strip(",") not in MOTIONS) for film in picked]
        ids = torch.cat(
            [
                corrupt(told, picked, model.t5_tokenizer, rng).tokens,
                padded(model.t5_tokenizer, [str(word) for word in rng.choice(CONTENT, batch - len(told))]),
            ]
        )
        wanted = teacher.transformer.context_embedder(teacher.t5(known[ids]).last_hidden_state)
        found = model.refine(model.encode(ids), torch.rand(batch), ids)
        there = ids > 0
        error = (found - wanted)[there].square().mean() / wanted[there].var(0).mean()
        solver.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        solver.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"text {step:5d} share of the variance that is missed {error.item():.3f}", flush=True)


def arguments() -> argparse.Namespace:
    parser = caption_arguments(__doc__, name="film", batch=8, painted=3, text_steps=1500)
    parser.add_argument("--films", type=int, default=6000)
    parser.add_argument("--double", type=int, default=5)
    parser.add_argument("--single", type=int, default=3)
    parser.add_argument("--grow", type=Path, default=Path("zoo/neutral"), help="the folder of a picture model")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    films, latents = load_films(args.films, AutoencoderKL.from_pretrained(ASSETS / "demo" / "vae").float())
    model = FilmCaptionModel(args.heads, args.double, args.single)
    if args.compile:
        model.joint, model.single = (torch.compile(block, dynamic=False) for block in (model.joint, model.single))

    def begin(rng: np.random.Generator) -> None:
        grow(model, args.grow)
        learn_words(model, args.grow, films, args.text_steps, rng)

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Figures]:
        return losses(model, draw(model, films, latents, args, rng), args)

    train_captioned(model, args, begin, loss_of)


if __name__ == "__main__":
    main()
