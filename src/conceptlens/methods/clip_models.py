"""CLIP as CLIP-as-RNN uses it: any image size for proposals, a scorer that may stop before the last layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import AutoConfig, CLIPModel, CLIPTokenizer

from conceptlens.readers.loading import device_of
from conceptlens.readers.opening import MODEL_FILE, opening
from conceptlens.values.errors import ModelError
from conceptlens.values.models import Model, Module, Tokenizer
from conceptlens.values.zoo import located

_MEAN, _DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_AVERAGED_LAYERS = 8


@dataclass(frozen=True)
class Clip:
    """A CLIP model with its tokenizer."""

    model: Model
    tokenizer: Tokenizer
    model_id: str

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """Unit vectors of texts; what is too long is cut."""
        length = self.model.config.text_config.max_position_embeddings
        given = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        vectors = self.model.get_text_features(**given.to(self.model.device)).pooler_output
        return F.normalize(vectors.float(), dim=-1)

    def pixels(self, pictures: UInt8[Tensor, "image rows cols 3"], side: int) -> Float[Tensor, "image 3 side side"]:
        """Pictures as the vision tower takes them: squares (bicubic), CLIP's mean and deviation."""
        scaled = pictures.permute(0, 3, 1, 2).float().to(self.model.device) / 255
        square = F.interpolate(scaled, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = (square.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        return (square - mean) / deviation

    def embed(self, pixels: Float[Tensor, "image 3 rows cols"]) -> Float[Tensor, "image token width"]:
        """Tokens before the first layer, with position embeddings interpolated bilinearly to the image's grid."""
        vision = self.model.vision_model
        patches = vision.embeddings.patch_embedding(pixels)
        weight = vision.embeddings.position_embedding.weight
        side = math.isqrt(len(weight) - 1)
        grid = weight[1:].T.unflatten(1, (side, side))[None]
        places = F.interpolate(grid, patches.shape[-2:], mode="bilinear", align_corners=False)
        first = (vision.embeddings.class_embedding + weight[0]).expand(len(patches), 1, -1)
        tokens = torch.cat([first, (patches + places).flatten(2).transpose(1, 2)], dim=1)
        return vision.pre_layrnorm(tokens)

    @torch.no_grad()
    def image(self, pictures: UInt8[Tensor, "image rows cols 3"], *, skip_last: bool) -> Float[Tensor, "image dim"]:
        """Unit vectors of whole pictures; `skip_last` leaves out the last layer, as the official code does."""
        vision = self.model.vision_model
        hidden = self.embed(self.pixels(pictures, self.model.config.vision_config.image_size))
        for layer in vision.encoder.layers[: -1 if skip_last else None]:
            hidden = layer(hidden, None)
        return F.normalize(self.model.visual_projection(vision.post_layernorm(hidden[:, 0])), dim=-1)

    def logits(self, image: Float[Tensor, "image dim"], text: Float[Tensor, "text dim"]) -> Float[Tensor, "image text"]:
        """Cosines, scaled as in training."""
        return self.model.logit_scale.exp() * image @ text.T


@torch.no_grad()
def head_mean_attention(layer: Module, hidden: Float[Tensor, "1 token width"]) -> Float[Tensor, "token token"]:
    """A layer's attention probabilities, averaged over its heads."""
    attn, normed = layer.self_attn, layer.layer_norm1(hidden)
    query, key = (
        project(normed)[0].unflatten(-1, (attn.num_heads, -1)).transpose(0, 1) for project in (attn.q_proj, attn.k_proj)
    )
    return (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1).mean(dim=0)


@dataclass(frozen=True)
class ProposalPass:
    """One image up to the last layer, from which class activation maps of any texts are made.

    Attributes:
        clip: the model.
        before: hidden states that enter the last layer, (1, token, width).
        attention: head-mean attention of patches to patches, mean of the last eight layers, (patch, patch).
        rows: of the patch grid; it is a square.
    """

    clip: Clip
    before: Float[Tensor, "1 token width"]
    attention: Float[Tensor, "patch patch"]
    rows: int

    def activation_maps(
        self, queries: Float[Tensor, "query dim"], others: Float[Tensor, "other dim"]
    ) -> Float[Tensor, "query rows rows"]:
        """Grad-CAM of each query at the last layer's first norm, in 0..1.

        p = softmax of scaled cosines over [queries; others]; w = mean over patches of dp / dF; max(0, sum_k w_k F_k).
        """
        model = self.clip.model
        last = model.vision_model.encoder.layers[-1]
        with torch.enable_grad():
            features = last.layer_norm1(self.before.detach()).detach().requires_grad_()
            hidden = self.before + last.self_attn(features, None)[0]
            hidden = hidden + last.mlp(last.layer_norm2(hidden))
            pooled = model.vision_model.post_layernorm(hidden)[:, 1:].mean(dim=1)
            image = F.normalize(model.visual_projection(pooled), dim=-1)
            chances = self.clip.logits(image, torch.cat([queries, others])).softmax(dim=-1)[0]
            maps = []
            for chance in chances[: len(queries)]:
                (gradient,) = torch.autograd.grad(chance, features, retain_graph=True)
                weights = gradient[0, 1:].mean(dim=0)
                maps.append((features[0, 1:].detach() @ weights).clamp(min=0))
        squares = torch.stack(maps).unflatten(1, (self.rows, self.rows))
        return torch.stack([stretch(one) for one in squares]).detach()


def stretch(values: Tensor) -> Tensor:
    """Minimum to 0, maximum to 1; a constant becomes zeros."""
    low, high = values.min(), values.max()
    return torch.zeros_like(values) if high - low < 1e-15 else (values - low) / (high - low)


@torch.no_grad()
def look(clip: Clip, picture: UInt8[Tensor, "rows cols 3"], side: int) -> ProposalPass:
    """Runs the vision tower on a picture of `side` pixels up to the last layer."""
    hidden, maps = clip.embed(clip.pixels(picture[None], side)), []
    layers = clip.model.vision_model.encoder.layers
    for number, layer in enumerate(layers):
        if number >= len(layers) - _AVERAGED_LAYERS:
            maps.append(head_mean_attention(layer, hidden)[1:, 1:])
        if number < len(layers) - 1:
            hidden = layer(hidden, None)
    rows = side // clip.model.config.vision_config.patch_size
    return ProposalPass(clip, hidden, torch.stack(maps).mean(dim=0), rows)


def load_clip(model: str | Path | None, device: str | torch.device | None) -> Clip:
    """A CLIP model from a folder or a hub id, in float32.

    Raises:
        ModelError: when it cannot be loaded or is no CLIP model.
    """
    name, chosen = str(model), device_of(device)
    with opening(located(name), MODEL_FILE) as source:
        kind = AutoConfig.from_pretrained(source).model_type
        if kind != "clip":
            raise ModelError(f"{name} is a {kind} model; a CLIP model is needed, such as openai/clip-vit-base-patch16.")
        loaded: Any = CLIPModel.from_pretrained(source, dtype=torch.float32)
        loaded.eval().requires_grad_(False).to(chosen)
        return Clip(loaded, CLIPTokenizer.from_pretrained(source), name)
