"""The data card: README.md of a labelled data set, with everything it takes to judge it and to make it again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from conceptlens.labels.gates import GATES

Row = Mapping[str, Any]
_CARD = """---
task_categories: [image-segmentation]
tags: [conceptlens, synthetic-labels]
configs:
- config_name: default
  data_dir: images
---

# {title}

The masks of this data set were drawn by no one: they are maps of a diffusion model's attention, made with
[conceptlens](https://arxiv.org/abs/2502.04320), and kept where they passed the quality gates below. Expect mistakes
that the gates cannot see.

| | |
|---|---|
{facts}

## What was kept

{kept} of {pictures} pictures, {labels} of {words} words. A word can be rejected for several reasons; each is in
`rejected.csv`.

| gate | threshold | words rejected | not measured |
|---|---|---|---|
{gates}

{classes}

## Files

| | |
|---|---|
| `images/*.png`, `images/metadata.jsonl` | for `load_dataset("imagefolder", data_dir="images")` |
| `annotations/*.png` | numbers of categories; 0 background, {none} no label: rejected or doubtful |
| `coco.json` | COCO instances, masks as run lengths |
| `classes.txt` | the numbers; `conceptlens bench index-png --data .` reads them with `images/` and `annotations/` |
| `sheet.png` | pictures beside their labels |
| `rows.jsonl`, `run.json` | what was measured of every word of every picture, and the settings |
"""


def data_card(
    rows: Sequence[Row], categories: Sequence[str], header: Mapping[str, Any], reasons: Mapping[str, int]
) -> str:
    """The text of README.md.

    Args:
        rows: of the run.
        categories: of the data set.
        header: settings, versions and the command.
        reasons: by gate, how many words it rejected.
    """
    settings = header["settings"]
    words = [word for row in rows if "error" not in row for word in row["words"]]
    labels = [each["word"] for row in rows if row.get("kept") for each in row["annotations"]]
    counted = Counter(labels)
    lines = [f"| {_cell(name)} | {counted[name]} |" for name in categories]
    return _CARD.format(
        title="Pictures painted from prompts, with masks" if "prompts" in settings else "Pictures with masks",
        facts="\n".join(f"| {name} | {_cell(value)} |" for name, value in _facts(settings, header, rows).items()),
        kept=sum(bool(row.get("kept")) for row in rows),
        pictures=len(rows),
        labels=len(labels),
        words=len(words),
        gates="\n".join(_gate_row(name, settings["gates"], reasons, words) for name in GATES),
        classes="\n".join(["| category | labels |", "|---|---|", *lines]),
        none=255 if len(categories) < 255 else 65535,
    )


def _facts(settings: Mapping[str, Any], header: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    painting = settings["painting"]
    errors = sum("error" in row for row in rows)
    words = settings["words"]
    facts = {
        "model": settings["model"],
        "pictures": f"{settings['prompts']} prompts, {settings['per_prompt']} painted for each"
        if "prompts" in settings
        else f"of the folder {settings['images']}",
        "words": "the things that each prompt, or caption, names" if words is None else ", ".join(words),
        "background words": ", ".join(settings["background"]) or "none",
        "denoising steps": str(painting.get("num_inference_steps", "")),
        "painting": json.dumps(painting) if painting else "",
        "maps": f"of {settings['maps']}" if settings["maps"].startswith("a ") else settings["maps"],
        "recipe of the maps": json.dumps(settings["recipe"]),
        "seed": f"{settings['seed']}, from which each picture's own follows",
        "masks": f"edges {settings['edges']}, abstain {settings['abstain']:g}",
        "a picture is kept": "when every word passes" if settings["gates"]["every"] else "when a word passes",
        "versions": ", ".join(f"{name} {version}" for name, version in header["versions"].items()),
        "command": header["command"],
        "pictures that gave an error": str(errors) if errors else "",
    }
    return {name: value for name, value in facts.items() if value}


def _gate_row(
    name: str, gates: Mapping[str, Any], reasons: Mapping[str, int], words: Sequence[Mapping[str, Any]]
) -> str:
    thresholds = {
        "presence": f"chance of at least {gates['presence']:g}",
        "flip": f"IoU with the mirrored picture of at least {gates['flip']:g}",
        "doubt": f"mean of at most {gates['doubt']:g}",
        "area": f"share from {gates['smallest']:g} to {gates['largest']:g}",
    }
    unmeasured = sum(word.get(name) is None for word in words)
    return f"| {name} | {thresholds[name]} | {reasons.get(name, 0)} | {unmeasured} |"


def _cell(text: str) -> str:
    """Text that cannot end a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
