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
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from conceptlens.bench.datasets.scenes import COLOURS, CONCEPTS, NOUNS, Scene, describe
from conceptlens.ops.precision import cpu_dtype
from scene_data import load_scenes
from steps import follow, optimizers, resume, save, set_rate
from text import LENGTH, build_clip, build_t5, build_t5_tokenizer, clip_tokenizer

RUN = Path(__file__).parent / "runs"
ASSETS = Path(__file__).parents[1] / "src" / "conceptlens" / "assets"
GRID = 16
COLOUR_NAMES = list(COLOURS)


class DemoModel(nn.Module):
    """What is trained together: text encoders, transformer, and the heads of the questions."""

    def __init__(self, width_heads: int, double: int, single: int) -> None:
        super().__init__()
        self.t5_tokenizer = build_t5_tokenizer()
        self.clip_tokenizer = clip_tokenizer(ASSETS / "demo" / "tokenizer")
        self.t5 = build_t5(len(self.t5_tokenizer))
        self.clip = build_clip(self.clip_tokenizer)
        self.transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=32,
            num_attention_heads=width_heads,
            joint_attention_dim=96,
            pooled_projection_dim=64,
            guidance_embeds=False,
            axes_dims_rope=(4, 14, 14),
        )
        width = 32 * width_heads
        self.presence, self.colour = nn.Linear(width, 1), nn.Linear(width, len(COLOUR_NAMES))
        self.place, self.area = nn.Linear(width, 2), nn.Linear(width, 1)
        # Which colour word stands before a noun (the last class: none), and which noun follows a colour word.
        self.noun_colour = nn.Linear(self.t5.config.d_model, len(COLOUR_NAMES) + 1)
        self.colour_noun = nn.Linear(self.t5.config.d_model, len(CONCEPTS))
        self.noun_ids = self.t5_tokenizer.convert_tokens_to_ids([f"▁{name}" for name in CONCEPTS])
        self.colour_ids = self.t5_tokenizer.convert_tokens_to_ids([f"▁{name}" for name in COLOUR_NAMES])

    def tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        pad = {"padding": "max_length", "max_length": LENGTH, "truncation": True, "return_tensors": "pt"}
        return self.t5_tokenizer(texts, **pad).input_ids, self.clip_tokenizer(texts, **pad).input_ids


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Plain attention: at this size twice as fast on a CPU, forward and backward, as the fused kernel."""
    with torch.autocast("cpu", enabled=False):
        q, k, v = (t.to(value.dtype).transpose(1, 2).contiguous() for t in (query, key, value))
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)


def text_heads(attn: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (
        p(hidden).unflatten(-1, (-1, attn.head_dim)) for p in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
    )
    return attn.norm_added_q(query), attn.norm_added_k(key), value


def text_residual(block: nn.Module, hidden: Tensor, out: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
    gate, shift, scale, gate_mlp = modulation
    hidden = hidden + gate.unsqueeze(1) * block.attn.to_add_out(out)
    normed = block.norm2_context(hidden) * (1 + scale[:, None]) + shift[:, None]
    return hidden + gate_mlp.unsqueeze(1) * block.ff_context(normed)


def joint_block(
    block: nn.Module,
    image: Tensor,
    text: Tensor,
    concepts: Tensor | None,
    temb: Tensor,
    concept_temb: Tensor,
    rope: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One FLUX.1 double block for image and text (as diffusers computes it), plus the concept stream beside it."""
    attn, length = block.attn, text.shape[1]
    image_normed, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1(image, emb=temb)
    text_normed, *text_mod = block.norm1_context(text, emb=temb)
    query, key, value = (p(image_normed).unflatten(-1, (-1, attn.head_dim)) for p in (attn.to_q, attn.to_k, attn.to_v))
    text_q, text_k, text_v = text_heads(attn, text_normed)
    image_k = apply_rotary_emb(attn.norm_k(key), rope, sequence_dim=1)
    image_q = apply_rotary_emb(attn.norm_q(query), rope, sequence_dim=1)
    joint = attend(
        torch.cat([text_q.to(image_q.dtype), image_q], 1),
        torch.cat([text_k.to(image_k.dtype), image_k], 1),
        torch.cat([text_v, value], 1),
    )
    image = image + gate.unsqueeze(1) * attn.to_out[0](joint[:, length:])
    normed = block.norm2(image) * (1 + scale_mlp[:, None]) + shift_mlp[:, None]
    image = image + gate_mlp.unsqueeze(1) * block.ff(normed)
    text = text_residual(block, text, joint[:, :length], tuple(text_mod))
    if concepts is not None:
        normed, *modulation = block.norm1_context(concepts, emb=concept_temb)
        concept_q, concept_k, concept_v = text_heads(attn, normed)
        keys = torch.cat([concept_k.to(image_k.dtype), image_k], 1)
        out = attend(concept_q, keys, torch.cat([concept_v, value], 1))
        concepts = text_residual(block, concepts, out, tuple(modulation))
    return image, text, concepts


def single_block(block: nn.Module, tokens: Tensor, temb: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    attn = block.attn
    normed, gate = block.norm(tokens, emb=temb)
    query, key, value = (p(normed).unflatten(-1, (-1, attn.head_dim)) for p in (attn.to_q, attn.to_k, attn.to_v))
    query = apply_rotary_emb(attn.norm_q(query), rope, sequence_dim=1)
    key = apply_rotary_emb(attn.norm_k(key), rope, sequence_dim=1)
    out = torch.cat([attend(query, key, value), block.act_mlp(block.proj_mlp(normed))], 2)
    return tokens + gate.unsqueeze(1) * block.proj_out(out)


class Streams(nn.Module):
    """FLUX.1's forward with the concept stream: (velocity, concept states). Equal to diffusers' own forward."""

    def __init__(self, transformer: FluxTransformer2DModel, compiled: bool = False) -> None:
        super().__init__()
        self.transformer = transformer
        self.joint = torch.compile(joint_block, dynamic=False) if compiled else joint_block
        self.single = torch.compile(single_block, dynamic=False) if compiled else single_block
        rows, cols = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
        ids = torch.stack([torch.zeros(GRID, GRID), rows, cols], -1).flatten(0, 1).float()
        cos, sin = transformer.pos_embed(ids)
        text_cos, text_sin = transformer.pos_embed(torch.zeros(LENGTH, 3))
        self.rope = (cos, sin)
        self.joint_rope = (torch.cat([text_cos, cos]), torch.cat([text_sin, sin]))

    def forward(
        self, noisy: Tensor, time: Tensor, text: Tensor, pooled: Tensor, concepts: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        model = self.transformer
        temb = model.time_text_embed(time * 1000, pooled)
        concept_temb = model.time_text_embed(time * 1000, torch.zeros_like(pooled))
        image, text = model.x_embedder(noisy), model.context_embedder(text)
        concepts = None if concepts is None else model.context_embedder(concepts)
        for block in model.transformer_blocks:
            image, text, concepts = self.joint(block, image, text, concepts, temb, concept_temb, self.rope)
        tokens = torch.cat([text, image], 1)
        for block in model.single_transformer_blocks:
            tokens = self.single(block, tokens, temb, self.joint_rope)
        return model.proj_out(model.norm_out(tokens[:, LENGTH:], temb)), concepts


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


def binding_loss(model: DemoModel, tokens: Tensor, states: Tensor) -> tuple[Tensor, float]:
    """How well T5's states at nouns know the colour word before them, and those at colour words the noun after."""
    nouns = torch.full((model.t5.config.vocab_size,), -100)
    nouns[model.noun_ids] = torch.arange(len(CONCEPTS))
    colours = torch.full_like(nouns, len(COLOUR_NAMES))
    colours[model.colour_ids] = torch.arange(len(COLOUR_NAMES))
    before, after = tokens.roll(1, 1), tokens.roll(-1, 1)
    at_noun = nouns[tokens] >= 0
    at_colour = (colours[tokens] < len(COLOUR_NAMES)) & (nouns[after] >= 0)
    said = model.noun_colour(states[at_noun].float())
    loss = F.cross_entropy(said, colours[before][at_noun])
    if at_colour.any():
        loss = loss + F.cross_entropy(model.colour_noun(states[at_colour].float()), nouns[after][at_colour])
    named = colours[before][at_noun] < len(COLOUR_NAMES)
    return loss, (said.argmax(-1) == colours[before][at_noun])[named].float().mean().item()


def pretrain_text(model: DemoModel, scenes: list[Scene], steps: int, rng: np.random.Generator) -> None:
    """T5 alone, from text alone: binds colours to nouns, and else stays close to what it was."""
    before = copy.deepcopy(model.t5).requires_grad_(False)
    # Positions come into T5 by a small table alone, whose entries have a long way to go: twenty times the rate.
    table = model.t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    others = [p for p in model.t5.parameters() if p is not table]
    others += [*model.noun_colour.parameters(), *model.colour_noun.parameters()]
    groups = [{"params": others, "scale": 1}, {"params": [table], "scale": 20, "weight_decay": 0.0}]
    solver = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for step in range(steps):
        for group in solver.param_groups:
            group["lr"] = 2e-3 * group["scale"] * min(1, (step + 1) / 50) * (1 - step / steps)
        captions = [describe(scenes[i], rng) for i in rng.integers(len(scenes), size=48)]
        captions += [bare_prompt(rng) for _ in range(16)]
        tokens = model.tokens(captions)[0]
        states = model.t5(tokens).last_hidden_state
        bound, right = binding_loss(model, tokens, states)
        loss = bound + (states - before(tokens).last_hidden_state).square().mean()
        solver.zero_grad()
        loss.backward()
        solver.step()
        if step % 200 == 0 or step == steps - 1:
            print(f"text {step:5d} loss {loss.item():.3f} bound {bound.item():.3f} right {right:.3f}", flush=True)


def bare_prompt(rng: np.random.Generator) -> str:
    """Two or three coloured objects, joined by "and": "a red house and a blue boat"."""
    nouns = rng.choice(NOUNS, int(rng.integers(2, 4)), replace=False)
    return " and ".join(f"a {rng.choice(COLOUR_NAMES)} {noun}" for noun in nouns)


def in_blocks(name: str) -> bool:
    """Whether a weight of the `DemoModel` belongs to a block of the transformer."""
    return name.startswith("transformer.") and "blocks" in name


def initialize(model: DemoModel, folder: Path) -> None:
    """Weights of an exported folder, without the text encoder's second row for each capitalized word."""
    model.transformer.load_state_dict(
        FluxTransformer2DModel.from_pretrained(folder / "transformer").float().state_dict()
    )
    model.clip.load_state_dict(type(model.clip).from_pretrained(folder / "text_encoder").float().state_dict())
    saved = type(model.t5).from_pretrained(folder / "text_encoder_2").float()
    saved.resize_token_embeddings(len(model.t5_tokenizer))
    model.t5.load_state_dict(saved.state_dict())


def main() -> None:
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
    args = parser.parse_args()

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

    nouns = model.tokens(list(CONCEPTS))[0]
    running: dict[str, float] = {}
    began = time.time()
    for step in range(start, args.steps):
        set_rate(solvers, args, step, step / args.steps)
        picked, flips = torch.randint(len(scenes), (args.batch,)), torch.randint(2, (args.batch,))
        clean = latents[picked, flips].float()
        captions = [describe(scenes[i], rng) for i in picked.tolist()]
        count = int(rng.choice([0, 3, 6], p=[0.7, 0.15, 0.15]))
        asked = None
        if count:
            asked = ask(rng, [facts[i][f] for i, f in zip(picked.tolist(), flips.tolist(), strict=True)], count)
        # Where things go is decided at high noise (t of 0.8 and more), so painting is trained most there; questions are
        # asked at all levels.
        moment = torch.sigmoid(torch.randn(args.batch) if count else 1.2 * torch.randn(args.batch) + args.time_shift)
        noise = torch.randn_like(clean)
        noisy = torch.lerp(clean, noise, moment[:, None, None])
        t5_ids, clip_ids = model.tokens(captions)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cpu_dtype() == torch.bfloat16):
            text = model.t5(t5_ids).last_hidden_state
            pooled = model.clip(clip_ids).pooler_output * (torch.rand(args.batch, 1) < 0.5)
            words = model.t5(nouns).last_hidden_state[:, 0][asked.concepts] if asked else None
            velocity, states = streams(noisy, moment, text, pooled, words)
        flow = (velocity.float() - (noise - clean)).square().mean()
        bound, right = binding_loss(model, t5_ids, text)
        loss, answers = flow + args.binding_weight * bound, {"bound": right}
        if asked:
            questions, more = question_loss(model, states, asked, 1 - moment)
            loss, answers = loss + args.question_weight * questions, {**answers, **more}
        for solver in solvers:
            solver.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for solver in solvers:
            solver.step()
        follow(average, model, step, 0.9995)
        for name, value in {"flow": flow.item(), **answers}.items():
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
