"""Words that are asked: a list of the user's, checked; and those to ask where the user named none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conceptlens.errors import ConceptError, RecipeError, shown

_FUNCTION_TEXT = (
    "a an the and or of on in at under over above below near with by to from into behind before between beside next "
    "is are its his her their this that these those some many left right picture image photo painting background"
)
_QUALITY_TEXT = (
    "red orange yellow green blue purple violet pink white grey gray black brown golden silver dark bright light night "
    "small big large little tiny huge old new young tall short long wide wooden beautiful"
)
_COMMON_TEXT = (
    "person man woman child face hand hair hat shirt dress shoe dog cat bird horse cow sheep fish butterfly bear "
    "tree grass flower leaf bush mountain hill rock sand snow water sea river lake sky cloud sun moon star fire smoke "
    "road path bridge wall window door roof house tower castle church city street fence car bicycle bus train boat "
    "plane table chair sofa bed lamp book cup plate bottle clock mirror phone computer food bread fruit apple cake "
    "floor ceiling carpet curtain stairs field forest beach shadow reflection text sign flag umbrella bag ball toy"
)
COMMON = tuple(_COMMON_TEXT.split())
"""Concrete nouns that many pictures hold; for models with an open vocabulary."""
LONGEST = 40
"""Letters of a word; longer ones are no words that a text encoder knows."""
_NO_THINGS = frozenset(_FUNCTION_TEXT.split()) | frozenset(_QUALITY_TEXT.split())


def content_words(prompt: str) -> list[str]:
    """The words of a prompt that name things, each once, in order."""
    letters = "".join(c.lower() if c.isalnum() or c == "-" else " " for c in prompt)
    words = dict.fromkeys(word.strip("-") for word in letters.split())
    return [word for word in words if word and word not in _NO_THINGS and len(word) <= LONGEST]


def ranked_words(vocabulary: Sequence[str] | None) -> tuple[str, ...]:
    """What a model is asked at every pixel: the things it knows, or common ones."""
    if vocabulary is None:
        return COMMON
    things = tuple(word for word in vocabulary if word not in _NO_THINGS)
    return things if len(things) > 1 else tuple(vocabulary)


def check_concepts(concepts: Sequence[str]) -> tuple[str, ...]:
    """Concepts without surrounding blanks.

    Raises:
        ConceptError: for no concepts, an empty one, a duplicate, or a string in place of a list.
    """
    if isinstance(concepts, str):
        raise ConceptError(f"concepts must be a list of words; got the text {concepts!r}. Write [{concepts!r}].")
    names = tuple(c.strip() if isinstance(c, str) else c for c in concepts)
    if not names:
        raise ConceptError("no concepts were given. Name at least one, for example: house.")
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise ConceptError(f"concept {number + 1} of {len(names)} is no text; got {shown(name)}. Give a flat list.")
        if not name:
            raise ConceptError(f"concept {number + 1} of {len(names)} is empty. Give each concept a word.")
        if name in names[:number]:
            raise ConceptError(f"concept {name!r} was given twice. Name each concept once.")
    return names


def check_prompts(prompt: str | Sequence[str] | None, embeds: Any = None) -> list[str]:
    """The prompts as a list; of ready-made embeddings, which stand in place of a prompt, an empty text each.

    Raises:
        RecipeError: when there is none, or an empty one, or a prompt besides embeddings.
    """
    if embeds is not None:
        if prompt is not None:
            raise RecipeError("prompt and prompt_embeds were both given. Give prompt=None with prompt_embeds.")
        return [""] * len(embeds)
    told: list[Any] = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
    prompts: list[str] = [each for each in told if isinstance(each, str) and each.strip()]
    if not prompts or len(prompts) < len(told):
        raise RecipeError("the prompt is empty. Say what to paint, for example: a red house and a tree.")
    return prompts
