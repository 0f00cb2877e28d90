"""Adds single-stream blocks to a checkpoint of `train_neutral.py`: they change nothing until they are trained.

python training/deepen.py --name neutral --single 3      # then train_neutral.py --single 3 --resume
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.optim import Optimizer

from picture_model import RUN, in_blocks
from steps import optimizers
from train_neutral import CaptionModel


def solver_names(model: nn.Module, solvers: list[Optimizer]) -> list[list[str]]:
    """The names of each solver's weights, in its order."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [[names[id(weight)] for group in solver.param_groups for weight in group["params"]] for solver in solvers]


def deepen(saved: dict, single: int) -> dict:
    """A checkpoint of the same function with `single` blocks; what its solvers know of the old weights is kept."""
    args = argparse.Namespace(**saved["args"])
    old, new = CaptionModel(args.heads, args.double, args.single), CaptionModel(args.heads, args.double, single)
    for block in new.transformer.single_transformer_blocks[args.single :]:
        nn.init.zeros_(block.proj_out.weight)
        nn.init.zeros_(block.proj_out.bias)
    old_solvers, new_solvers = (
        optimizers(model, args.rate, lambda name: args.optimizer == "muon" and in_blocks(name)) for model in (old, new)
    )
    solvers = []
    for solver, before, old_names, new_names in zip(
        new_solvers,
        saved["solvers"],
        solver_names(old, old_solvers),
        solver_names(new, new_solvers),
        strict=True,
    ):
        state = solver.state_dict()
        known = {old_names[index]: value for index, value in before["state"].items()}
        state["state"] = {index: known[name] for index, name in enumerate(new_names) if name in known}
        solvers.append(state)
    fresh = new.state_dict()
    return saved | {
        "model": fresh | saved["model"],
        "average": fresh | saved["average"],
        "solvers": solvers,
        "args": saved["args"] | {"single": single},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="neutral")
    parser.add_argument("--single", type=int, required=True)
    args = parser.parse_args()
    path = RUN / f"{args.name}.pt"
    if not path.exists():
        parser.error(f"no checkpoint {path}. Train one with train_neutral.py --name {args.name}.")
    saved = torch.load(path, weights_only=False)
    if args.single <= (there := saved["args"]["single"]):
        parser.error(f"--single must be above {there}, the blocks that {path} has; got {args.single}.")
    torch.save(deepen(saved, args.single), path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


if __name__ == "__main__":
    main()
