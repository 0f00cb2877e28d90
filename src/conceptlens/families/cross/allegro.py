"""Allegro: its autoencoder takes tiles of one size alone."""

from __future__ import annotations

from torch import Tensor

from conceptlens.families.cross import register
from conceptlens.families.kinds.cross_attention import CrossLayout
from conceptlens.families.kinds.latents import normalized
from conceptlens.values.models import Model


@register
class Allegro(CrossLayout):
    name = "Allegro"
    classes = ("AllegroTransformer3DModel",)
    multiple = 8

    def clean_latents(self, vae: Model, pixels: Tensor) -> Tensor:
        """The mode of the frame in the middle of a still, in one piece."""
        moments = vae.encoder(pixels[:, :, None].expand(-1, -1, vae.kernel[0], -1, -1))
        mode = vae.quant_conv(moments[:, :, moments.shape[2] // 2]).chunk(2, dim=1)[0][:, :, None]
        return normalized(vae, mode, shifted=False)
