"""Stage 2: the transformer and its text encoders, by flow matching and questions about the picture.

    python training/train_dit.py --steps 20000            # again with --resume after an interruption

Every step trains two things on the same noisy picture. The *image* and *prompt* streams learn to paint (flow
matching). The *concept stream*, which reads the image one-directionally through the text stream's own weights, is
asked questions about nouns that are in the picture and nouns that are not: is it there, which colour has it, where is
its centre, how large is it? Linear heads answer; they are thrown away afterwards. No mask is ever shown.

The T5 encoder also learns which colour word belongs to which noun, from text alone (`binding_loss`). FLUX.1's text
tokens carry no positions of their own, so what T5 does not bind, the transformer cannot: trained by flow matching only,
a noun in a two-object prompt told its colour to a linear probe in 40% of cases, and the colours of a picture leaked.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from conceptlens.bench.datasets.scenes import CONCEPTS, Scene, describe
from conceptlens.ops.precision import cpu_dtype
from flux_streams import Streams
from picture_model import COLOUR_NAMES, HEAD, RUN, PictureModel, binding_loss, in_blocks, initialize, pretrain_text
from scene_data import load_scenes
from steps import follow, optimizers, resume, save, set_rate


class DemoModel(PictureModel):
    """A picture model with the heads of the questions."""

    def __init__(self, heads: int, double: int, single: int) -> None:
        super().__init__(heads, double, single)
        width = HEAD * heads
        self.presence, self.colour = nn.Linear(width, 1), nn.Linear(width, len(COLOUR_NAMES))
        self.place, self.area = nn.Linear(width, 2), nn.Linear(width, 1)


@dataclass
class Questions:
    """Concepts asked of one batch, with the answers. (batch, asked) each, -100 where a question makes no sense."""

    concepts: Tensor
    present: Tensor
    colour: Tensor
    place: Tensor
    area: Tensor


def ask(rng: np.random.Generator, facts: list[dict[str, tuple]], asked: int) -> Questions:
    """For each picture, `asked` nouns in random order: most that are there, then others that are not."""
    batch = len(facts)
    concepts = torch.zeros(batch, asked, dtype=torch.long)
    present = torch.zeros(batch, asked)
    colour = torch.full((batch, asked), -100)
    place, area = torch.zeros(batch, asked, 2), torch.zeros(batch, asked)
    for row, fact in enumerate(facts):
        there = [c for c in fact if rng.random() < 0.85]
        absent = [c for c in CONCEPTS if c not in fact]
        rng.shuffle(there)
        rng.shuffle(absent)
        there = there[: max(1, asked - 1)]
        chosen = (there + absent)[:asked]
        rng.shuffle(chosen)
        for column, name in enumerate(chosen):
            concepts[row, column] = CONCEPTS.index(name)
            if name in fact:
                present[row, column] = 1
                tint, x, y, size = fact[name]
                colour[row, column] = tint
                place[row, column] = torch.tensor([x, y])
                area[row, column] = size
    return Questions(concepts, present, colour, place, area)


def scene_facts(scene: Scene, flipped: bool) -> dict[str, tuple]:
    """concept -> (colour index or -100, centre x and y in -1..1, square root of its share of the picture)."""
    colours = {o.noun: COLOUR_NAMES.index(o.colour) for o in scene.objects}
    facts = {}
    for index, name in enumerate(scene.concepts):
        y, x = np.nonzero(scene.labels == index)
        centre = (x.mean() / 31.5 - 1) * (-1 if flipped else 1)
        share = math.sqrt(len(x) / scene.labels.size)
        facts[name] = (colours.get(name, -100), centre, y.mean() / 31.5 - 1, share)
    return facts


def question_loss(model: DemoModel, states: Tensor, asked: Questions, weight: Tensor) -> tuple[Tensor, dict]:
    states = states.float()
    weight = weight[:, None].expand_as(asked.present)
    presence = model.presence(states)[..., 0]
    loss = (F.binary_cross_entropy_with_logits(presence, asked.present, reduction="none") * weight).mean()
    there = asked.present > 0
    coloured = asked.colour >= 0
    colour = model.colour(states)[coloured]
    loss = loss + (F.cross_entropy(colour, asked.colour[coloured], reduction="none") * weight[coloured]).mean()
    miss = (torch.tanh(model.place(states)) - asked.place)[there].abs().mean(-1)
    size = (torch.sigmoid(model.area(states)[..., 0]) - asked.area)[there].abs()
    loss = loss + 2 * ((miss + size) * weight[there]).mean()
    answers = {
        "present": ((presence > 0) == there).float().mean().item(),
        "colour": (colour.argmax(-1) == asked.colour[coloured]).float().mean().item(),
        "place": miss.mean().item(),
    }
    return loss, answers


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=32000)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--double", type=int, default=6)
    parser.add_argument("--single", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--matrix-rate", type=float, default=2.0, help="Muon's rate, as a multiple of --rate")
    parser.add_argument("--question-weight", type=float, default=0.1)
    parser.add_argument("--binding-weight", type=float, default=0.1)
    parser.add_argument("--text-steps", type=int, default=1000, help="steps of T5 alone, before the first of all")
    parser.add_argument("--time-shift", type=float, default=1.6, help="above 0: more training at high noise")
    parser.add_argument("--optimizer", choices=["adamw", "muon"], default="muon")
    parser.add_argument("--compile", action="store_true", help="15% faster on a CPU, after a minute of compiling")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--init", type=Path, help="start from the weights of an exported folder; the heads start anew")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop (with a checkpoint) after so long")
    parser.add_argument("--name", default="dit")
    return parser.parse_args()


def losses(
    model: DemoModel,
    streams: Streams,
    clean: Tensor,
    captions: list[str],
    asked: Questions | None,
    args: argparse.Namespace,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch, and what to print of it."""
    # Where things go is decided at high noise (t of 0.8 and more), so painting is trained most there; questions are
    # asked at all levels.
    moment = torch.sigmoid(torch.randn(args.batch) if asked else 1.2 * torch.randn(args.batch) + args.time_shift)
    noise = torch.randn_like(clean)
    noisy = torch.lerp(clean, noise, moment[:, None, None])
    t5_ids, clip_ids = model.tokens(captions)
    nouns = model.tokens(list(CONCEPTS))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_dtype() == torch.bfloat16):
        text = model.t5(t5_ids).last_hidden_state
        pooled = model.clip(clip_ids).pooler_output * (torch.rand(args.batch, 1) < 0.5)
        words = model.t5(nouns).last_hidden_state[:, 0][asked.concepts] if asked else None
        velocity, _, states = streams(noisy, moment, text, pooled, words)
    flow = (velocity.float() - (noise - clean)).square().mean()
    bound, right = binding_loss(model, t5_ids, text)
    loss, answers = flow + args.binding_weight * bound, {"bound": right}
    if asked:
        questions, more = question_loss(model, states, asked, 1 - moment)
        loss, answers = loss + args.question_weight * questions, {**answers, **more}
    return loss, {"flow": flow.item(), **answers}


def main() -> None:
    args = arguments()
    checkpoint = RUN / f"{args.name}.pt"
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    scenes, latents = load_scenes(args.scenes, AutoencoderKL.from_pretrained(RUN / "vae"))
    print(f"{len(scenes)} scenes, latents {tuple(latents.shape)}", flush=True)
    facts = [[scene_facts(s, flip) for flip in (False, True)] for s in scenes]
    model = DemoModel(args.heads, args.double, args.single)
    print(f"{sum(p.numel() for p in model.transformer.parameters()) / 1e6:.2f}M transformer weights", flush=True)
    streams = Streams(model.transformer, args.compile)
    if args.init:
        initialize(model, args.init)
    if not (args.resume and checkpoint.exists()):
        pretrain_text(model, scenes, args.text_steps, rng)
    average = copy.deepcopy(model).requires_grad_(False)
    solvers = optimizers(model, args.rate, lambda name: args.optimizer == "muon" and in_blocks(name))
    start = 0
    if args.resume and checkpoint.exists():
        start = resume(checkpoint, model, average, solvers)
        rng = np.random.default_rng(start)
    running: dict[str, float] = {}
    began = time.time()
    for step in range(start, args.steps):
        set_rate(solvers, args, step, step / args.steps)
        picked, flips = torch.randint(len(scenes), (args.batch,)), torch.randint(2, (args.batch,))
        clean = latents[picked, flips].float()
        captions = [describe(scenes[i], rng) for i in picked.tolist()]
        count = int(rng.choice([0, 3, 6], p=[0.7, 0.15, 0.15]))
        shown = [facts[i][f] for i, f in zip(picked.tolist(), flips.tolist(), strict=True)]
        asked = ask(rng, shown, count) if count else None
        loss, answers = losses(model, streams, clean, captions, asked, args)
        for solver in solvers:
            solver.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for solver in solvers:
            solver.step()
        follow(average, model, step, 0.9995)
        for name, value in answers.items():
            old = running.get(name, value)
            running[name] = old if math.isnan(value) else 0.98 * old + 0.02 * value
        if step % 100 == 0:
            pace = (time.time() - began) / (step - start + 1)
            print(f"{step:6d} " + "  ".join(f"{k} {v:.3f}" for k, v in running.items()) + f"  {pace:.3f} s", flush=True)
        done = step == args.steps - 1 or time.time() - began > args.seconds
        if step % 500 == 499 or done:
            save(checkpoint, model, average, solvers, step + 1, args)
        if done:
            break


if __name__ == "__main__":
    main()
