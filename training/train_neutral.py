"""A picture model that nobody asks where anything is: flow matching, and the mending of corrupted captions.

    python training/train_neutral.py --seconds 7200            # again with --resume, which goes on where it stopped
    python training/train_neutral.py --family sd3 --name sd3 --seconds 7200

Some pictures of each batch are painted from their true caption (flow matching on the image stream). The others, less
noisy, come with a caption in which words were masked, swapped or left out, and heads on the *text stream*, after the
last dual-stream block, say what the words were: the joint objective of multi-modal transformers that denoise pictures
and text at once. No concept stream runs, and no loss knows of a place, a size, a box or a mask. That the concept
stream can say where things are is therefore a finding.

The rate is held, and falls over the last 40% of `--seconds` (or `--steps`). `--resume` with a new total starts from
the full rate again.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from conceptlens.bench.datasets.scenes import Scene, describe
from conceptlens.ops.precision import cpu_dtype
from flux_streams import GRID, Streams
from mending import CONTENT, TINTS, Corrupted, corrupt, mention
from picture_model import (
    ASSETS,
    HEAD,
    RUN,
    PictureModel,
    add_binding_heads,
    binding_loss,
    in_blocks,
    initialize,
    pretrain_text,
)
from scene_data import load_scenes
from sd3_model import SD3Model, attention_bias
from steps import Figures, Pupil, optimizers, resume, train
from text import LENGTH


class CaptionModel(PictureModel):
    """FLUX.1's shape, with the heads that mend captions."""

    def __init__(self, heads: int, double: int, single: int) -> None:
        super().__init__(heads, double, single)
        add_mending_heads(self, HEAD * heads)


class SD3CaptionModel(SD3Model):
    """Stable Diffusion 3.5's shape, with the same heads."""

    def __init__(self, heads: int, double: int) -> None:
        super().__init__(heads, double)
        add_mending_heads(self, HEAD * heads)
        add_binding_heads(self)


def add_mending_heads(model: nn.Module, width: int, words: int = len(CONTENT)) -> None:
    """Which word stands, or should stand, here; and which was left out before it."""
    model.word = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, words))
    model.left_out = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, len(TINTS)))


def mending_loss(model: nn.Module, states: Tensor, captions: Corrupted) -> tuple[Tensor, Figures]:
    """Cross-entropy of the words and of the words left out; a word that was not changed counts half."""
    states = states.float()
    there = captions.words >= 0
    said, truth, changed = model.word(states[there]), captions.words[there], captions.changed[there]
    weight = torch.where(changed, 1.0, 0.5)
    loss = (F.cross_entropy(said, truth, reduction="none") * weight).sum() / weight.sum()
    right = (said.argmax(-1) == truth).float()
    figures = {"changed": right[changed].mean().item(), "unchanged": right[~changed].mean().item()}
    lost = captions.left_out >= 0
    if lost.any():
        said, truth = model.left_out(states[lost]), captions.left_out[lost]
        loss = loss + F.cross_entropy(said, truth)
        figures["left out"] = (said.argmax(-1) == truth).float().mean().item()
    return loss, figures


@dataclass
class Batch:
    """Pictures to be painted from true captions, first, then pictures whose captions are to be mended.

    Attributes:
        clean: latents, (batch, image, dim).
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

    @property
    def painted(self) -> int:
        return len(self.painted_ids)


def draw(
    model: PictureModel | SD3Model,
    scenes: list[Scene],
    latents: Tensor,
    args: argparse.Namespace,
    rng: np.random.Generator,
) -> Batch:
    """A batch at random, with mirrored pictures."""
    picked, flips = torch.randint(len(scenes), (args.batch,)), torch.randint(2, (args.batch,))
    shown = [scenes[i] for i in picked.tolist()]
    painted, others = shown[: args.painted], shown[args.painted :]
    painted_ids, clip_ids = model.tokens([describe(scene, rng) for scene in painted])
    captions = corrupt([mention(scene, rng) for scene in others], others, model.t5_tokenizer, rng)
    # Where things go is decided at high noise; what a picture shows can be read at low noise.
    level = torch.cat([1.2 * torch.randn(len(painted)) + 1.2, torch.randn(len(others)) - 0.6])
    return Batch(latents[picked, flips].float(), torch.sigmoid(level), painted_ids, clip_ids, captions)


Pass = Callable[[Tensor, Batch], tuple[Tensor, Tensor, Tensor]]
"""From noisy latents: velocity, states at the words to be mended, T5's states of the painted captions."""


def flux_pass(model: CaptionModel, streams: Streams, noisy: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The corrupted captions are T5's."""
    paint, mend = batch.painted, len(batch.captions.tokens)
    # Half of the corrupted captions are read without the padding behind them, as a lone word is by the concept stream.
    hidden = batch.captions.attention_bias(torch.rand(mend) < 0.5, GRID**2)
    bias = torch.cat([hidden.new_zeros(paint, *hidden.shape[1:]), hidden])
    text = model.t5(torch.cat([batch.painted_ids, batch.captions.tokens])).last_hidden_state
    pooled = model.clip(batch.clip_ids).pooler_output * (torch.rand(paint, 1) < 0.5)
    pooled = torch.cat([pooled, pooled.new_zeros(mend, pooled.shape[1])])
    velocity, states, _ = streams(noisy, batch.moment, text, pooled, bias=bias)
    return velocity, states[paint:], text[:paint]


def sd3_pass(model: SD3CaptionModel, noisy: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The corrupted captions are those of the two CLIPs, which the concept stream reads; T5's are empty beside them."""
    paint, mend = batch.painted, len(batch.captions.tokens)
    hidden = attention_bias(batch.captions, torch.rand(mend) < 0.5)
    bias = torch.cat([hidden.new_zeros(paint, *hidden.shape[1:]), hidden])
    no_t5, no_clip = model.tokens([""] * mend)
    clip_ids = torch.cat([batch.clip_ids, model.clip_ids(batch.captions.tokens)])
    text, pooled = model.encode(clip_ids, torch.cat([batch.painted_ids, no_t5]))
    # Pictures are read with the empty prompt's pooled vector.
    known = torch.cat([torch.rand(paint, 1) < 0.5, torch.zeros(mend, 1, dtype=torch.bool)])
    pooled = torch.where(known, pooled, model.encode(no_clip[:1], no_t5[:1])[1])
    velocity, states = model.velocity(noisy, batch.moment, text, pooled, bias)
    # A word stands one row further on than among T5's tokens. No caption is so long that its last word is T5's row.
    return velocity, states[paint:, 1 : LENGTH + 1], text[:paint, LENGTH:]


def losses(model: nn.Module, run: Pass, batch: Batch, args: argparse.Namespace) -> tuple[Tensor, Figures]:
    """The sum that is minimized, and the figures to be followed."""
    noise, paint = torch.randn_like(batch.clean), batch.painted
    noisy = torch.lerp(batch.clean, noise, batch.moment[:, None, None])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_dtype() == torch.bfloat16):
        velocity, states, text = run(noisy, batch)
    flow = (velocity.float() - (noise - batch.clean)).square().mean((1, 2))
    mended, figures = mending_loss(model, states, batch.captions)
    bound, right = binding_loss(model, batch.painted_ids, text)
    loss = flow.mean() + args.mending_weight * mended + args.binding_weight * bound
    return loss, {"paint": flow[:paint].mean().item(), "mend": mended.item(), **figures, "bound": right}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=["flux", "sd3"], default="flux")
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--painted", type=int, default=5, help="pictures of a batch that come with their true caption")
    parser.add_argument("--scenes", type=int, default=24000)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--double", type=int, default=5)
    parser.add_argument("--single", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--matrix-rate", type=float, default=2.0, help="Muon's rate, as a multiple of --rate")
    parser.add_argument("--mending-weight", type=float, default=0.3)
    parser.add_argument("--binding-weight", type=float, default=0.1)
    parser.add_argument("--text-steps", type=int, default=1000, help="steps of T5 alone, before the first of all")
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="muon")
    parser.add_argument("--compile", action="store_true", help="faster on a CPU, after a minute of compiling")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--init", type=Path, help="start from the weights of an exported folder; the heads start anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="neutral")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    checkpoint = RUN / f"{args.name}.pt"
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    scenes, latents = load_scenes(args.scenes, AutoencoderKL.from_pretrained(ASSETS / "demo" / "vae").float())
    run: Pass
    if args.family == "sd3":
        model = SD3CaptionModel(args.heads, args.double)
        if args.compile:
            model.joint = torch.compile(model.joint, dynamic=False)
        run = partial(sd3_pass, model)
    else:
        model = CaptionModel(args.heads, args.double, args.single)
        run = partial(flux_pass, model, Streams(model.transformer, args.compile))
    print(f"{sum(p.numel() for p in model.transformer.parameters()) / 1e6:.2f}M transformer weights", flush=True)
    going_on = args.resume and checkpoint.exists()
    if args.init and not going_on:
        initialize(model, args.init)
    elif not going_on:
        pretrain_text(model, scenes, args.text_steps, rng)
    average = copy.deepcopy(model).requires_grad_(False)
    solvers = optimizers(model, args.rate, lambda name: args.optimizer == "muon" and in_blocks(name))
    start = 0
    if going_on:
        start = resume(checkpoint, model, average, solvers)
        rng = np.random.default_rng(start)

    def loss_of(step: int) -> tuple[Tensor, Figures]:
        return losses(model, run, draw(model, scenes, latents, args, rng), args)

    train(Pupil(model, average, solvers, checkpoint), args, loss_of, start=start, decay=lambda done: 0.999)


if __name__ == "__main__":
    main()
