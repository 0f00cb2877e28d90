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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from captioned import add_mending_heads, caption_arguments, joint_loss, train_captioned
from conceptlens.bench.datasets.scenes import Scene, describe
from conceptlens.ops.precision import cpu_dtype
from flux_streams import GRID, Streams
from mending import Corrupted, corrupt, mention
from picture_model import (
    ASSETS,
    HEAD,
    PictureModel,
    add_binding_heads,
    initialize,
    pretrain_text,
)
from scene_data import load_scenes
from sd3_model import SD3Model, attention_bias
from steps import Figures
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
    level = torch.cat([1.2 * torch.randn(len(painted)) + args.level, torch.randn(len(others)) - 0.6])
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
    noise = torch.randn_like(batch.clean)
    noisy = torch.lerp(batch.clean, noise, batch.moment[:, None, None])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_dtype() == torch.bfloat16):
        velocity, states, text = run(noisy, batch)
    flow = (velocity.float() - (noise - batch.clean)).square().mean((1, 2))
    return joint_loss(model, flow, states, text, batch, args)


def arguments() -> argparse.Namespace:
    parser = caption_arguments(__doc__, name="neutral", batch=16, painted=5, text_steps=1000)
    parser.add_argument("--family", choices=["flux", "sd3"], default="flux")
    parser.add_argument("--scenes", type=int, default=24000)
    parser.add_argument("--double", type=int, default=5)
    parser.add_argument("--single", type=int, default=3)
    parser.add_argument("--level", type=float, default=1.2, help="painting's noise: sigmoid(N(LEVEL, 1.2))")
    parser.add_argument("--init", type=Path, help="start from the weights of an exported folder; the heads start anew")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(args.seed)
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

    def begin(rng: np.random.Generator) -> None:
        if args.init:
            initialize(model, args.init)
        else:
            pretrain_text(model, scenes, args.text_steps, rng)

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Figures]:
        return losses(model, run, draw(model, scenes, latents, args, rng), args)

    train_captioned(model, args, begin, loss_of)


if __name__ == "__main__":
    main()
