"""Pictures of a session, guided, with the maps that show why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from conceptlens.guidance.base import Guidance
from conceptlens.guidance.driver import GuidedCall
from conceptlens.guidance.named import guidance_named
from conceptlens.guidance.result import GuidedMaps
from conceptlens.values.errors import RecipeError
from conceptlens.values.recipe import RECIPE_FIELDS
from conceptlens.watch.prompt_text import FUNCTION_WORDS


def prompt_words(prompts: Sequence[str]) -> list[str]:
    """The words of prompts, each once, without articles, conjunctions, prepositions and punctuation."""
    words = [word for prompt in prompts for word in re.findall(r"[\w'’-]+", prompt)]
    return [word for word in dict.fromkeys(words) if word.lower() not in FUNCTION_WORDS]


def chosen_guidance(guide: Guidance | str | None, compare: bool) -> Guidance | None:
    """The guidance that `guide` is or names.

    Raises:
        RecipeError: for an unknown name, or a comparison with the plain picture where nothing is guided.
    """
    if compare and guide is None:
        raise RecipeError("compare shows the plain picture beside a guided one, and there is no guidance. Give guide.")
    return guidance_named(guide) if isinstance(guide, str) else guide


def paint_guided(
    session: Any,
    prompt: str | list[str],
    concepts: Sequence[str] | None,
    guidance: Guidance,
    seed: int,
    *,
    compare: bool,
    own: dict[str, Any],
    **options: Any,
) -> Any:
    """`Session.generate` with guidance: the same call and the same maps, of latents that were moved on the way.

    Args:
        session: with a `generate` of its own.
        prompt: see `Session.generate`; likewise `concepts`, the prompt's own words if None.
        concepts: see `prompt`.
        guidance: the method and its settings.
        seed: of the first picture.
        compare: paint the plain picture of the same seed, too.
        own: keywords of `Session.generate` that are neither the recipe's nor the pipeline's.
        **options: fields of the recipe and options of the pipeline's call.

    Returns:
        `GuidedMaps`, or a list of them.

    Raises:
        RecipeError: for another branch than the prompt's.
    """
    recipe = {name: value for name, value in options.items() if name in RECIPE_FIELDS}
    if recipe.get("branch", "prompt") != "prompt":
        raise RecipeError("a guided picture has maps of the prompt's own pass alone. Drop branch, or guide.")
    called = {name: value for name, value in options.items() if name not in RECIPE_FIELDS}
    called = {**session.generate_defaults, **called}
    names = prompt_words([prompt] if isinstance(prompt, str) else prompt) if concepts is None else concepts

    def paint(how: Guidance) -> tuple[GuidedCall, list[Any]]:
        call = GuidedCall(session.pipeline, prompt, how, seed, called)
        arguments = {name: value for name, value in call.arguments.items() if name != "prompt"}
        made = session.generate(prompt, names, **own, **recipe, **arguments)
        return call, made if isinstance(made, list) else [made]

    call, made = paint(guidance)
    plain = paint(replace(guidance, alpha=0.0))[1] if compare else [None] * len(made)
    run = call.result([maps.image for maps in made])
    results = [GuidedMaps.of(maps, run, n, before) for n, (maps, before) in enumerate(zip(made, plain, strict=True))]
    return results[0] if isinstance(prompt, str) and len(results) == 1 else results
