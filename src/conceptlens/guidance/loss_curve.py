"""A loss curve, drawn without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from conceptlens.maps.pictures import INK, PAPER, palette

_SIZE, _LEFT, _TOP, _RIGHT, _FOOT = (420, 256), 64, 30, 14, 40


def loss_curve(losses: Sequence[float], steps: Sequence[int]) -> Image.Image:
    """The loss before the last update of each guided step, over the step's number."""
    picture = Image.new("RGB", _SIZE, PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    finite = [v for v in losses if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    wide, tall = max(1, steps[-1] - steps[0]), max(high - low, 1e-9)
    across, down = _SIZE[0] - _LEFT - _RIGHT, _SIZE[1] - _TOP - _FOOT
    points = [
        (_LEFT + (step - steps[0]) / wide * across, _TOP + (high - value) / tall * down)
        for step, value in zip(steps, losses, strict=True)
        if math.isfinite(value)
    ]
    colour = tuple(palette(2)[1].tolist())
    pen.line([(_LEFT, _TOP), (_LEFT, _TOP + down), (_LEFT + across, _TOP + down)], fill=INK)
    if len(points) > 1:
        pen.line(points, fill=colour, width=2)
    for x, y in points:
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
    pen.text((_LEFT, 6), "guidance loss by denoising step", fill=INK, font=font)
    for value, y in ((high, _TOP), (low, _TOP + down)):
        pen.text((6, y - 8), f"{value:.4g}", fill=INK, font=font)
    for step, x in ((steps[0], _LEFT), (steps[-1], _LEFT + across - 14)):
        pen.text((x, _TOP + down + 8), str(step), fill=INK, font=font)
    return picture
