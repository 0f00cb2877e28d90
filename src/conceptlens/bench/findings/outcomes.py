"""Figure 4: what maps look like where an object is missing, or a colour is at the wrong object.

Objects that are both there have maps that differ; where one is missing, the maps of both nouns are in the same place. A
modifier that is right has its own noun's map, a wrong one less so. Measured at an early step, before anything is seen.
Whether a picture is right is for somebody else to say: a file of verdicts, or a TIFA run on the pictures.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from conceptlens.bench.findings.finding import Finding, FindingError, estimate, histograms
from conceptlens.bench.findings.painting import Painting, paint, word_similarity
from conceptlens.bench.findings.pairs import Values, auc, word_pairs
from conceptlens.bench.findings.prompts import ALL_COLOURS
from conceptlens.bench.findings.reading import EncoderReading, read_prompt_with
from conceptlens.bench.rows import RowFile, read_rows
from conceptlens.bench.tables import Table
from conceptlens.values.errors import one_line
from conceptlens.values.files import into_folder
from conceptlens.watch.prompt_text import PromptText

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BATCH = 4
QUESTIONS, PICTURES, SIMILARITIES = "questions.json", "pictures", "similarities"
Row = Mapping[str, Any]


def outcomes(
    painting: Painting, prompts: Sequence[str], verdicts: Path | None, out: Path, *, seed: int = 0
) -> Finding | str:
    """The finding, or, without verdicts, what to do next: the pictures and questions about them are then in `out`.

    Similarities are kept in `out/similarities`, so that the second call paints nothing again. With verdicts from
    elsewhere, their prompts and seeds are painted up to the wanted step; a `call` in their file replaces
    the painting's.

    Raises:
        FindingError: for verdicts that cannot be used.
        RunError: when `out` holds similarities of another model, step or call.
    """
    if verdicts is None:
        _similarities(painting, [(prompt, seed + n) for n, prompt in enumerate(prompts)], out, whole=True)
        return (
            f"{len(prompts)} pictures in {out / PICTURES}. Now have them judged, then repeat with the verdicts:\n"
            f"  conceptlens bench fidelity {out / PICTURES} --prompts {out / QUESTIONS} --metric tifa "
            f"--out {out / 'verdicts'}\n  conceptlens findings outcomes ... --verdicts {out / 'verdicts'} --out {out}"
        )
    judged, call = read_verdicts(verdicts)
    painting = replace(painting, call={**painting.call, **call})
    similarities = _similarities(painting, [(row["prompt"], row["seed"]) for row in judged], out, whole=False)
    return _finding(painting, judged, similarities)


def read_verdicts(path: Path) -> tuple[Sequence[Row], Mapping[str, Any]]:
    """Rows with `prompt`, `seed`, `objects` (both there) and `right` (and in their colours); and the pipeline's call.

    Args:
        path: JSON with a list of such rows, or an object with it under `rows` and perhaps `call`; or the folder of a
            TIFA run on the pictures that `outcomes` painted: its questions of type `object` say whether the objects
            are there, all of them together whether the picture is right.

    Raises:
        FindingError: when it is none of these.
    """
    try:
        if path.is_dir():
            rows, call = [_from_tifa(row) for row in read_rows(path)[1] if "error" not in row], {}
        else:
            said = json.loads(path.read_text(encoding="utf-8"))
            rows, call = (said["rows"], said.get("call", {})) if isinstance(said, dict) else (said, {})
            fields = {"prompt": str, "seed": int, "objects": bool, "right": bool}
            rows = [{name: row[name] for name in fields} for row in rows]
            wrong = [f"{n} is {r[n]!r}" for r in rows for n, kind in fields.items() if type(r[n]) is not kind]
            if wrong:
                raise ValueError(wrong[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FindingError(
            f"cannot read verdicts from {path}: {one_line(error)}. Give JSON rows with prompt, seed, objects, right, "
            "or the folder of a TIFA run."
        ) from error
    if not rows:
        raise FindingError(f"{path} holds no verdict. Judge some pictures first.")
    return rows, call


def _from_tifa(row: Row) -> Row:
    there = [answer["right"] for answer in row["answers"] if answer["type"] == "object"]
    every = [answer["right"] for answer in row["answers"]]
    seed = int(Path(row["id"]).stem.rpartition("-")[2])
    return {"prompt": row["prompt"], "seed": seed, "objects": all(there), "right": all(every)}


def _similarities(
    painting: Painting, wanted: Sequence[tuple[str, int]], out: Path, *, whole: bool
) -> dict[tuple[str, int], Row]:
    """C of each picture's nouns (`objects`) and of nouns and their modifiers (`bound`), the mean over its pairs."""
    with RowFile(out / SIMILARITIES, painting.settings(), {}) as file:
        if whole and any("questions" not in row for row in file.rows.values()):
            raise FindingError(f"{out} holds similarities without pictures. Choose another --out, or give --verdicts.")
        numbered = {pair: number for number, pair in enumerate(dict.fromkeys(wanted))}
        taken = {q["id"]: row["prompt"] for row in file.rows.values() for q in row.get("questions", ())}
        if whole and any(taken.get(str(number), prompt) != prompt for (prompt, _), number in numbered.items()):
            raise FindingError(f"{out} holds pictures of other prompts. Choose another --out.")
        todo = [pair for pair in numbered if _key(*pair) not in file.rows]
        pipeline = painting.open().pipeline if todo else None
        for first in range(0, len(todo), BATCH):
            assert pipeline is not None
            part = todo[first : first + BATCH]
            maps, images = paint(pipeline, painting, [p for p, _ in part], [s for _, s in part], whole=whole)
            for place, (prompt, seed) in enumerate(part):
                encoder = read_prompt_with(pipeline, prompt).encoders[0]
                row = {"id": _key(prompt, seed), "prompt": prompt, "seed": seed, **_means(encoder, maps[place])}
                if images:
                    name = str(numbered[prompt, seed])
                    with into_folder(out / PICTURES) as stage:
                        images[place].save(stage / f"{name}-{seed}.png")
                    row["questions"] = questions_about(encoder.text, name)
                file.append(row)
        if whole:
            with into_folder(out) as stage:
                # Pictures of several seeds share their prompt's questions.
                shared = {q["id"]: row["questions"] for row in file.rows.values() for q in row["questions"]}
                asked = [question for questions in shared.values() for question in questions]
                (stage / QUESTIONS).write_text(json.dumps(asked, indent=1) + "\n")
        return {(row["prompt"], row["seed"]): row for row in file.rows.values()}


def _means(encoder: EncoderReading, maps: Tensor) -> dict[str, float | None]:
    similar, pairs = word_similarity(encoder, maps), word_pairs(encoder.text, causal=False)
    values = {kind: [float(similar[pair]) for pair in pairs[kind]] for kind in ("objects", "bound")}
    return {kind: statistics.fmean(pairs_of_kind) if pairs_of_kind else None for kind, pairs_of_kind in values.items()}


def _key(prompt: str, seed: int) -> str:
    return f"{prompt} #{seed}"


def questions_about(text: PromptText, name: str) -> list[Row]:
    """TIFA questions on a two-object prompt: is each noun there, and what colour is it?"""
    spelled = {places: word for word, places in text.words}
    asked: list[Row] = []
    for group in text.groups(None):
        *modifiers, noun = (spelled[places] for places in group)
        caption = {"id": name, "caption": text.prompt, "element": noun}
        there = {"question": f"is there a {noun} in the picture?", "choices": ["yes", "no"], "answer": "yes"}
        asked.append({**caption, **there, "element_type": "object"})
        for colour in (m for m in modifiers if m in ALL_COLOURS):
            what = {"question": f"what color is the {noun}?", "choices": list(ALL_COLOURS), "answer": colour}
            asked.append({**caption, **what, "element_type": "color"})
    return asked


def _finding(painting: Painting, judged: Sequence[Row], similarities: Mapping[tuple[str, int], Row]) -> Finding:
    # Whether a colour is right can be seen only where its object is there.
    there = [row for row in judged if row["objects"]]
    splits = {
        "two nouns": ("objects", "objects", ("an object missing", "both there"), judged),
        "noun and its modifier": ("bound", "right", ("colours right", "a colour wrong"), there),
    }
    body, numbers, shown = [], {}, []
    for what, (kind, verdict, names, rows) in splits.items():
        by_prompt: dict[str, dict[str, list[float]]] = {}
        for row in rows:
            similar, good = similarities[row["prompt"], row["seed"]][kind], row[verdict]
            answer = names[1] if good == (kind == "objects") else names[0]
            if similar is not None:
                by_prompt.setdefault(row["prompt"], {name: [] for name in names})[answer].append(similar)
        values: Values = list(by_prompt.values())
        pooled = {name: [v for one in values for v in one[name]] for name in names}
        for name, values_of_name in pooled.items():
            mean = f"{np.mean(values_of_name):.3f}" if values_of_name else ""
            body.append((what, name, str(len(values_of_name)), mean, ""))
        area = auc(values, *names) if values else (np.nan, np.nan, np.nan)
        body[-2] = (*body[-2][:-1], estimate(area))
        numbers[what] = {"auc": area if np.isfinite(area[0]) else None, "values": pooled}
        shown.append(pooled)

    def draw(axes: list[Axes]) -> None:
        for one, groups in zip(axes, shown, strict=True):
            histograms(one, groups, f"similarity of maps at step {painting.step}, C")

    head = ("maps of", "pictures with", "pictures", "mean C", "AUC above next row")
    table = Table("Similarity of maps, by what the picture shows", head, tuple(body))
    seeds, prompts = [row["seed"] for row in judged], [row["prompt"] for row in judged]
    settings = {**painting.settings(), "prompts": prompts, "seeds": seeds}
    return Finding("outcomes", table, settings, numbers, draw, tuple(splits))
