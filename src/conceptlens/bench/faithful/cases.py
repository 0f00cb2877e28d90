"""What is painted: a prompt with a word, and the same prompt without it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conceptlens.bench.datasets.scenes import COLOURS, NOUNS
from conceptlens.values.errors import ConceptlensError, one_line
from conceptlens.values.words import is_quality, mentions


class CaseError(ConceptlensError, ValueError):
    """A prompt cannot be painted with and without a word."""


@dataclass(frozen=True)
class Case:
    """One picture to be painted twice.

    Attributes:
        prompt: names the word.
        word: that should be shown.
        without: the prompt that does not name it; may be empty.
    """

    prompt: str
    word: str
    without: str

    def __post_init__(self) -> None:
        if not mentions(self.prompt, self.word):
            raise CaseError(f"{self.word!r} is not in the prompt {self.prompt!r}. Name a word of it.")
        if mentions(self.without, self.word):
            raise CaseError(f"{self.without!r} still names {self.word!r}. Leave the word out.")


def storybook_cases(limit: int, draw: int = 2025) -> list[Case]:
    """Prompts of one and of two coloured things of the scenes in turn; the first thing is the word."""
    rng = np.random.default_rng(draw)
    cases = []
    for number in range(limit):
        nouns = [str(noun) for noun in rng.choice(NOUNS, 1 + number % 2, replace=False)]
        colours = [str(rng.choice(list(COLOURS))) for _ in nouns]
        phrases = [f"{'an' if c[0] == 'o' else 'a'} {c} {noun}" for c, noun in zip(colours, nouns, strict=True)]
        cases.append(Case(" and ".join(phrases), nouns[0], " and ".join(phrases[1:])))
    return cases


def read_cases(file: Path) -> list[Case]:
    """Lines of "prompt | word" or "prompt | word | prompt without it"; empty lines and lines after # are left out.

    Raises:
        CaseError: for a file that cannot be read, holds none, or has a line that is no such case.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"cannot read {file} ({one_line(error)}). Give a text file.") from error
    cases = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("|")]
        if len(parts) not in (2, 3) or not all(parts[:2]):
            raise CaseError(f'line {number} of {file} must be "prompt | word" or "prompt | word | prompt without it".')
        cases.append(Case(parts[0], parts[1], parts[2] if len(parts) == 3 else without(*parts)))
    if not cases:
        raise CaseError(f'{file} holds no prompt. Write lines such as "a red house and a tree | house".')
    return cases


def without(prompt: str, word: str) -> str:
    """A prompt without the phrase of a word: its article, the colours and sizes before it, and what joined it.

    Raises:
        CaseError: when the word is not in the prompt.
    """
    if not mentions(prompt, word):
        raise CaseError(f"{word!r} is not in the prompt {prompt!r}. Name a word of it.")
    text = prompt
    while found := mentions(text, word):
        start, end = found[0]
        before = text[:start].split()
        while before and is_quality(before[-1]):
            before.pop()
        if before and before[-1].lower() in ("a", "an", "the"):
            before.pop()
        text = f"{' '.join(before)} {text[end:]}"
    text = re.sub(r"\s+([,.;])", r"\1", " ".join(text.split()))
    joint = r"(?:\s*(?:[,;]|\b(?:and|or|with|of)\b)\s*)"
    text = re.sub(rf"^{joint}+|{joint}+$", "", text)
    return re.sub(rf"{joint}{{2,}}", " and ", text)
