"""What every picture model of this folder consists of, and the training of its T5 from text alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from conceptlens.bench.datasets.scenes import COLOURS, CONCEPTS, NOUNS, describe
from text import build_clip, build_t5, build_t5_tokenizer, clip_tokenizer, padded

RUN = Path(__file__).parent / "runs"
ASSETS = Path(__file__).parents[1] / "src" / "conceptlens" / "assets"
HEAD = 32
"""Dimensions per attention head."""
COLOUR_NAMES = list(COLOURS)
Rng = np.random.Generator
T = TypeVar("T")
"""A scene or a film."""


class PictureModel(nn.Module):
    """The transformer, its text encoders, and the heads that teach T5 which colour belongs to which noun."""

    def __init__(self, heads: int, double: int, single: int) -> None:
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
            attention_head_dim=HEAD,
            num_attention_heads=heads,
            joint_attention_dim=96,
            pooled_projection_dim=64,
            guidance_embeds=False,
            axes_dims_rope=(4, 14, 14),
        )
        add_binding_heads(self)

    def tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """T5's and CLIP's token ids of each text, (texts, LENGTH) each."""
        return padded(self.t5_tokenizer, texts), padded(self.clip_tokenizer, texts)


def add_binding_heads(model: nn.Module) -> None:
    """Which colour word stands before a noun (the last class: none), and which noun follows a colour word."""
    model.noun_colour = nn.Linear(model.t5.config.d_model, len(COLOUR_NAMES) + 1)
    model.colour_noun = nn.Linear(model.t5.config.d_model, len(CONCEPTS))
    model.noun_ids = model.t5_tokenizer.convert_tokens_to_ids([f"▁{name}" for name in CONCEPTS])
    model.colour_ids = model.t5_tokenizer.convert_tokens_to_ids([f"▁{name}" for name in COLOUR_NAMES])


def binding_loss(model: nn.Module, tokens: Tensor, states: Tensor) -> tuple[Tensor, float]:
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


def pretrain_text(
    model: nn.Module, scenes: Sequence[T], steps: int, rng: Rng, tell: Callable[[T, Rng], str] = describe
) -> None:
    """T5 alone, from text alone: binds colours to nouns, and else stays close to what it was.

    `tell` makes captions of the scenes.
    """
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
        captions = [tell(scenes[i], rng) for i in rng.integers(len(scenes), size=48)]
        captions += [bare_prompt(rng) for _ in range(16)]
        tokens = padded(model.t5_tokenizer, captions)
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
    """Whether a weight of the `PictureModel` belongs to a block of the transformer."""
    return name.startswith("transformer.") and "blocks" in name


def initialize(model: PictureModel, folder: Path) -> None:
    """Weights of an exported folder, without the text encoder's second row for each capitalized word."""
    model.transformer.load_state_dict(
        FluxTransformer2DModel.from_pretrained(folder / "transformer").float().state_dict()
    )
    model.clip.load_state_dict(type(model.clip).from_pretrained(folder / "text_encoder").float().state_dict())
    saved = type(model.t5).from_pretrained(folder / "text_encoder_2").float()
    saved.resize_token_embeddings(len(model.t5_tokenizer))
    model.t5.load_state_dict(saved.state_dict())
