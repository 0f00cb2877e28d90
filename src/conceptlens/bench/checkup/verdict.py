"""What the rows of a checkup say: the best recipe, what stands beside it, and whether any of it can be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from conceptlens.bench.checkup.looking import SPACES, presence_spans, span_name, spans_of
from conceptlens.bench.checkup.plan import Plan
from conceptlens.bench.checkup.presence import PresenceFit, fit_presence
from conceptlens.bench.checkup.scores import image_score
from conceptlens.bench.report import Estimate
from conceptlens.readers.loading import stored_defaults
from conceptlens.session import Session
from conceptlens.values.errors import OutputError, one_line

LITTLE = 0.05
"""A margin over the wrong noun, in IoU, that is too small to be of use even where it is certain."""


@dataclass(frozen=True, order=True)
class Setting:
    """One way to make maps of a reading.

    Attributes:
        noise: level of the reading.
        space: which vectors are compared.
        span: the layers, by their name.
    """

    noise: float
    space: str
    span: str

    def __str__(self) -> str:
        return f"layers {self.span}, noise {self.noise:g}, {self.space} space"


@dataclass(frozen=True)
class Findings:
    """Figures of a checkup.

    Attributes:
        model_id: the model.
        plan: what was asked of it.
        rows: one for each reading.
        spans: sets of layers by name.
        usual: what the model is read with unless told otherwise.
        trouble: why its pictures show nothing, as far as that was seen before they were read; None where they may.
    """

    model_id: str
    plan: Plan
    rows: Sequence[Mapping[str, Any]]
    spans: Mapping[str, tuple[int, ...]]
    usual: Setting
    trouble: str | None = None

    @classmethod
    def of(cls, session: Session, plan: Plan, rows: Sequence[Mapping[str, Any]], trouble: str | None) -> Findings:
        """The findings of a run with a model."""
        recipe = session.recipe()
        layers = recipe.layers or ()
        usual = Setting(recipe.noise, recipe.space, span_name(layers))
        return cls(session.model_id, plan, rows, spans_of(session.depth, layers), usual, trouble)

    @cached_property
    def by_reading(self) -> dict[tuple[int, float], Mapping[str, Any]]:
        """Rows by collage and noise level."""
        return {(row["collage"], row["noise"]): row for row in self.rows}

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The collages that were read at every noise level and show at least one noun."""
        read = sorted({number for number, _ in self.by_reading})
        whole = [n for n in read if all((n, noise) in self.by_reading for noise in self.plan.noises)]
        return tuple(n for n in whole if np.isfinite(self._score(n, self.settings[0])))

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """All ways to make maps that were scored."""
        spaces = [space for space in SPACES if space in self.rows[0]["scores"]] if self.rows else []
        return tuple(Setting(n, space, span) for n in self.plan.noises for space in spaces for span in self.spans)

    def _scored(self, number: int, setting: Setting) -> Mapping[str, Any]:
        return self.by_reading[number, setting.noise]["scores"][setting.space][setting.span]

    def _score(self, number: int, setting: Setting) -> float:
        return image_score(self._scored(number, setting))

    @cached_property
    def scores(self) -> Float[np.ndarray, "setting collage"]:
        """Mean IoU of each collage in each setting."""
        return np.array([[self._score(number, setting) for number in self.numbers] for setting in self.settings])

    def estimate(self, setting: Setting) -> Estimate:
        """Mean IoU over collages, with its interval."""
        values = self.scores[self.settings.index(setting)]
        return Estimate.of_mean(values)

    def difference(self, one: Setting, other: Setting) -> Estimate:
        """By how much one is better than another, paired."""
        values = self.scores[self.settings.index(one)] - self.scores[self.settings.index(other)]
        return Estimate.of_mean(values)

    def best_of(self, **fixed: object) -> Setting:
        """The best setting among those with some values, by the mean over all collages."""
        rows = [n for n, each in enumerate(self.settings) if all(getattr(each, k) == v for k, v in fixed.items())]
        return self.settings[max(rows, key=lambda row: self.scores[row].mean())]

    @cached_property
    def best(self) -> Setting:
        """What is proposed."""
        return self.best_of()

    @property
    def cross_attention(self) -> Setting | None:
        """All layers of cross attention at the best noise level: what other tools show. None where nothing else is."""
        everything = span_name(range(max(layers[-1] for layers in self.spans.values()) + 1))
        setting = Setting(self.best.noise, "cross", everything)
        return setting if setting in self.settings else None

    @cached_property
    def margins(self) -> dict[str, float]:
        """By noun how much better its map fits its own place than that of another, in settings chosen without it.

        Each half of the collages is scored in the setting that is best on the other half, so that the choice among
        hundreds of settings does not flatter the figure.
        """
        half = np.arange(len(self.numbers)) // 2 % 2
        found: dict[str, list[float]] = {}
        for part in (0, 1):
            others = self.scores[:, half != part]
            if not others.size:
                continue
            setting = self.settings[int(others.mean(axis=1).argmax())]
            for number in (n for n, side in zip(self.numbers, half, strict=True) if side == part):
                row, scored = self.by_reading[number, setting.noise], self._scored(number, setting)
                for noun, own, swapped in zip(row["nouns"], scored["iou"], scored["swapped"], strict=True):
                    if own is not None and swapped is not None:
                        found.setdefault(noun, []).append(own - swapped)
        return {noun: float(np.mean(found[noun])) for noun in self.plan.nouns if noun in found}

    @cached_property
    def margin(self) -> Estimate:
        """The mean of `margins`, its interval over nouns."""
        values = np.array(list(self.margins.values()) or [0.0])
        return Estimate.of_mean(values)

    @cached_property
    def why_not(self) -> str | None:
        """Why nothing can be concluded; None where something can."""
        if self.trouble is not None:
            return self.trouble
        if len(self.numbers) < 2:
            return f"{len(self.numbers)} collages show a noun"
        if not self.margin.low > 0:
            return f"no word finds its own picture better than another's: a margin of {self.margin} in IoU over nouns"
        if self.margin.value < LITTLE:
            return f"its words hardly find their own pictures: a margin of {self.margin} in IoU over nouns"
        return None

    @property
    def trusted(self) -> bool:
        """Whether a recipe and chances may be taken from this checkup."""
        return self.why_not is None

    @cached_property
    def presence(self) -> PresenceFit | None:
        """Chances, fitted at the noise level of the best setting; None where they say no more than guessing.

        Presence is scored in the usual space, so a recipe in another has none.
        """
        if not self.trusted or self.best.space != self.usual.space:
            return None
        rows = [self.by_reading[number, self.best.noise] for number in self.numbers]
        spans = presence_spans(self.spans, self.usual.span)
        scored = {name: layers for name, layers in spans.items() if all(name in row["standings"] for row in rows)}
        fit = fit_presence(rows, self.plan.nouns, scored)
        return fit if fit is not None and fit.useful else None

    def recipe(self) -> dict[str, Any]:
        """Fields of a `Recipe`: the best setting."""
        layers = {"layers": list(self.spans[self.best.span]), "noise": self.best.noise}
        several = len({setting.space for setting in self.settings}) > 1
        return {**layers, "space": self.best.space} if several else layers

    def save(self, path: Path) -> None:
        """Writes recipe and presence into a `conceptlens.json`, whose other fields stay.

        Raises:
            ModelError: for a file there that holds anything else.
            OutputError: when it cannot be written.
        """
        stored = stored_defaults(path) if path.exists() else {}
        stored["recipe"] = {**stored.get("recipe", {}), **self.recipe()}
        if self.presence is not None:
            stored["presence"] = {**self.presence.to_dict(), "collages": len(self.numbers)}
        aside = path.with_suffix(".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
            aside.replace(path)
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror or one_line(error)}. Nothing was saved."
            ) from error

    def summary(self) -> dict[str, Any]:
        """All figures, as plain JSON values."""
        told: dict[str, Any] = {"model": self.model_id, "collages": len(self.numbers), "trusted": self.trusted}
        if self.why_not is not None:
            return {**told, "why_not": self.why_not}
        fit = self.presence
        beside = {"proposed": self.best, "usual": self.usual}
        if self.cross_attention is not None:
            beside["cross_attention"] = self.cross_attention
        return {
            **told,
            "recipe": self.recipe(),
            "mean_iou": {name: self.estimate(setting).rounded() for name, setting in beside.items()},
            "swapped": round(self.swapped(self.best), 4),
            "gain_over_usual": self.difference(self.best, self.usual).rounded(),
            "margin": self.margin.rounded(),
            "margins": {noun: round(value, 4) for noun, value in self.margins.items()},
            "presence": None if fit is None else {**fit.to_dict(), **_errors(fit)},
        }

    def swapped(self, setting: Setting) -> float:
        """Mean IoU of nouns in the places of other nouns: what a map scores by chance, if it tells things apart."""
        return float(np.mean([image_score(self._scored(n, setting), "swapped") for n in self.numbers]))

    def text(self) -> str:
        """The verdict in a few lines."""
        if self.why_not is not None:
            return f"{self.model_id}: nothing can be said of its maps. {self.why_not[0].upper()}{self.why_not[1:]}."
        fit = self.presence
        lines = [
            f"{self.model_id}: words find their own pictures, {self.margin} above another's place in IoU",
            f"proposed: {self.best}; mean IoU {self.estimate(self.best)} on {len(self.numbers)} collages",
            f"usual: {self.usual}; mean IoU {self.estimate(self.usual)}",
        ]
        if fit is None:
            return "\n".join([*lines, "presence: no better than guessing, so no chances"])
        return "\n".join(
            [*lines, f"presence: Brier score {min(fit.brier, fit.every_brier):.3f}, guessing {fit.guessing:.3f}"]
        )


def _errors(fit: PresenceFit) -> dict[str, float]:
    return {"brier": round(fit.brier, 4), "brier_every": round(fit.every_brier, 4), "guessing": round(fit.guessing, 4)}
