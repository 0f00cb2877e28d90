"""A plain vision transformer by the names of the original DINO and iBOT code, one token at a time. Slow on purpose."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-6


def random_weights(width: int = 16, depth: int = 2, patch: int = 4, side: int = 16) -> dict[str, Tensor]:
    """Weights as an original checkpoint has them, the mask token and the training head included."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, (side // patch) ** 2 + 1, width),
        "masked_embed": (1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.mlp.0.weight": (7, width),
    }
    for i in range(depth):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (width,), f"blocks.{i}.{norm}.bias": (width,)}
        for layer, out, into in (
            *(("attn.qkv", 3 * width, width), ("attn.proj", width, width)),
            *(("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width)),
        ):
            shapes |= {f"blocks.{i}.{layer}.weight": (out, into), f"blocks.{i}.{layer}.bias": (out,)}
    random = torch.Generator().manual_seed(11)
    return {name: 0.3 * torch.randn(shape, generator=random) for name, shape in shapes.items()}


def _norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    mean = x.mean()
    return (x - mean) / math.sqrt(float(((x - mean) ** 2).mean()) + EPS) * w[name + ".weight"] + w[name + ".bias"]


def _linear(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return w[name + ".weight"] @ x + w[name + ".bias"]


def _gelu(x: Tensor) -> Tensor:
    return torch.tensor([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()], dtype=x.dtype)


def forward(weights: dict[str, Tensor], pixels: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Of pixels (3, side, side): the normed tokens, and the last block's class token attention (head, token)."""
    w = {name: weight.double() for name, weight in weights.items()}
    patch, side = w["patch_embed.proj.weight"].shape[-1], pixels.shape[-1]
    tokens = [w["cls_token"][0, 0]]
    for top in range(0, side, patch):
        for left in range(0, side, patch):
            window = pixels[:, top : top + patch, left : left + patch].double().flatten()
            tokens.append(w["patch_embed.proj.weight"].flatten(1) @ window + w["patch_embed.proj.bias"])
    tokens = [token + place for token, place in zip(tokens, w["pos_embed"][0], strict=True)]
    width, depth = len(tokens[0]), 1 + max(int(n.split(".")[1]) for n in w if n.startswith("blocks."))
    d, row = width // heads, torch.zeros(heads, len(tokens), dtype=torch.float64)
    for i in range(depth):
        stem = f"blocks.{i}."
        fused = [_linear(_norm(token, w, stem + "norm1"), w, stem + "attn.qkv") for token in tokens]
        mixed = [torch.zeros(width, dtype=torch.float64) for _ in tokens]
        for h in range(heads):
            q, k, v = ([f[part * width + h * d :][:d] for f in fused] for part in range(3))
            for t, query in enumerate(q):
                powers = [math.exp(float(query @ key) / math.sqrt(d)) for key in k]
                for n, power in enumerate(powers):
                    mixed[t][h * d : (h + 1) * d] += power / sum(powers) * v[n]
                    if t == 0:
                        row[h, n] = power / sum(powers)
        tokens = [token + _linear(m, w, stem + "attn.proj") for token, m in zip(tokens, mixed, strict=True)]
        wide = [_gelu(_linear(_norm(token, w, stem + "norm2"), w, stem + "mlp.fc1")) for token in tokens]
        tokens = [token + _linear(x, w, stem + "mlp.fc2") for token, x in zip(tokens, wide, strict=True)]
    return torch.stack([_norm(token, w, "norm") for token in tokens]), row
