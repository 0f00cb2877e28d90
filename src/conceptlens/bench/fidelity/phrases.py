"""Noun phrases of a prompt, by adjacency: no parser, and right for prompts like "a red house and a blue boat"."""

from __future__ import annotations

import re

from conceptlens.watch.prompt_text import FUNCTION_WORDS

_DETERMINER_TEXT = "a an the this that these those some any each every his her its their"
_DETERMINERS = frozenset(_DETERMINER_TEXT.split())
_NOWHERE = frozenset(["top", "side", "left", "right"])


def noun_phrases(prompt: str) -> list[str]:
    """Runs of words between function words and punctuation, each with the determiner before it.

    Places ("the left", "the side") are left out, as T2I-CompBench leaves them out. A run that is no noun phrase in
    truth ("a house that is red" gives "a house" and "red") is not recognised as such.

    >>> noun_phrases("a red house and the blue boat on the left")
    ['a red house', 'the blue boat']
    """
    phrases: list[list[str]] = [[]]
    before = ""
    for word in re.findall(r"[\w'-]+|[^\w\s]", prompt):
        if word.lower() in FUNCTION_WORDS or not any(c.isalnum() for c in word):
            phrases.append([])
        else:
            if not phrases[-1] and before.lower() in _DETERMINERS:
                phrases[-1].append(before)
            phrases[-1].append(word)
        before = word
    return [" ".join(phrase) for phrase in phrases if phrase and phrase[-1].lower() not in _NOWHERE]
