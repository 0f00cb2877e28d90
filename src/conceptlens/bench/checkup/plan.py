"""What a checkup asks a model to paint and to read, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from conceptlens.bench.checkup.collages import FOUR
from conceptlens.readers.call_settings import check_call
from conceptlens.session import Session
from conceptlens.values.errors import ConceptError, RecipeError
from conceptlens.values.recipe import check_seed
from conceptlens.values.words import check_concepts, check_text, ranked_words

NOUNS = ("cat", "dog", "horse", "bird", "car", "bicycle", "boat", "house", "tree", "flower", "chair", "clock")
"""For models with an open vocabulary."""
NOISES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
FEWEST_NOUNS, FEWEST_PICTURES, FEWEST_COLLAGES = FOUR + 1, 2, 8
MEASURED = ("layers", "noise", "space", "preset")
"""Fields of a recipe that a checkup varies."""


@dataclass(frozen=True)
class Plan:
    """The settings of a checkup.

    Attributes:
        nouns: what is painted, one thing a picture.
        template: the prompt, with {} for the noun.
        pictures: of each noun.
        limit: collages.
        noises: levels at which each is read.
        seed: of all pictures, collages and noise.
        call: keywords of the pipeline while it paints.

    Raises:
        ConceptError: for an unusable list of nouns, or fewer than five.
        RecipeError: for any other setting that cannot be.
    """

    nouns: tuple[str, ...]
    template: str
    pictures: int = 3
    limit: int = 60
    noises: tuple[float, ...] = NOISES
    seed: int = 0
    call: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nouns = check_concepts(self.nouns)
        if len(nouns) < FEWEST_NOUNS:
            raise ConceptError(
                f"a checkup needs {FEWEST_NOUNS} nouns, four for a collage and one that is nowhere; got {len(nouns)}: "
                f"{', '.join(nouns)}. Name more."
            )
        check_text(self.template, "template")
        if "{}" not in self.template:
            raise RecipeError(
                f"the template {self.template!r:.60} has no {{}} for the noun. Write, for example, a photo of a {{}}."
            )
        for name, fewest in (("pictures", FEWEST_PICTURES), ("limit", FEWEST_COLLAGES)):
            if getattr(self, name) < fewest:
                raise RecipeError(f"{name} must be at least {fewest}; got {getattr(self, name)}.")
        wrong = [noise for noise in self.noises if not 0 <= noise <= 1]
        if wrong or not self.noises:
            raise RecipeError(
                f"noise levels are from 0 (clean) to 1 (pure noise); got {wrong[0] if wrong else 'none'}."
            )
        check_seed(self.seed)

    @classmethod
    def of(
        cls,
        session: Session,
        nouns: tuple[str, ...] | None = None,
        template: str | None = None,
        noises: tuple[float, ...] = NOISES,
        **settings: Any,
    ) -> Plan:
        """A plan for a model: its own words where it knows few, and its usual noise level among the others.

        Args:
            session: the model.
            nouns: None: the things of the model's vocabulary that are no backgrounds, or a dozen common ones.
            template: None: "a photo of a {}", or "a {}" for a model that does not know the word photo.
            noises: of the readings.
            **settings: other attributes.

        Raises:
            ConceptError: as the plan itself, and for a noun that the model does not know.
            ModelError: for a model that cannot read.
            RecipeError: as the plan itself.
        """
        session.require("read")
        session.require("probe")
        known = session.vocabulary
        grounds = session.reader.defaults.background
        own = tuple(word for word in ranked_words(known) if word not in grounds)
        chosen = nouns or (NOUNS if known is None else own)
        usual = "a photo of a {}" if known is None or "photo" in known else "a {}"
        levels = tuple(sorted({*noises, session.recipe().noise}))
        plan = cls(check_concepts(chosen), template or usual, noises=levels, **settings)
        check_call(session.pipeline, plan.call)
        plan._check_words(session)
        return plan

    def _check_words(self, session: Session) -> None:
        """Raises a `ConceptError` for a noun that the model was not trained on or its tokenizers do not know."""
        known = session.vocabulary
        foreign = [noun for noun in self.nouns if known is not None and not set(noun.lower().split()) <= set(known)]
        if foreign:
            raise ConceptError(
                f"{session.model_id} was never trained on {', '.join(foreign)}. It knows: "
                f"{', '.join(ranked_words(known))}."
            )
        reading: dict[str, Any] = {"size": 64} if "size" in session.reader.read_options else {}
        record = session.read(Image.new("RGB", (64, 64), "grey"), layers=(0,), **reading)
        session.probe(record, self.nouns, background=False)

    def settings(self, session: Session) -> dict[str, Any]:
        """Everything that a row depends on; more collages may be added, so `limit` is not among it."""
        usual = {name: value for name, value in session.recipe().to_dict().items() if name not in MEASURED}
        own = {name: getattr(self, name) for name in ("nouns", "template", "pictures", "noises", "seed", "call")}
        return {
            "checkup": session.model_id,
            **own,
            "single_stream": session.single_stream,
            "recipe": usual,
        }

    def prompt(self, noun: str) -> str:
        """What is painted for a noun: "an apple" for the template "a {}"."""
        template = re.sub(r"\b([Aa]) \{\}", r"\1n {}", self.template) if noun[0].lower() in "aeiou" else self.template
        return template.replace("{}", noun)
