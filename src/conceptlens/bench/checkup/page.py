"""A checkup as a page that needs nothing beside itself: what was asked, what came out, and pictures to judge it by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from PIL import Image

from conceptlens.bench.checkup.collages import Cell, Collage, Extents
from conceptlens.bench.checkup.verdict import Findings, Setting
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.pages import document, sheets, table
from conceptlens.maps.pictures import contact_sheet
from conceptlens.ops.grids import resize

ACROSS = 6
"""Pictures in a row."""


def picture_sheet(pictures: Mapping[Cell, Image.Image], extents: Extents) -> Image.Image:
    """What the model painted, noun by noun, with what is taken for the noun in colour."""
    cells = sorted(pictures, key=lambda cell: cell.number)
    nouns = list(dict.fromkeys(cell.noun for cell in cells))
    ordered = sorted(cells, key=lambda cell: nouns.index(cell.noun))
    return contact_sheet([(cell.noun, _marked(pictures[cell], extents[cell])) for cell in ordered], ACROSS)


def _marked(picture: Image.Image, extent: np.ndarray) -> Image.Image:
    """The picture, grey where its noun is not."""
    share = resize(torch.from_numpy(extent).float()[None], picture.height, picture.width)[0].numpy()[..., None]
    grey = np.asarray(picture.convert("L").convert("RGB"), np.float32) * 0.5 + 96
    mixed = np.asarray(picture, np.float32) * share + grey * (1 - share)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def collage_sheets(collages: Sequence[Collage], maps: Sequence[ConceptMaps]) -> list[tuple[str, Image.Image]]:
    """Collages with the map of each of their nouns and of the absent one, in the proposed recipe."""
    captions = [f"{', '.join(collage.nouns)}; nowhere: {collage.absent}" for collage in collages]
    return [(caption, each.overlay(4)) for caption, each in zip(captions, maps, strict=True)]


def page(
    findings: Findings, sheet: Image.Image, collages: Sequence[tuple[str, Image.Image]], provenance: Mapping[str, Any]
) -> str:
    """The whole page.

    Args:
        findings: of the checkup.
        sheet: from `picture_sheet`.
        collages: from `collage_sheets`; none where nothing was read.
        provenance: the settings of the run.
    """
    parts = [_verdict(findings)]
    if findings.trusted:
        parts += [_beside(findings), _swept(findings), _nouns(findings), _presence(findings)]
    if collages:
        parts.append(_section("Collages and their maps", _EXPLAINED, sheets(collages)))
    painted = f"Prompt: {findings.plan.template}. In colour is what changes with the noun while the seed stays."
    parts.append(_section("What the model painted", painted, sheets([("all pictures", sheet)])))
    return document(f"Checkup of {findings.model_id}", "".join(parts), provenance)


_EXPLAINED = (
    "Bright is where the word's map is high, in the proposed recipe. The word that is nowhere should be nowhere."
)


def _section(title: str, text: str, inner: str = "") -> str:
    return f"<h2>{escape(title)}</h2><p>{escape(text)}</p>{inner}"


def _verdict(findings: Findings) -> str:
    lines = "<br>".join(escape(line) for line in findings.text().split("\n"))
    return f"<p><strong>{lines}</strong></p>"


def _beside(findings: Findings) -> str:
    settings: dict[str, Setting] = {"proposed": findings.best, "usual": findings.usual}
    if findings.cross_attention is not None:
        settings["cross attention"] = findings.cross_attention
    rows = [(name, str(each), str(findings.estimate(each))) for name, each in settings.items()]
    rows.append(
        ("chance", "the proposed recipe, each word in another's place", f"{findings.swapped(findings.best):.3f}")
    )
    text = (
        "Mean intersection over union of what each word wins with where its noun is, over collages; 1 is perfect. "
        "The interval in brackets is of 95%."
    )
    return _section("How good are the maps?", text, table(("", "recipe", "mean IoU"), rows))


def _swept(findings: Findings) -> str:
    best, found = findings.best, []
    axes = (
        ("layer", "span", [name for name, layers in findings.spans.items() if len(layers) == 1]),
        ("noise", "noise", list(findings.plan.noises)),
        ("space", "space", list(dict.fromkeys(setting.space for setting in findings.settings))),
    )
    for title, field, values in axes:
        fixed = {"noise": best.noise, "space": best.space, "span": best.span}
        rows = []
        for value in values:
            setting = Setting(**{**fixed, field: value})
            rows.append((str(value), str(findings.estimate(setting))))
        found.append(table((title, "mean IoU"), rows))
    text = "One thing varies, the rest is as proposed; of the layers each alone."
    side = "".join(
        f'<div style="display:inline-block;vertical-align:top;margin-right:2rem">{one}</div>' for one in found
    )
    return _section("Every layer, noise level and space", text, side)


def _nouns(findings: Findings) -> str:
    rows = [(noun, f"{margin:+.3f}") for noun, margin in sorted(findings.margins.items(), key=lambda pair: -pair[1])]
    text = (
        "How much better a word's map fits its own picture than another noun's, in IoU, in recipes chosen on other "
        "collages. Near 0: the model does not paint it, or the maps do not find it."
    )
    return _section("Which nouns does it find?", text, table(("noun", "margin"), rows))


def _presence(findings: Findings) -> str:
    fit = findings.presence
    if fit is None:
        return _section(
            "Is it in the picture at all?", "The scores say no more than guessing, so there are no chances."
        )
    rows = [
        ("each noun by its own curve", f"{fit.brier:.3f}"),
        ("one curve for every word", f"{fit.every_brier:.3f}"),
        ("guessing", f"{fit.guessing:.3f}"),
    ]
    curves = "a curve for each noun" if fit.curves else "one curve"
    text = (
        f"Chances from layers {fit.span} at noise {fit.noise:g}, by {curves}"
        ". Brier score on collages, or of nouns, that the curves were not fitted on: mean squared error, 0 the best."
    )
    return _section("Is it in the picture at all?", text, table(("chance", "Brier score"), rows))
