"""JoyImage-Edit and JoyImage-Edit Plus: dual-stream blocks; the pictures to edit follow the painted one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conceptlens.families import register
from conceptlens.families.groups import DUAL
from conceptlens.families.kinds.by_pipeline import EnteredAdapter
from conceptlens.families.kinds.layouts import Blocks, Layout
from conceptlens.values.models import Config
from conceptlens.values.records import TokenGrid

_BLOCKS = Blocks("double_blocks", out="img_attn_proj", text_out="txt_attn_proj")


class _JoyLayout(Layout):
    def grid(self, config: Config, arguments: Mapping[str, Any]) -> TokenGrid:
        """A picture; the pictures it is made from follow it as further frames."""
        *_, frames, height, width = arguments[self.latents].shape
        deep, rows, cols = config.patch_size
        return TokenGrid(height // rows, width // cols, frames // deep if frames > deep else None)


@register
class JoyImageEdit(EnteredAdapter):
    name = "JoyImage-Edit"
    classes = ("JoyImageEditTransformer3DModel",)
    group = DUAL
    layout = _JoyLayout(_BLOCKS)


class _JoyPlusLayout(Layout):
    def grid(self, config: Config, arguments: Mapping[str, Any]) -> TokenGrid:
        frames, rows, cols = arguments["shape_list"][0][0]
        return TokenGrid(rows, cols, frames if frames > 1 else None)


@register
class JoyImageEditPlus(EnteredAdapter):
    name = "JoyImage-Edit Plus"
    classes = ("JoyImageEditPlusTransformer3DModel",)
    group = DUAL
    layout = _JoyPlusLayout(_BLOCKS, masks=("encoder_hidden_states_mask",))
