"""Visual question answering: a model behind one call, chosen by what its configuration says it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    BatchFeature,
    Blip2ForConditionalGeneration,
    BlipForQuestionAnswering,
    GitForCausalLM,
    ViltForQuestionAnswering,
)

from conceptlens.bench.fidelity._loading import load, load_processor, model_type

DEFAULT_VQA = "Salesforce/blip-vqa-capfilt-large"
LONGEST_ANSWER = 20


@runtime_checkable
class VQA(Protocol):
    """Free-form answers, one for each question.

    A model that chooses among given answers is shown `choices`; the others do not look at them.
    """

    def __call__(
        self, images: Sequence[Image.Image], questions: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[str]: ...


class _OneByOne(ABC):
    """Asks one question at a time: with padding, some of these models would attend to it and answer otherwise."""

    model_class: type[Any]

    def __init__(self, source: str, device: str | torch.device | None = None) -> None:
        self._model = load(source, self.model_class, device)
        self._processor = load_processor(source)

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Image.Image], questions: Sequence[str], choices: Sequence[Sequence[str]]
    ) -> list[str]:
        asked = zip(images, questions, choices, strict=True)
        return [self.answer(image.convert("RGB"), question, listed).strip() for image, question, listed in asked]

    @abstractmethod
    def answer(self, image: Image.Image, question: str, choices: Sequence[str]) -> str: ...

    def inputs(self, **given: Any) -> BatchFeature:
        """The processor's tensors, on the model's device and in its precision."""
        inputs = self._processor(**given, return_tensors="pt")
        return inputs.to(self._model.device, self._model.dtype)

    def text_of(self, tokens: Tensor) -> str:
        return self._processor.batch_decode(tokens, skip_special_tokens=True)[0]


class BlipVQA(_OneByOne):
    """BLIP (`Salesforce/blip-vqa-base`, `Salesforce/blip-vqa-capfilt-large`)."""

    model_class = BlipForQuestionAnswering

    def answer(self, image: Image.Image, question: str, choices: Sequence[str]) -> str:
        inputs = self.inputs(images=image, text=question)
        tokens = self._model.generate(**inputs, max_new_tokens=LONGEST_ANSWER)
        # The first token begins every answer; its number is none of the vocabulary's in some checkpoints.
        return self.text_of(tokens[:, 1:])


class GitVQA(_OneByOne):
    """GIT (`microsoft/git-base-vqav2`, `microsoft/git-large-vqav2`): continues the question with its answer."""

    model_class = GitForCausalLM

    def answer(self, image: Image.Image, question: str, choices: Sequence[str]) -> str:
        tokenizer = self._processor.tokenizer
        pixels = self.inputs(images=image).pixel_values
        ids = [tokenizer.cls_token_id, *tokenizer(question, add_special_tokens=False).input_ids]
        given = torch.tensor([ids], device=pixels.device)
        tokens = self._model.generate(pixel_values=pixels, input_ids=given, max_new_tokens=LONGEST_ANSWER)
        return self.text_of(tokens[:, len(ids) :])


class ViltVQA(_OneByOne):
    """ViLT (`dandelin/vilt-b32-finetuned-vqa`): one of the answers that its head knows."""

    model_class = ViltForQuestionAnswering

    def answer(self, image: Image.Image, question: str, choices: Sequence[str]) -> str:
        longest = self._model.config.max_position_embeddings
        inputs = self.inputs(images=image, text=question, truncation=True, max_length=longest)
        best = int(self._model(**inputs).logits.argmax(-1))
        return str(self._model.config.id2label[best])


class Blip2VQA(_OneByOne):
    """BLIP-2 (`Salesforce/blip2-flan-t5-xl`), asked as TIFA asks it."""

    model_class = Blip2ForConditionalGeneration

    def answer(self, image: Image.Image, question: str, choices: Sequence[str]) -> str:
        listed = ", ".join(choices)
        text = f"Answer the multiple-choice question. Question: {question} Choices: {listed} Answer:"
        inputs = self.inputs(images=image, text=text)
        return self.text_of(self._model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False))


class ChatVQA(_OneByOne):
    """Any chat model that sees pictures (`Qwen/Qwen2-VL-2B-Instruct`, `llava-hf/...`), told to name one choice."""

    model_class = AutoModelForImageTextToText

    def answer(self, image: Image.Image, question: str, choices: Sequence[str]) -> str:
        text = f"{question} Answer with one of these and nothing else: {', '.join(choices)}."
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)
        tokens = self._model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        return self.text_of(tokens[:, inputs.input_ids.shape[1] :]).strip().rstrip(".")


BACKENDS: dict[str, type[_OneByOne]] = {"blip": BlipVQA, "git": GitVQA, "vilt": ViltVQA, "blip-2": Blip2VQA}


def open_vqa(source: str = DEFAULT_VQA, device: str | torch.device | None = None) -> VQA:
    """The backend for a model's kind; what is none of the four is taken for a chat model.

    Raises:
        ModelError: when it cannot be loaded.
    """
    return BACKENDS.get(model_type(source), ChatVQA)(source, device)
