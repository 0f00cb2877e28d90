"""Which prompt a picture was painted for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptlens.values.errors import ConceptlensError, one_line
from conceptlens.values.pictures import PICTURES


class FidelityError(ConceptlensError, ValueError):
    """Prompts, questions or pictures that cannot be scored."""


@dataclass(frozen=True)
class Asked:
    """A picture and what it should show.

    Attributes:
        id: the picture's path within its folder.
        path: of the picture.
        prompt_id: of the prompt; pictures of one prompt from several seeds share it.
        prompt: the text.
        questions: rows of a TIFA question file for this prompt; empty where the file has none.
    """

    id: str
    path: Path
    prompt_id: str
    prompt: str
    questions: tuple[Mapping[str, Any], ...] = ()


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """Rows with at least `id` and `prompt`, from a text file (a prompt per line, ids from 0) or JSON.

    JSON may be an object of picture (or id) to prompt, or a list of objects that have `prompt`, `caption` or `text`,
    perhaps `id` or `image`, and perhaps the fields of a TIFA question. TIFA's files of captions and of questions are
    read as they are published.

    Raises:
        FidelityError: when it cannot be read, or a row has no text.
    """
    try:
        text = file.read_text(encoding="utf-8")
        said = json.loads(text) if file.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise FidelityError(
            f"cannot read prompts from {file}: {reason}. Give a text file with one prompt per line, or JSON."
        ) from error
    if isinstance(said, dict):
        said = [{"image": name, "prompt": prompt} for name, prompt in said.items()]
    rows = [_row(file, number, row) for number, row in enumerate(said) if row]
    if not rows:
        raise FidelityError(f"{file} holds no prompt. Give a text file with one prompt per line, or JSON.")
    return rows


def _row(file: Path, number: int, row: object) -> dict[str, Any]:
    fields = {"prompt": row} if isinstance(row, str) else dict(row) if isinstance(row, dict) else {}
    text = next((fields[key] for key in ("prompt", "caption", "text") if fields.get(key)), None)
    if not isinstance(text, str) or not text.strip():
        raise FidelityError(f"entry {number} of {file} has no prompt: {row!r}. Each needs prompt, caption or text.")
    # The questions of one caption belong together, though nothing but the caption may say so.
    alone = text.strip() if "question" in fields else number
    return {**fields, "id": str(fields.get("id", fields.get("image", alone))), "prompt": text.strip()}


def pictures_of(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Asked]:
    """The pictures of a folder that belong to a prompt, in order of their paths.

    A picture belongs to the prompt that names it as its `image`; or whose id or text is its name before the ending
    (`7.png`), with or without a seed behind a hyphen (`7-42.png`), or the name of the folder it is in
    (`a red car/42.png`).

    Raises:
        FidelityError: when there is no picture, or none that belongs to a prompt.
    """
    known: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for name in dict.fromkeys((str(row.get("image", row["id"])), str(row["id"]), row["prompt"])):
            known.setdefault(name, []).append(row)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not paths:
        raise FidelityError(f"no picture in {folder}. Give a folder with {', '.join(PICTURES)} files.")
    asked = []
    for path in paths:
        inside = path.relative_to(folder)
        stem = inside.with_suffix("").as_posix()
        unseeded, hyphen, seed = stem.rpartition("-")
        names = [inside.as_posix(), stem, *([unseeded] if hyphen and seed.isdigit() else []), inside.parts[0]]
        rows_of_prompt = next((known[name] for name in names if name in known), None)
        if rows_of_prompt:
            questions = tuple(
                row for row in rows_of_prompt if "question" in row and row["id"] == rows_of_prompt[0]["id"]
            )
            asked.append(
                Asked(inside.as_posix(), path, rows_of_prompt[0]["id"], rows_of_prompt[0]["prompt"], questions)
            )
    if not asked:
        have = ", ".join(p.relative_to(folder).as_posix() for p in paths[:3])
        raise FidelityError(
            f"none of the {len(paths)} pictures in {folder} ({have}, ...) is named after a prompt. Name them by the "
            "prompt's id or line number, such as 0.png or 0-42.png, or give a JSON object of picture to prompt."
        )
    return asked
