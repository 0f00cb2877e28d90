"""Words that are asked: a list of the user's, checked; and those to ask where the user named none."""

from __future__ import annotations

from collections.abc import Sequence

from conceptlens.errors import ConceptError, RecipeError

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
            raise ConceptError(f"concept {number + 1} of {len(names)} is no text; got {name!r:.60}. Give a flat list.")
        if not name:
            raise ConceptError(f"concept {number + 1} of {len(names)} is empty. Give each concept a word.")
        if no_text := no_letter(name):
            raise ConceptError(
                f"concept {number + 1} of {len(names)} has {no_text!r}, which is no letter: {name!r:.60}."
            )
        if name in names[:number]:
            raise ConceptError(f"concept {name!r} was given twice. Name each concept once.")
    return names


def check_prompts(prompt: str | Sequence[str]) -> list[str]:
    """The prompts as a list.

    Raises:
        RecipeError: when there is none, an empty one, or one with what no tokenizer takes.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise RecipeError("the prompt is empty. Say what to paint, for example: a red house and a tree.")
    for text in prompts:
        check_text("the prompt", text)
    return prompts


def check_text(what: str, text: str) -> None:
    """Raises a `RecipeError` for a text that holds what no tokenizer takes."""
    if character := no_letter(text):
        raise RecipeError(f"{what} has {character!r}, which is no letter. Write {what} without it.")


def no_letter(text: str) -> str | None:
    """The first character that is none: a NUL, or half of a surrogate pair (what bytes that are no text become)."""
    return next((c for c in text if c == "\0" or "\ud800" <= c <= "\udfff"), None)
