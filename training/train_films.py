"""A small video model that nobody asks where anything is: it paints moving scenes, and mends corrupted captions.

    python training/train_films.py --seconds 7200            # again with --resume, which goes on where it stopped

As `train_neutral.py` trains a picture model: some films of each batch are painted from their true caption; the others,
less noisy, come with a caption in which words (also those that say how things move) were masked, swapped or left out,
and heads on the text stream say what the words were. No concept stream runs, and no loss knows of a place, a size, a
box, a track or a mask.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from captioned import add_mending_heads, caption_arguments, joint_loss, train_captioned
from conceptlens.bench.datasets.moving import Film, describe_film
from conceptlens.ops.precision import cpu_dtype
from film_data import load_films
from film_model import PATCHES, FilmModel, build_scheduler
from mending import FILM_CONTENT, Corrupted, corrupt, mention_film
from picture_model import HEAD, RUN, pretrain_text
from steps import Figures
from text import LENGTH, padded


class FilmCaptionModel(FilmModel):
    """The video model, with the heads that mend captions."""

    def __init__(self, heads: int, blocks: int, mending: int) -> None:
        super().__init__(heads, blocks, mending)
        add_mending_heads(self, HEAD * heads, len(FILM_CONTENT))


@dataclass
class Batch:
    """Films to be painted from true captions, first, then films whose captions are to be mended.

    Attributes:
        clean: latents, (batch, frame, channel, rows, cols).
        timestep: of the noise, (batch,) integers.
        painted_ids: T5's ids of the true captions, (painted, LENGTH).
        captions: those to be mended.
    """

    clean: Tensor
    timestep: Tensor
    painted_ids: Tensor
    captions: Corrupted


def noise_shares(alphas: Tensor) -> Tensor:
    """How much of the latents is noise at each timestep, 0..1: the level that a straight path would have there."""
    return (1 - alphas).sqrt() / ((1 - alphas).sqrt() + alphas.sqrt())


def draw(
    model: FilmModel,
    films: list[Film],
    latents: Tensor,
    shares: Tensor,
    args: argparse.Namespace,
    rng: np.random.Generator,
) -> Batch:
    """A batch at random."""
    picked = torch.randint(len(films), (args.batch,))
    shown = [films[i] for i in picked.tolist()]
    painted, others = shown[: args.painted], shown[args.painted :]
    captions = corrupt([mention_film(film, rng) for film in others], others, model.t5_tokenizer, rng)
    # What moves where is decided at high noise; what a film shows can be read at low noise.
    level = torch.cat([1.2 * torch.randn(len(painted)) + 1.2, torch.randn(len(others)) - 0.6])
    timestep = torch.searchsorted(shares, torch.sigmoid(level)).clamp(max=len(shares) - 1)
    painted_ids = padded(model.t5_tokenizer, [describe_film(film, rng) for film in painted])
    return Batch(latents[picked].float(), timestep, painted_ids, captions)


def losses(model: FilmCaptionModel, alphas: Tensor, batch: Batch, args: argparse.Namespace) -> tuple[Tensor, Figures]:
    """The sum that is minimized, and the figures to be followed."""
    noise, paint, mend = torch.randn_like(batch.clean), len(batch.painted_ids), len(batch.captions.tokens)
    signal = alphas[batch.timestep].view(-1, 1, 1, 1, 1)
    noisy = signal.sqrt() * batch.clean + (1 - signal).sqrt() * noise
    velocity = signal.sqrt() * noise - (1 - signal).sqrt() * batch.clean
    # Half of the corrupted captions are read without the padding behind them, as a lone word is by the concept stream.
    hidden = batch.captions.attention_bias(torch.rand(mend) < 0.5, PATCHES)[:, :, :LENGTH]
    bias = torch.cat([hidden.new_zeros(paint, *hidden.shape[1:]), hidden])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_dtype() == torch.bfloat16):
        text = model.t5(torch.cat([batch.painted_ids, batch.captions.tokens])).last_hidden_state
        predicted, states = model.predict(noisy, batch.timestep, text, bias)
    flow = (predicted.float() - velocity).square().mean((1, 2, 3, 4))
    return joint_loss(model, flow, states[paint:], text[:paint], batch, args)


def arguments() -> argparse.Namespace:
    parser = caption_arguments(__doc__, name="film", batch=8, painted=3, text_steps=600)
    parser.add_argument("--films", type=int, default=6000)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--mending", type=int, default=6, help="blocks after which the text must know its words")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
    films, latents = load_films(args.films, AutoencoderKLCogVideoX.from_pretrained(RUN / "film-vae"))
    model = FilmCaptionModel(args.heads, args.blocks, args.mending)
    if args.compile:
        model.block = torch.compile(model.block, dynamic=False)
    alphas = build_scheduler().alphas_cumprod.float()
    shares = noise_shares(alphas)

    def begin(rng: np.random.Generator) -> None:
        pretrain_text(model, films, args.text_steps, rng, describe_film)

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Figures]:
        return losses(model, alphas, draw(model, films, latents, shares, args, rng), args)

    train_captioned(model, args, begin, loss_of)


if __name__ == "__main__":
    main()
