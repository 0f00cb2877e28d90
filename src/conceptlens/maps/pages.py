"""Results as HTML that needs nothing beside itself: a card for notebooks, a page for everyone else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

_SIDE = 512
_CARD = "font:14px system-ui,sans-serif;max-width:60rem"
_CELL = "text-align:left;padding:.2rem .8rem .2rem 0;font-variant-numeric:tabular-nums"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 2rem auto; padding: 0 1rem; max-width: 60rem; font: 16px/1.5 system-ui, sans-serif; }}
figure {{ display: inline-block; margin: 0 1rem 1rem 0; }}
figure img {{ display: block; width: min(16rem, 80vw); image-rendering: auto; }}
pre {{ overflow: auto; padding: 1rem; background: color-mix(in srgb, currentColor 8%, transparent); }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
<h2>How it was made</h2>
<pre>{provenance}</pre>
</body>
</html>
"""


def picture_url(image: Image.Image, side: int = _SIDE) -> str:
    """A picture as a data URL: PNG when it is small, else JPEG with its longer side at most `side` pixels."""
    buffer = io.BytesIO()
    if max(image.size) <= side:
        image.save(buffer, format="PNG")
        kind = "png"
    else:
        shrunk = image.convert("RGB")
        shrunk.thumbnail((side, side))
        shrunk.save(buffer, format="JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first cell of each row is its heading."""
    headings = "".join(f'<th scope="col" style="{_CELL}">{escape(cell)}</th>' for cell in head)
    lines = [f"<tr>{headings}</tr>"]
    for first, *others in rows:
        cells = "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in others)
        lines.append(f'<tr><th scope="row" style="{_CELL}">{escape(first)}</th>{cells}</tr>')
    return f'<table style="border-collapse:collapse">{"".join(lines)}</table>'


def card(url: str, alt: str, rows: str, line: str) -> str:
    """What a notebook shows: a picture at a (data) URL, the table `rows` and one line on how it was made."""
    return (
        f'<div style="{_CARD}"><img alt="{escape(alt)}" src="{url}" style="max-width:100%">'
        f"{rows}<small>{escape(line)}</small></div>"
    )


def figures(tiles: Sequence[tuple[str, Image.Image]]) -> str:
    """Captioned pictures, side by side where there is room."""
    return "".join(
        f'<figure><img alt="{escape(name)}" src="{picture_url(image)}"><figcaption>{escape(name)}</figcaption></figure>'
        for name, image in tiles
    )


def sheets(tiles: Sequence[tuple[str, Image.Image]]) -> str:
    """Captioned contact sheets, one below the other, as wide as the page."""
    style = ' style="display:block"', ' style="width:100%"'
    return "".join(
        f'<figure{style[0]}><img{style[1]} alt="{escape(name)}" src="{picture_url(image, 2 * _SIDE)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, image in tiles
    )


def document(title: str, body: str, provenance: Mapping[str, Any]) -> str:
    """A whole page: a title, a body of HTML, and the settings behind it."""
    shown = escape(json.dumps(provenance, indent=2, ensure_ascii=False), quote=False)
    return _PAGE.format(title=escape(title), body=body, provenance=shown)


def page(
    title: str, line: str, tiles: Sequence[tuple[str, Image.Image]], rows: str, provenance: Mapping[str, Any]
) -> str:
    """A whole page: captioned pictures, the table `rows`, and the settings that made them."""
    return document(title, f"{figures(tiles)}{rows}<p>{escape(line)}</p>", provenance)
