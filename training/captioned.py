"""What trainers share whose model paints some of a batch and mends the captions of the rest."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mending import CONTENT, TINTS, Corrupted
from picture_model import RUN, binding_loss, in_blocks
from steps import Figures, Pupil, optimizers, resume, train


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


class Captioned(Protocol):
    """What every batch says of its captions: T5's ids of the true ones, and those to be mended."""

    painted_ids: Tensor
    captions: Corrupted


def joint_loss(
    model: nn.Module, flow: Tensor, states: Tensor, text: Tensor | None, batch: Captioned, args: argparse.Namespace
) -> tuple[Tensor, Figures]:
    """The sum that is minimized, and the figures to be followed.

    Args:
        model: with the heads that mend, and those that bind colours.
        flow: the painting's error of each picture, those with a true caption first.
        states: of the text stream, at the words to be mended.
        text: T5's states of the true captions; None for a model without one.
        batch: its captions.
        args: with the weights.
    """
    mended, figures = mending_loss(model, states, batch.captions)
    loss = flow.mean() + args.mending_weight * mended
    figures = {"paint": flow[: len(batch.painted_ids)].mean().item(), "mend": mended.item(), **figures}
    if text is not None:
        bound, figures["bound"] = binding_loss(model, batch.painted_ids, text)
        loss = loss + args.binding_weight * bound
    return loss, figures


def caption_arguments(
    description: str | None, *, name: str, batch: int, painted: int, text_steps: int
) -> argparse.ArgumentParser:
    """A parser of what all of these trainings may vary, with the defaults of one of them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument(
        "--painted", type=int, default=painted, help="of a batch, those that come with their true caption"
    )
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--matrix-rate", type=float, default=2.0, help="Muon's rate, as a multiple of --rate")
    # At 0.3 mending's gradient in the image stream is seven times painting's, and Muon looks at directions alone.
    parser.add_argument("--mending-weight", type=float, default=0.02)
    parser.add_argument("--binding-weight", type=float, default=0.1)
    parser.add_argument("--text-steps", type=int, default=text_steps, help="from text alone, before the first of all")
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="muon")
    parser.add_argument("--compile", action="store_true", help="faster on a CPU, after a minute of compiling")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default=name)
    return parser


def train_captioned(
    model: nn.Module,
    args: argparse.Namespace,
    begin: Callable[[np.random.Generator], None],
    loss_of: Callable[[np.random.Generator], tuple[Tensor, Figures]],
) -> None:
    """Trains a model, or goes on with it.

    Args:
        model: in training mode.
        args: see `caption_arguments`.
        begin: what comes before the first step of all.
        loss_of: a batch at random, its loss and figures.
    """
    checkpoint = RUN / f"{args.name}.pt"
    print(f"{sum(p.numel() for p in model.transformer.parameters()) / 1e6:.2f}M transformer weights", flush=True)
    rng = np.random.default_rng(args.seed)
    going_on = args.resume and checkpoint.exists()
    if not going_on:
        begin(rng)
    average = copy.deepcopy(model).requires_grad_(False)
    solvers = optimizers(model, args.rate, lambda name: args.optimizer == "muon" and in_blocks(name))
    start = 0
    if going_on:
        start = resume(checkpoint, model, average, solvers)
        rng = np.random.default_rng(start)
    pupil = Pupil(model, average, solvers, checkpoint)
    train(pupil, args, lambda step: loss_of(rng), start=start, decay=lambda done: 0.999)
