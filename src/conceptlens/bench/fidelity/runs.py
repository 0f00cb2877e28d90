"""A run: one metric on a folder of pictures, a row for each, resumable; and what its rows say together."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from conceptlens._version import package_version
from conceptlens.bench.fidelity.blip_vqa import DEFAULT_BLIP_VQA, SIDE, BlipVQABinding, YesNo
from conceptlens.bench.fidelity.captions import DEFAULT_CAPTIONS, GENERATION, PREFIX, Captioner
from conceptlens.bench.fidelity.clip import DEFAULT_CLIP, ClipEmbedder, ClipSimilarity
from conceptlens.bench.fidelity.prompts import Asked, FidelityError, pictures_of, read_prompts
from conceptlens.bench.fidelity.sentences import DEFAULT_SENTENCES, SentenceModel
from conceptlens.bench.fidelity.tifa import Tifa, tifa_figures
from conceptlens.bench.fidelity.vqa import DEFAULT_VQA, open_vqa
from conceptlens.bench.metrics import bootstrap_interval
from conceptlens.bench.rows import RowFile, RunError, Track, check_folder, fingerprint
from conceptlens.maps.picture_files import open_image
from conceptlens.values.errors import ImageError

METRICS = ("tifa", "clip", "blip-vqa")
PACKAGES = ("conceptlens", "torch", "transformers")


@runtime_checkable
class Scorer(Protocol):
    """A picture and its prompt, to the fields of a row: `scores`, and what they came from."""

    name: str
    settings: dict[str, Any]

    def __call__(self, asked: Asked, image: Image.Image) -> dict[str, Any]: ...


def open_scorer(
    metric: str, model: str | None = None, *, second: str | None = None, device: str | None = None
) -> Scorer:
    """A metric with its models.

    Args:
        metric: "tifa", "clip" or "blip-vqa".
        model: hub id or folder of the model that looks at the pictures; the published one when None.
        second: of the sentence model ("tifa") or the captioner ("clip"; "none" leaves captions out).
        device: "cuda", "cpu", ...

    Raises:
        FidelityError: for an unknown metric.
        ModelError: when a model cannot be loaded.
    """
    if metric == "tifa":
        model, second = model or DEFAULT_VQA, second or DEFAULT_SENTENCES
        answer = open_vqa(model, device)
        settings = {
            "vqa": model,
            "backend": type(answer).__name__,
            "sentences": second,
            "match": "in choices, else nearest",
        }
        return Tifa(answer, SentenceModel(second, device), settings)
    if metric == "clip":
        model, second = model or DEFAULT_CLIP, second or DEFAULT_CAPTIONS
        settings = {"clip": model, "templates": 80, "captions": second}
        if second == "none":
            return ClipSimilarity(ClipEmbedder(model, device), None, settings)
        settings |= {"caption_prefix": PREFIX, **GENERATION}
        return ClipSimilarity(ClipEmbedder(model, device), Captioner(second, device), settings)
    if metric == "blip-vqa":
        model = model or DEFAULT_BLIP_VQA
        return BlipVQABinding(YesNo(model, device), {"vqa": model, "side": SIDE, "phrases": "adjacency"})
    raise FidelityError(f"no metric {metric!r}. Known: {', '.join(METRICS)}.")


def run(  # noqa: PLR0913 - as `bench.runs.run`
    scorer: Scorer | Callable[[], Scorer],
    folder: Path | str,
    prompts: Path | str,
    out: Path | str,
    *,
    limit: int | None = None,
    track: Track = lambda rows, total: rows,
    command: str = "",
) -> dict[str, Any]:
    """Scores the pictures that have no row in `out` yet, and returns the summary of all of them.

    Args:
        scorer: an open metric, or what opens it once the paths have been looked at.
        folder: of pictures; see `pictures_of` for how they are named.
        prompts: file; see `read_prompts`.
        out: folder of the rows; the same call resumes where it was interrupted.
        limit: only the first pictures.
        track: wraps the rows as they come, for a progress bar; gets their number too.
        command: what to tell about how to repeat it.

    Raises:
        FidelityError: for prompts or pictures that cannot be used.
        RunError: when `out` holds a run with other settings or other pictures, or cannot be written.
    """
    known = read_prompts(Path(prompts))
    pictures = pictures_of(Path(folder), known)
    asked = pictures[:limit]
    check_folder(Path(out))
    scorer = scorer if isinstance(scorer, Scorer) else scorer()
    settings = {"metric": scorer.name, **scorer.settings, "prompts": fingerprint({"rows": known})}
    header = {"command": command, "versions": {name: package_version(name) for name in PACKAGES}}
    with RowFile(Path(out), settings, header) as file:
        for one in asked:
            stored = file.rows.get(one.id)
            if stored is not None and stored["picture"] != _digest(one.path):
                raise RunError(f"{one.path} has changed since {out} was made. Choose another --out.")
        known_as = {one.id: one for one in asked}
        rows = file.fill([*known_as], lambda todo: _rows(scorer, [known_as[id_] for id_ in todo]), track)
    painted = {one.prompt_id for one in pictures}
    missing = len({row["id"] for row in known} - painted)
    return {**summary(rows), "prompts_without_picture": missing, "settings": settings, **header}


def _rows(scorer: Scorer, asked: Sequence[Asked]) -> Iterator[dict[str, Any]]:
    for one in asked:
        started = time.perf_counter()
        row = {"id": one.id, "prompt_id": one.prompt_id, "prompt": one.prompt}
        try:
            image = open_image(one.path)
            result = scorer(one, image)
            _check_numbers(result["scores"])
        except (ImageError, FidelityError) as error:
            yield {**row, "error": str(error)}
            continue
        yield {**row, "picture": _digest(one.path), **result, "seconds": round(time.perf_counter() - started, 4)}


def _check_numbers(scores: Mapping[str, float | None]) -> None:
    for name, value in scores.items():
        if value is not None and not math.isfinite(value):
            raise FidelityError(f"{name} is {value}: the judge gave no number. Open it in float32, or try another.")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of rows: for each score the mean over prompts of the mean over a prompt's pictures, [value, low, high].

    The interval is a 95% bootstrap over prompts: pictures of one prompt are no independent draws. A score that a
    prompt has not (`minimum` without a conjunction) is left out, and `prompts` tells how many had it.
    """
    good = [row for row in rows if "error" not in row]
    names = dict.fromkeys(name for row in good for name in row["scores"])
    metrics, counts = {}, {}
    for name in names:
        values = np.array(list(by_prompt(good, name).values()))
        counts[name] = len(values)
        if len(values):
            metrics[name] = [round(float(v), 6) for v in (values.mean(), *bootstrap_interval(values))]
    figures: dict[str, Any] = {"metrics": metrics, "prompts": counts, "pictures": len(good), "bad": []}
    figures["bad"] = [{"id": row["id"], "error": row["error"]} for row in rows if "error" in row]
    if good and "answers" in good[0]:
        figures["tifa"] = tifa_figures(good)
    return figures


def by_prompt(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Each prompt's mean over its pictures (seeds) of one score, by prompt id."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["scores"].get(name) is not None:
            values.setdefault(row["prompt_id"], []).append(row["scores"][name])
    return {prompt: statistics.fmean(scores) for prompt, scores in values.items()}
