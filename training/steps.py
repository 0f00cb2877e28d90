"""What training repeats at every step, whatever the model: rates, an averaged copy, checkpoints."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from conceptlens.ops.precision import cpu_dtype


def optimizers(model: nn.Module, rate: float, by_muon: Callable[[str], bool]) -> list[Optimizer]:
    """Muon for the matrices whose names `by_muon` picks, where it picks any, and before it AdamW for all else.

    Torch's Muon computes in bfloat16. On a processor that is slow in it, a step would take a hundred times as long, so
    there AdamW takes all weights.
    """
    fast = next(model.parameters()).is_cuda or cpu_dtype() == torch.bfloat16
    matrices, others = [], []
    for name, weight in model.named_parameters():
        (matrices if weight.ndim == 2 and fast and by_muon(name) else others).append(weight)
    chosen: list[Optimizer] = [torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)]
    if matrices:
        muon = {"lr": rate, "weight_decay": 0.01, "ns_steps": 4, "adjust_lr_fn": "match_rms_adamw"}
        chosen.append(torch.optim.Muon(matrices, **muon))
    return chosen


def set_rate(solvers: list[Optimizer], args: argparse.Namespace, step: int, done: float) -> None:
    """Rises over 200 steps, stays, and falls from the point where 60% are `done` (0..1), to 4% of `args.rate`.

    Muon's rate is `args.matrix_rate` times AdamW's.
    """
    rate = args.rate * min(1.0, (step + 1) / 200) * (0.04 + 0.96 * min(1.0, 2.5 * (1 - done)))
    for solver, factor in zip(solvers, (1.0, args.matrix_rate), strict=False):
        for group in solver.param_groups:
            group["lr"] = rate * factor


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int, longest: float) -> None:
    """Moves an averaged copy towards the model; `longest` is the decay that it ends at, smaller in the first steps."""
    decay = min(longest, (step + 1) / (step + 20))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def save(
    checkpoint: Path,
    model: nn.Module,
    average: nn.Module,
    solvers: list[Optimizer],
    step: int,
    args: argparse.Namespace,
) -> None:
    """Writes all that `resume` needs, and `args`, after `step` steps."""
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "solvers": [solver.state_dict() for solver in solvers],
        "step": step,
        "args": vars(args),
    }
    torch.save(state, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").rename(checkpoint)


def resume(checkpoint: Path, model: nn.Module, average: nn.Module, solvers: list[Optimizer]) -> int:
    """Loads what `save` wrote, moves torch's seed on, and returns the number of steps done."""
    saved = torch.load(checkpoint, weights_only=False)
    model.load_state_dict(saved["model"])
    average.load_state_dict(saved["average"])
    for solver, state in zip(solvers, saved["solvers"], strict=True):
        solver.load_state_dict(state)
    torch.manual_seed(saved["step"])
    print(f"resumed at step {saved['step']}", flush=True)
    return saved["step"]


Figures = dict[str, float]


@dataclass(frozen=True)
class Pupil:
    """What is trained, and where it stands.

    Attributes:
        model: in training mode.
        average: the copy that follows it.
        solvers: of its weights.
        checkpoint: see `save`.
    """

    model: nn.Module
    average: nn.Module
    solvers: list[Optimizer]
    checkpoint: Path


def train(
    pupil: Pupil,
    args: argparse.Namespace,
    loss_of: Callable[[int], tuple[Tensor, Figures]],
    *,
    start: int,
    decay: Callable[[float], float],
) -> None:
    """Minimizes what `loss_of` returns for a step number; follows its figures; writes a checkpoint every four minutes.

    Args:
        pupil: what is trained.
        args: `steps`, `seconds` and the rates (see `set_rate`).
        loss_of: one batch's loss, and what to print of it; NaN for what this batch has not.
        start: steps done before.
        decay: of the averaged weights, for the share of the training that is done, 0..1.
    """
    model, average, solvers = pupil.model, pupil.average, pupil.solvers
    running: Figures = {}
    began = saved = time.time()
    for step in range(start, args.steps):
        elapsed = time.time() - began
        share = min(1.0, max(step / args.steps, elapsed / args.seconds))
        set_rate(solvers, args, step, share)
        loss, figures = loss_of(step)
        for solver in solvers:
            solver.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for solver in solvers:
            solver.step()
        follow(average, model, step, decay(share))
        for name, value in figures.items():
            if not math.isnan(value):
                running[name] = 0.98 * running.get(name, value) + 0.02 * value
        if step % 100 == 0:
            pace = (time.time() - began) / (step - start + 1)
            print(f"{step:6d} " + "  ".join(f"{k} {v:.3f}" for k, v in running.items()) + f"  {pace:.3f} s", flush=True)
        done = step == args.steps - 1 or elapsed > args.seconds
        if time.time() - saved > 240 or done:
            save(pupil.checkpoint, model, average, solvers, step + 1, args)
            saved = time.time()
        if done:
            break
