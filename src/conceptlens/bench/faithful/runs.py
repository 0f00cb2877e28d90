"""A run: prompts x methods, to rows. One row per prompt; resumable, seeded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from conceptlens._version import package_version
from conceptlens.bench.faithful.cases import Case
from conceptlens.bench.faithful.regions import SHARES, Region, elsewhere, highest, inside
from conceptlens.bench.faithful.repainting import Painting, latents_kept, paint, repaint
from conceptlens.bench.rows import RowFile, Track, check_folder, fingerprint
from conceptlens.methods import SaliencyMethod, method_named
from conceptlens.methods.stream import StreamMethod
from conceptlens.ops.grids import resize
from conceptlens.presence import calibrated_reading, presence
from conceptlens.session import Session
from conceptlens.values.errors import ConceptlensError, ModelError, RecipeError
from conceptlens.values.words import content_words

WHILE_PAINTING, DIFFERENCE, CHANCE = "while-painting", "difference", "random"
BOUNDS = (DIFFERENCE, CHANCE)
"""Rows that no map made: where the two pictures differ, and rows drawn at random."""
PACKAGES = ("conceptlens", "diffusers", "torch")


@dataclass(frozen=True)
class Judge:
    """Says whether pictures show a word.

    Attributes:
        name: for the settings of a run.
        chances: from pictures and a word, the chance, 0..1, that each shows it.
    """

    name: str
    chances: Callable[[Sequence[Image.Image], str], list[float]]


class FaithfulError(ConceptlensError, ValueError):
    """Faithfulness cannot be measured on this model."""


@dataclass(frozen=True)
class FaithfulSpec:
    """What is run.

    Attributes:
        cases: prompts with and without a word.
        methods: names of methods; "NAME=MODEL" for one that has a model of its own; "while-painting" for the maps of
            the painting itself.
        seed: of the first picture; each next case has the next seed.
        first_step: share of the denoising steps that pass before rows are replaced.
        call: keywords of the pipeline's call.
    """

    cases: Sequence[Case]
    methods: Sequence[str] = (WHILE_PAINTING, "concept-attention", "cross-attention")
    seed: int = 0
    first_step: float = 0.2
    call: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.first_step < 1:
            raise RecipeError(f"first_step is a share of the steps, from 0 to below 1; got {self.first_step}.")

    def settings(self, session: Session, judge: Judge) -> dict[str, Any]:
        """All that rows depend on, but the case, as plain JSON values."""
        return {
            "benchmark": "faithful",
            "model": session.model_id,
            "methods": list(self.methods),
            "judge": judge.name,
            "seed": self.seed,
            "first_step": self.first_step,
            "shares": list(SHARES),
            "call": {**session.generate_defaults, **self.call},
            "cases": fingerprint({"cases": [asdict(case) for case in self.cases]}),
        }


def judge_by_presence(session: Session) -> Judge:
    """Reads each picture with the model that painted it, and asks for the calibrated chance of presence.

    Raises:
        FaithfulError: for a model without a calibration.
    """
    if session.calibration is None:
        raise FaithfulError(
            f"{session.model_id} has no calibration of presence, so nothing can tell whether a word has vanished. "
            "Make one with conceptlens checkup --save, or give a judge of your own."
        )

    def chances_of(images: Sequence[Image.Image], word: str) -> list[float]:
        chances = []
        for image in images:
            record = calibrated_reading(session, image)
            assert record is not None
            (found,) = presence(session, record, [word])
            if found.chance is None:
                raise FaithfulError(f"{session.model_id} cannot say whether {word!r} is in a picture. Choose another.")
            chances.append(found.chance)
        return chances

    return Judge("presence", chances_of)


def run(
    session: Session,
    spec: FaithfulSpec,
    judge: Judge,
    out: Path,
    *,
    track: Track = lambda rows, total: rows,
    command: str = "",
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measures the cases that have no row in `out` yet; what `run.json` says, and the rows of all.

    Args:
        session: the model that paints, and whose maps are asked.
        spec: what to run.
        judge: says whether a picture shows a word.
        out: folder of the rows; the same call resumes where it was interrupted.
        track: wraps the rows as they come, for a progress bar; gets their number too.
        command: how to repeat it.

    Raises:
        FaithfulError: for a model whose pictures cannot be judged.
        ModelError: for one whose latents have no rows of a picture, or that takes no callback.
        RunError: when `out` holds a run with other settings, or cannot be written.
    """
    check_folder(out)
    session.require("generate")
    methods = {name: _open(name, session) for name in spec.methods if name != WHILE_PAINTING}
    header = {"command": command, "versions": {name: package_version(name) for name in PACKAGES}}
    with RowFile(out, spec.settings(session, judge), header) as file:
        numbers = {f"{number:05d}": number for number in range(len(spec.cases))}
        measured = _Measured(session, spec, judge, methods)
        rows = file.fill([*numbers], lambda todo: (measured.row(numbers[id_]) for id_ in todo), track)
        return {"settings": file.settings, **header}, rows


def _open(name: str, session: Session) -> SaliencyMethod:
    method, _, model = name.partition("=")
    chosen = method_named(method)
    return chosen(session) if issubclass(chosen, StreamMethod) and not model else chosen.load(model or None)


class _Measured:
    """The measurement of one case after another, on one model."""

    def __init__(
        self, session: Session, spec: FaithfulSpec, judge: Judge, methods: Mapping[str, SaliencyMethod]
    ) -> None:
        self._session, self._spec, self._judge, self._methods = session, spec, judge, methods
        self._call = dict(spec.call)

    def row(self, number: int) -> dict[str, Any]:
        """One case: chances after each replacement, by method. A picture that does not show its word is left out."""
        started = time.perf_counter()
        case, seed = self._spec.cases[number], self._spec.seed + number
        row = {"id": f"{number:05d}", **asdict(case), "seed": seed}
        painting, scores = self._with_maps(case, seed)
        other = paint(self._session, case.without, seed, self._call)
        before, after = self._judge.chances([painting.image, other.image], case.word)
        row |= {"shown": round(before, 4), "without": round(after, 4)}
        if before < 0.5 or after >= 0.5:
            fault = f"shows no {case.word}" if before < 0.5 else f"shows a {case.word} without being asked for it"
            return {**row, "left_out": f"the picture {fault}, by the judge"}
        rows, cols = scores[WHILE_PAINTING].shape
        grid = rows, cols
        scores |= self._explained(painting, case, seed)
        scores[DIFFERENCE] = _distance(painting.latents[-1], other.latents[-1], grid)
        scores[CHANCE] = np.random.default_rng(seed).random(grid)
        wanted = (*self._spec.methods, *BOUNDS)
        found = {name: self._replaced(painting, other, case.word, _at(scores[name], grid)) for name in wanted}
        return {**row, "methods": found, "seconds": round(time.perf_counter() - started, 2)}

    def _with_maps(self, case: Case, seed: int) -> tuple[Painting, dict[str, Float[np.ndarray, "rows cols"]]]:
        latents: list[torch.Tensor] = []
        call = {**self._call, "callback_on_step_end": latents_kept(latents)}
        maps = self._session.generate(case.prompt, self._asked(case), seed=seed, **call)
        if not latents:
            raise ModelError(f"{self._session.model_id} takes no callback_on_step_end. Use another model.")
        painting = Painting(case.prompt, seed, maps.image, tuple(latents))
        return painting, {WHILE_PAINTING: maps.scores[0].numpy()}

    def _asked(self, case: Case) -> list[str]:
        """The word first; the other things of the prompt and what may be behind them compete."""
        background = self._session.reader.defaults.background
        others = [word for word in content_words(case.prompt) if word not in case.word.lower().split()]
        return list(dict.fromkeys((case.word, *others, *background)))

    def _explained(self, painting: Painting, case: Case, seed: int) -> dict[str, Float[np.ndarray, "rows cols"]]:
        """Maps of the finished picture, by method."""
        return {
            name: method.explain(painting.image, self._asked(case), seed=seed).scores[0].numpy()
            for name, method in self._methods.items()
        }

    def _replaced(
        self, painting: Painting, other: Painting, word: str, scores: Float[np.ndarray, "rows cols"]
    ) -> dict[str, Any]:
        """Chances of the word after rows were replaced where a map says, and where it does not."""
        cut = inside(scores)
        regions = [cut, elsewhere(cut, np.random.default_rng(painting.seed)), ~cut]
        curve = [highest(scores, share) for share in SHARES]
        gone = self._chances(painting, other, [*regions, *curve], word)
        back = self._chances(other, painting, curve, word)
        names = ("inside", "elsewhere", "complement")
        return {
            "area": round(float(cut.mean()), 4),
            **dict(zip(names, gone[:3], strict=True)),
            "deletion": gone[3:],
            "insertion": back,
        }

    def _chances(self, painting: Painting, other: Painting, regions: Sequence[Region], word: str) -> list[float]:
        first = int(self._spec.first_step * len(painting.latents))
        pictures = repaint(
            self._session, painting, other, torch.from_numpy(np.stack(regions)), self._call, first_step=first
        )
        return [round(chance, 4) for chance in self._judge.chances(pictures, word)]


def _at(scores: Float[np.ndarray, "rows cols"], grid: tuple[int, int]) -> Float[np.ndarray, "rows cols"]:
    """A map on the patches of the latents, whatever its method's grid."""
    return resize(torch.from_numpy(scores)[None], grid[0], grid[1])[0].numpy()


def _distance(one: torch.Tensor, other: torch.Tensor, grid: tuple[int, int]) -> Float[np.ndarray, "rows cols"]:
    """How far two pictures' latents, (1, ...) each, lie from each other at each patch of a grid."""
    square = (one - other).float().square()
    if square.ndim == 3:
        mean = square.mean(-1).reshape(grid)
    else:
        mean = torch.nn.functional.adaptive_avg_pool2d(square.mean(1), grid)[0]
    return mean.sqrt().cpu().numpy()
