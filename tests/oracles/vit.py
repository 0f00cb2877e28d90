"""A vision transformer written out by hand, and relevance and token contributions element by element. Slow on purpose.

Weights come in as a dictionary of float64 tensors by the names that `weights_of_vit` and `weights_of_clip` give them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

TINY = 1e-9


def weights_of_vit(state: dict[str, Tensor], heads: int, patch: int) -> dict[str, Any]:
    """From the state of a `ViTForImageClassification`."""
    names = {
        **{part: f"attention.{part}_proj" for part in "qkvo"},
        **{"norm1": "layernorm_before", "norm2": "layernorm_after", "fc1": "mlp.fc1", "fc2": "mlp.fc2"},
    }
    return {
        "blocks": _blocks(state, "vit.layers", names),
        "class": state["vit.embeddings.cls_token"][0, 0],
        "positions": state["vit.embeddings.position_embeddings"][0],
        "conv": state["vit.embeddings.patch_embeddings.projection.weight"],
        "conv_bias": state["vit.embeddings.patch_embeddings.projection.bias"],
        "final": (state["vit.layernorm.weight"], state["vit.layernorm.bias"], 1e-12),
        "head": (state["classifier.weight"], state["classifier.bias"]),
        **{"heads": heads, "patch": patch, "eps": 1e-12, "act": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))},
    }


def weights_of_clip(state: dict[str, Tensor], heads: int, patch: int) -> dict[str, Any]:
    """From the state of a `CLIPModel`."""
    names = {
        **{part: f"self_attn.{part}_proj" for part in "qkv"},
        **{
            "o": "self_attn.out_proj",
            "norm1": "layer_norm1",
            "norm2": "layer_norm2",
            "fc1": "mlp.fc1",
            "fc2": "mlp.fc2",
        },
    }
    top = "vision_model."
    return {
        "blocks": _blocks(state, "vision_model.encoder.layers", names),
        "class": state[top + "embeddings.class_embedding"],
        "positions": state[top + "embeddings.position_embedding.weight"],
        "conv": state[top + "embeddings.patch_embedding.weight"],
        "conv_bias": None,
        "pre": (state[top + "pre_layrnorm.weight"], state[top + "pre_layrnorm.bias"], 1e-5),
        "final": (state[top + "post_layernorm.weight"], state[top + "post_layernorm.bias"], 1e-5),
        "head": (state["visual_projection.weight"], None),
        **{"heads": heads, "patch": patch, "eps": 1e-5, "act": lambda x: x / (1 + math.exp(-1.702 * x))},
    }


def _blocks(state: dict[str, Tensor], stem: str, names: dict[str, str]) -> list[dict[str, tuple[Tensor, Tensor]]]:
    depth = 1 + max(int(n[len(stem) + 1 :].split(".")[0]) for n in state if n.startswith(stem + "."))
    return [
        {
            short: tuple(state[f"{stem}.{i}.{name}.{kind}"] for kind in ("weight", "bias"))
            for short, name in names.items()
        }
        for i in range(depth)
    ]  # type: ignore[misc]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def forward(w: dict[str, Any], pixels: Tensor) -> dict[str, Any]:
    """Everything on the way of pixels (3, side, side); attention matrices can be differentiated."""
    patch, side, heads = w["patch"], pixels.shape[-1], w["heads"]
    patches = []
    for top in range(0, side, patch):
        for left in range(0, side, patch):
            window = pixels[:, top : top + patch, left : left + patch]
            value = torch.stack([(window * kernel).sum() for kernel in w["conv"]])
            patches.append(value if w["conv_bias"] is None else value + w["conv_bias"])
    tokens = torch.stack([w["class"], *patches])
    x = tokens + w["positions"]
    if "pre" in w:
        x = layer_norm(x, *w["pre"])
    seen: dict[str, Any] = {"pixels": pixels, "tokens": tokens, "start": x, "blocks": []}
    for b in w["blocks"]:
        kept: dict[str, Any] = {"x": x, "normed": layer_norm(x, b["norm1"][0], b["norm1"][1], w["eps"])}
        for name in "qkv":
            kept[name] = kept["normed"] @ b[name][0].T + b[name][1]
        d = x.shape[1] // heads
        kept["A"], columns = [], []
        for h in range(heads):
            own = slice(h * d, (h + 1) * d)
            a = torch.softmax(kept["q"][:, own] @ kept["k"][:, own].T / math.sqrt(d), dim=1)
            a = a if a.requires_grad else a.requires_grad_()
            kept["A"].append(a)
            columns.append(a @ kept["v"][:, own])
        kept["context"] = torch.cat(columns, dim=1)
        kept["attended"] = kept["context"] @ b["o"][0].T + b["o"][1]
        kept["x2"] = x + kept["attended"]
        kept["normed2"] = layer_norm(kept["x2"], b["norm2"][0], b["norm2"][1], w["eps"])
        wide = kept["normed2"] @ b["fc1"][0].T + b["fc1"][1]
        kept["hidden"] = _activate(wide, w["act"])
        kept["mlp"] = kept["hidden"] @ b["fc2"][0].T + b["fc2"][1]
        x = kept["x2"] + kept["mlp"]
        seen["blocks"].append(kept)
    seen["end"], seen["token"] = x, layer_norm(x[0], *w["final"])
    head, bias = w["head"]
    seen["out"] = head @ seen["token"] + (0 if bias is None else bias)
    return seen


def _activate(x: Tensor, act: Any) -> Tensor:
    if act(1.0) > 0.843:  # QuickGELU(1) = 0.846, GELU(1) = 0.841
        return x / (1 + torch.exp(-1.702 * x))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def divide(a: float, b: float) -> float:
    """a / b as the published code has it."""
    if b == 0:
        return 0.0
    return a / (max(b, TINY) + min(b, TINY) or TINY)


def linear(r: Tensor, x: Tensor, weight: Tensor, joint: bool) -> Tensor:
    """Relevance of the rows of x, one product at a time."""
    made = torch.zeros_like(x)
    for t in range(x.shape[0]):
        for o in range(weight.shape[0]):
            if r[t, o] == 0:
                continue
            row, given = weight[o].tolist(), x[t].tolist()
            above = [xi * wi if xi > 0 and wi > 0 else 0.0 for xi, wi in zip(given, row, strict=True)]
            below = [xi * wi if xi < 0 and wi < 0 else 0.0 for xi, wi in zip(given, row, strict=True)]
            if joint:
                both = divide(float(r[t, o]), sum(above) + sum(below))
                shares = [both * (p + n) for p, n in zip(above, below, strict=True)]
            else:
                s1, s2 = divide(float(r[t, o]), sum(above)), divide(float(r[t, o]), sum(below))
                shares = [s1 * p + s2 * n for p, n in zip(above, below, strict=True)]
            made[t] += torch.tensor(shares, dtype=x.dtype)
    return made


def product(r: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    of_a, of_b = torch.zeros_like(a), torch.zeros_like(b)
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            s = divide(float(r[i, j]), float(a[i] @ b[:, j]))
            for m in range(a.shape[1]):
                share = float(a[i, m] * b[m, j]) * s / 2
                of_a[i, m] += share
                of_b[m, j] += share
    return of_a, of_b


def addition(r: Tensor, a: Tensor, b: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
    of_a, of_b = torch.zeros_like(a), torch.zeros_like(b)
    for t in range(a.shape[0]):
        for i in range(a.shape[1]):
            s = divide(float(r[t, i]), float(a[t, i] + b[t, i]))
            of_a[t, i], of_b[t, i] = float(a[t, i]) * s, float(b[t, i]) * s
    if joint:
        total, sum_a, sum_b = float(r.sum()), float(of_a.sum()), float(of_b.sum())
        size = abs(sum_a) + abs(sum_b)
        of_a = of_a * divide(divide(abs(sum_a), size) * total, sum_a)
        of_b = of_b * divide(divide(abs(sum_b), size) * total, sum_b)
    return of_a, of_b


def relevance(w: dict[str, Any], seen: dict[str, Any], start: Tensor, joint: bool) -> dict[str, Any]:
    """Attention relevance of every block, and of the pixels, from the relevance of the output (out,)."""
    r = torch.zeros_like(seen["end"])
    r[0] = linear(start[None], seen["token"][None], w["head"][0], joint)[0]
    d, made = r.shape[1] // w["heads"], []
    for b, kept in zip(reversed(w["blocks"]), reversed(seen["blocks"]), strict=True):
        kept: dict[str, Any] = {n: [a.detach() for a in t] if n == "A" else t.detach() for n, t in kept.items()}
        skip, r = addition(r, kept["x2"], kept["mlp"], joint)
        r = linear(r, kept["hidden"], b["fc2"][0], joint)
        r = skip + linear(r, kept["normed2"], b["fc1"][0], joint)
        skip, r = addition(r, kept["x"], kept["attended"], joint)
        r = linear(r, kept["context"], b["o"][0], joint)
        of = {name: torch.zeros_like(kept["q"]) for name in "qkv"}
        by_head = []
        for h in range(w["heads"]):
            own = slice(h * d, (h + 1) * d)
            of_a, of["v"][:, own] = product(r[:, own], kept["A"][h], kept["v"][:, own])
            of["q"][:, own], of_kt = product(of_a, kept["q"][:, own], kept["k"][:, own].T)
            of["k"][:, own] = of_kt.T
            by_head.append(of_a)
        made.insert(0, torch.stack(by_head))
        r = skip + sum(linear(of[name], kept["normed"], b[name][0], joint) for name in "qkv")
    of_tokens, _ = addition(r, seen["tokens"], w["positions"], joint)
    return {"A": made, "pixels": _to_pixels(w, seen["pixels"], of_tokens[1:])}


def _to_pixels(w: dict[str, Any], pixels: Tensor, r: Tensor) -> Tensor:
    """z^B: each pixel's share of x w - low w+ - high w-."""
    made, patch, low, high = torch.zeros_like(pixels), w["patch"], float(pixels.min()), float(pixels.max())
    across = pixels.shape[-1] // patch
    for n in range(r.shape[0]):
        top, left = n // across * patch, n % across * patch
        window = pixels[:, top : top + patch, left : left + patch]
        for o, kernel in enumerate(w["conv"]):
            share = window * kernel - low * kernel.clamp(min=0) - high * kernel.clamp(max=0)
            made[:, top : top + patch, left : left + patch] += share * float(r[n, o]) / (float(share.sum()) + TINY)
    return made


def transinterp(w: dict[str, Any], seen: dict[str, Any], score: Tensor, by_block: list[Tensor], first: int) -> Tensor:
    """Row 0 of the product of I + mean_h (gradient x relevance)+ over the blocks from `first` on, without itself."""
    joint = torch.eye(seen["end"].shape[0], dtype=torch.float64)
    for number in range(first, len(w["blocks"])):
        gradients = torch.autograd.grad(score, seen["blocks"][number]["A"], retain_graph=True)
        mean = torch.zeros_like(joint)
        for h, gradient in enumerate(gradients):
            mean += (gradient * by_block[number][h]).clamp(min=0) / len(gradients)
        joint = (torch.eye(len(mean), dtype=torch.float64) + mean) @ joint
    return joint[0, 1:]


def contributions(w: dict[str, Any], seen: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """z / |z| in parts: one per image token (class token first), and one per MLP and for the embedding."""
    depth, length, end = len(w["blocks"]), seen["end"].shape[0], seen["end"][0]
    terms, (gamma, beta, eps) = 2 * depth + 1, w["final"]
    mu = end.mean()
    sigma = torch.sqrt((end**2).mean() - mu**2 + eps)
    z = seen["out"]

    def through(part: Tensor, share: float) -> Tensor:
        return w["head"][0] @ ((part - share * mu) * gamma / sigma + share * beta) / z.norm()

    d, tokens = len(end) // w["heads"], []
    for n in range(length):
        u = torch.zeros_like(end)
        for b, kept in zip(w["blocks"], seen["blocks"], strict=True):
            for h in range(w["heads"]):
                own = slice(h * d, (h + 1) * d)
                u += kept["A"][h][0, n] * (b["o"][0][:, own] @ kept["v"][n, own])
            u += b["o"][1] / length
        tokens.append(through(u, depth / (terms * length)))
    rest = [through(kept["mlp"][0], 1 / terms) for kept in seen["blocks"]]
    return tokens, [*rest, through(seen["start"][0], 1 / terms)]
