"""When a concept is in a film: its share and its highest score, frame by frame, as figures and as a chart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from conceptlens.maps.pictures import INK, PAPER, palette

_WIDE, _TALL, _LEFT, _TOP, _RIGHT, _FOOT, _LINE = 640, 150, 46, 26, 14, 34, 20


@dataclass(frozen=True, eq=False, repr=False)
class Timeline:
    """What each concept has of each frame.

    Attributes:
        concepts: their names, those of the background last.
        share: of the frame's pixels that the concept wins in the segmentation, 0..1; over the concepts they sum to 1.
        peak: the highest score of the concept on the patch grid of the frame, in the units of the maps.
        rate: frames per second.
    """

    concepts: tuple[str, ...]
    share: Float[np.ndarray, "concept frame"]
    peak: Float[np.ndarray, "concept frame"]
    rate: float

    @property
    def seconds(self) -> Float[np.ndarray, " frame"]:
        """When each frame is shown."""
        return np.arange(self.share.shape[1]) / self.rate

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the second of each frame, and by concept the share and the peak of each frame."""
        rows = zip(self.concepts, self.share, self.peak, strict=True)
        return {
            "rate": self.rate,
            "seconds": [round(second, 4) for second in self.seconds.tolist()],
            "concepts": {
                name: {"share": [round(v, 5) for v in share.tolist()], "peak": [round(v, 5) for v in peak.tolist()]}
                for name, share, peak in rows
            },
        }

    def chart(self) -> Image.Image:
        """Two panels over the seconds of the film: shares from 0 to 1, and peaks from the lowest to the highest."""
        font = ImageFont.load_default(13)
        panel = _TOP + _TALL + _FOOT
        names = _lines_of(self.concepts, font)
        picture = Image.new("RGB", (_WIDE, 2 * panel + _LINE * len(names) + 8), PAPER)
        pen = ImageDraw.Draw(picture)
        low, high = float(self.peak.min()), float(self.peak.max())
        self._panel(pen, 0, "share of the frame that the concept wins", self.share, (0.0, 1.0))
        self._panel(pen, panel, "highest score in the frame", self.peak, (low, max(high, low + 1e-9)))
        colours = palette(min(len(self.concepts), 256)).tolist()
        for row, line in enumerate(names):
            for number, name, x in line:
                y = 2 * panel + row * _LINE
                pen.rectangle((x, y + 3, x + 12, y + 15), fill=tuple(colours[number % 256]))
                pen.text((x + 18, y), name, fill=INK, font=font)
        return picture

    def _panel(
        self, pen: ImageDraw.ImageDraw, top: int, title: str, values: np.ndarray, bounds: tuple[float, float]
    ) -> None:
        """One line for each concept, between the bounds of the axis; a dot where there is but one frame."""
        font, (low, high), up = ImageFont.load_default(13), bounds, top + _TOP
        across, last = _WIDE - _LEFT - _RIGHT, max(values.shape[1] - 1, 1)
        pen.text((_LEFT, top + 5), title, fill=INK, font=font)
        pen.line([(_LEFT, up), (_LEFT, up + _TALL), (_LEFT + across, up + _TALL)], fill=INK)
        for bound, y in ((high, up), (low, up + _TALL)):
            pen.text((6, y - 8), f"{bound:.3g}", fill=INK, font=font)
        end = f"{self.seconds[-1]:.3g} s"
        pen.text((_LEFT, up + _TALL + 6), "0 s", fill=INK, font=font)
        pen.text((_LEFT + across - font.getlength(end), up + _TALL + 6), end, fill=INK, font=font)
        colours = palette(min(len(values), 256)).tolist()
        for number, row in reversed(list(enumerate(values.tolist()))):
            points = [
                (_LEFT + n / last * across, up + (high - value) / (high - low) * _TALL) for n, value in enumerate(row)
            ]
            colour = tuple(colours[number % 256])
            if len(points) > 1:
                pen.line(points, fill=colour, width=3)
            else:
                pen.ellipse((points[0][0] - 3, points[0][1] - 3, points[0][0] + 3, points[0][1] + 3), fill=colour)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(self.concepts)} · {self.share.shape[1]} frames>"


def _lines_of(
    names: tuple[str, ...], font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[list[tuple[int, str, int]]]:
    """The legend, as many names on a line as fit: the number of each, its name, and where it begins."""
    lines: list[list[tuple[int, str, int]]] = [[]]
    x = _LEFT
    for number, name in enumerate(names):
        width = 36 + int(font.getlength(name))
        if lines[-1] and x + width > _WIDE:
            lines.append([])
            x = _LEFT
        lines[-1].append((number, name, x))
        x += width
    return lines
