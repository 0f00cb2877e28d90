"""Words that are asked: a list of the user's, checked; and those to ask where the user named none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conceptlens.values.errors import ConceptError, RecipeError, shown

if TYPE_CHECKING:
    from torch import Tensor

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
_QUALITIES = frozenset(_QUALITY_TEXT.split())
_NO_THINGS = frozenset(_FUNCTION_TEXT.split()) | _QUALITIES


def content_words(prompt: str | Sequence[str] | None, *, qualities: bool = False) -> list[str]:
    """The words of a prompt, or of several, that name things, or with `qualities` say how they are; each once."""
    text = " ".join([prompt] if isinstance(prompt, str) else [each for each in prompt or () if isinstance(each, str)])
    found = re.findall(r"[^\W_](?:[\w'’-]*[\w'’])?", text.lower())
    words = dict.fromkeys(re.sub("['’]s?$", "", word) for word in found)
    left_out = _NO_THINGS - _QUALITIES if qualities else _NO_THINGS
    return [word for word in words if word and word not in left_out and len(word) <= LONGEST]


def singulars(name: str) -> list[str]:
    """What an English plural may be the plural of: "red houses" of "red house" (and, to be sure, of "red hous")."""
    endings = (("ies", "y"), ("es", ""), ("s", ""))
    return [name.removesuffix(many) + one for many, one in endings if name.lower().endswith(many) and len(name) > 3]


def is_quality(word: str) -> bool:
    """Whether a word says how a thing is: a colour, a size."""
    return word.lower() in _QUALITIES


def ranked_words(vocabulary: Sequence[str] | None) -> tuple[str, ...]:
    """What a model is asked at every pixel: the things it knows, or common ones."""
    if vocabulary is None:
        return COMMON
    things = tuple(word for word in vocabulary if word not in _NO_THINGS)
    return things if len(things) > 1 else tuple(vocabulary)


def check_concepts(concepts: Sequence[str]) -> tuple[str, ...]:
    """Concepts without surrounding blanks.

    Raises:
        ConceptError: for no concepts, an empty one, a duplicate, one that no tokenizer takes, or a string in place of a
            list.
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
        if (character := unreadable(name)) is not None:
            raise ConceptError(f"concept {name!r:.60} has {character}, which is no text. Remove it.")
    return names


def check_prompts(prompt: str | Sequence[str] | None, embeds: Sequence[Any] | Tensor | None = None) -> list[str]:
    """The prompts as a list; of ready-made embeddings, which stand in place of a prompt, an empty text each.

    Raises:
        RecipeError: when there is none, an empty one, or one that no tokenizer takes, or a prompt besides embeddings.
    """
    if embeds is not None:
        if prompt is not None:
            raise RecipeError("prompt and prompt_embeds were both given. Give prompt=None with prompt_embeds.")
        return [""] * len(embeds)
    given: list[Any] = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
    prompts: list[str] = [each for each in given if isinstance(each, str) and each.strip()]
    if not prompts or len(prompts) < len(given):
        raise RecipeError("the prompt is empty. Say what to paint, for example: a red house and a tree.")
    check_text(prompts, "prompt")
    return prompts


def check_text(given: object, what: str) -> None:
    """Raises a `RecipeError`, which calls it `what`, for a text, or one of several, that no tokenizer takes."""
    for text in given if isinstance(given, (list, tuple)) else [given]:
        if isinstance(text, str) and (character := unreadable(text)) is not None:
            raise RecipeError(f"the {what} {text!r:.60} has {character}, which is no text. Remove it.")


def unreadable(text: str) -> str | None:
    """The first character that no tokenizer takes, NUL or half of a surrogate pair, as "U+0000"; None without one."""
    match = re.search("[\x00\ud800-\udfff]", text)
    return None if match is None else f"the character U+{ord(match[0]):04X}"


def mentions(text: str, phrase: str, *, any_case: bool = True) -> list[tuple[int, int]]:
    """Where a word or a run of words stands in a text: (start, end) characters, in reading order.

    Whatever the number of blanks and the form of accents, but never inside another word: "house" stands in "a house,
    the house's roof", and not in "a houseboat".
    """
    parts = phrase.split()
    if not parts:
        return []
    run = r"\s+".join("".join(map(_either_form, unicodedata.normalize("NFC", part))) for part in parts)
    before = rf"(?<!{_LETTER})" if parts[0][0].isalnum() else ""
    after = rf"(?!{_LETTER}|{_ACCENT})" if parts[-1][-1].isalnum() else rf"(?!{_ACCENT})"
    matches = re.finditer(rf"{before}(?=({run}){after})", text, re.IGNORECASE if any_case else 0)
    return [match.span(1) for match in matches]


_LETTER, _ACCENT = r"[^\W_]", "[\u0300-\u036f]"


def _either_form(letter: str) -> str:
    """A pattern for a letter, whether its accent is part of it or stands behind it."""
    parted = unicodedata.normalize("NFD", letter)
    return re.escape(letter) if parted == letter else f"(?:{re.escape(letter)}|{re.escape(parted)})"
