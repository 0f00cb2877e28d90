"""TIFA: questions about what the prompt says, answered by a visual question answering model.

Hu et al., "TIFA: Accurate and Interpretable Text-to-Image Faithfulness Evaluation with Question Answering", ICCV 2023,
arXiv 2303.11897. A free-form answer that is none of the choices counts as the choice that means most nearly the same.
Absolute figures depend on the answering model; never compare those of two.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from conceptlens.bench.fidelity.prompts import Asked, FidelityError
from conceptlens.bench.fidelity.vqa import VQA

Nearest = Callable[[str, Sequence[str]], str]
"""A sentence and choices, to the choice that is nearest in meaning."""


class Tifa:
    """Scores one picture after another.

    Args:
        answer: the visual question answering model.
        nearest: maps an answer to one of the choices.
        settings: all that the scores depend on, as plain values.
    """

    name = "tifa"

    def __init__(self, answer: VQA, nearest: Nearest, settings: Mapping[str, Any]) -> None:
        self._answer, self._nearest, self.settings = answer, nearest, dict(settings)

    def __call__(self, asked: Asked, image: Image.Image) -> dict[str, Any]:
        """`scores` (the share of right answers) and every answer.

        Raises:
            FidelityError: when the prompt has no questions, or one of them lacks a field.
        """
        if not asked.questions:
            raise FidelityError(
                f"the prompt {asked.prompt!r} has no questions. Give a TIFA question file as --prompts."
            )
        questions, choices, truths, kinds = zip(*(_fields(q) for q in asked.questions), strict=True)
        free = self._answer([image] * len(questions), questions, choices)
        answers = []
        for question, said, listed, truth, kind in zip(questions, free, choices, truths, kinds, strict=True):
            chosen = said if said in listed else self._nearest(said, listed)
            answers.append(
                {"question": question, "type": kind, "said": said, "chosen": chosen, "right": chosen == truth}
            )
        return {"scores": {"tifa": statistics.fmean(a["right"] for a in answers)}, "answers": answers}


def _fields(row: Mapping[str, Any]) -> tuple[str, list[str], str, str]:
    try:
        question, choices, answer = row["question"], list(row["choices"]), row["answer"]
    except (KeyError, TypeError) as error:
        raise FidelityError(
            f"the question {row.get('question')!r} lacks {error}. TIFA needs choices and answer."
        ) from error
    if answer not in choices:
        raise FidelityError(
            f"the answer {answer!r} to {question!r} is none of its choices {choices}. Correct the file."
        )
    return question, choices, answer, str(row.get("element_type", "other"))


def tifa_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """TIFA's own three figures, from rows that `Tifa` made.

    `tifa_average` is the mean over captions of each caption's mean over its questions, `tifa_stdev` the sample standard
    deviation over captions (None for one caption), `accuracy_by_type` the share of right answers among all questions
    of an element type.
    """
    captions: dict[str, list[float]] = {}
    kinds: dict[str, list[float]] = {}
    for row in rows:
        for answer in row["answers"]:
            captions.setdefault(row["prompt_id"], []).append(answer["right"])
            kinds.setdefault(answer["type"], []).append(answer["right"])
    means = [statistics.fmean(scores) for scores in captions.values()]
    return {
        "tifa_average": statistics.fmean(means),
        "tifa_stdev": statistics.stdev(means) if len(means) > 1 else None,
        "accuracy_by_type": {kind: statistics.fmean(kinds[kind]) for kind in sorted(kinds)},
        "questions_by_type": {kind: len(kinds[kind]) for kind in sorted(kinds)},
    }
