"""What each text encoder of a pipeline makes of a prompt: words, embeddings, self-attention."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from conceptlens.values.errors import RecipeError
from conceptlens.values.models import Model, Module, Pipeline
from conceptlens.watch.prompt_readings import read_t5_prompt
from conceptlens.watch.prompt_text import PromptText, TextAttentionReader, read_prompt
from conceptlens.watch.surroundings import execution_device
from conceptlens.watch.t5_text import T5AttentionReader

SHARES = ("begin", "prompt", "end", "padding")


@dataclass(frozen=True)
class EncoderReading:
    """One prompt in one encoder; all on the CPU.

    Attributes:
        encoder: the part's name in the pipeline and its kind.
        text: words and self-attention by layer, begin, end and padding cut out.
        embeddings: of the prompt's own tokens: the last hidden states, or the last but one where the pipeline asks the
            encoder for all of them (as Stable Diffusion XL and 3 do).
        shares: what the prompt's tokens pay, on average, to begin, prompt, end and padding, by layer; rows sum to one.
        position_attention: attention by relative position alone, mean over layers (T5); None where there is none.
    """

    encoder: str
    text: PromptText
    embeddings: Float[Tensor, "token dim"]
    shares: Float[Tensor, "layer 4"]
    position_attention: Float[Tensor, "token token"] | None

    @property
    def causal(self) -> bool:
        """Whether tokens see only those before them."""
        return self.text.causal

    def places(self, words: tuple[int, ...]) -> list[int]:
        """Rows of `embeddings` and of attention, for a word's encoder positions."""
        return [position - self.text.positions[0] for position in words]


@dataclass(frozen=True)
class Reading:
    """One prompt: each encoder's view, and what the pipeline hands on of it.

    Attributes:
        encoders: in the pipeline's order.
        embeds: the pipeline's prompt embeddings, begin, end and padding included.
    """

    encoders: tuple[EncoderReading, ...]
    embeds: Float[Tensor, "position dim"]


@torch.no_grad()
def read_prompt_with(pipeline: Pipeline, prompt: str) -> Reading:
    """Encodes a prompt as the pipeline itself does, once, and reads every encoder on the way.

    Raises:
        ModelError: for an encoder that is neither CLIP nor T5.
        RecipeError: for a prompt that is cut off.
    """
    names = [n for n in ("text_encoder", "text_encoder_2", "text_encoder_3") if getattr(pipeline, n, None) is not None]
    with ExitStack() as stack:
        taken = {name: stack.enter_context(_Taken(getattr(pipeline, name))) for name in names}
        embeds = pipeline.encode_prompt(**_arguments(pipeline, prompt))
    readings = [_reading(pipeline, name, prompt, taken[name]) for name in names]
    first = embeds[0] if isinstance(embeds, tuple) else embeds
    return Reading(tuple(readings), first[0].float().cpu())


def _arguments(pipeline: Pipeline, prompt: str) -> dict[str, Any]:
    known = inspect.signature(pipeline.encode_prompt).parameters
    wanted = {"prompt": prompt, "prompt_2": None, "prompt_3": None, "device": execution_device(pipeline)}
    wanted |= {"do_classifier_free_guidance": False, "num_images_per_prompt": 1}
    return {name: value for name, value in wanted.items() if name in known}


class _Taken:
    """An encoder's attention reader, and its hidden states."""

    def __init__(self, encoder: Model) -> None:
        bidirectional = hasattr(encoder, "encoder") and hasattr(encoder.encoder, "block")
        self.reader = T5AttentionReader(encoder) if bidirectional else TextAttentionReader(encoder)
        self._encoder, self._handle = encoder, None
        self.states: Tensor = torch.empty(0)

    def __enter__(self) -> _Taken:
        def keep(_module: Module, _args: object, kwargs: dict[str, Any], out: Module) -> None:
            self.states = out.hidden_states[-2] if kwargs.get("output_hidden_states") else out.last_hidden_state

        self._handle = self._encoder.register_forward_hook(keep, with_kwargs=True)
        self.reader.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.__exit__()
        if self._handle is not None:
            self._handle.remove()


def _reading(pipeline: Pipeline, name: str, prompt: str, taken: _Taken) -> EncoderReading:
    tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
    reader = taken.reader
    assert reader.input_ids is not None
    row, attention, blind = reader.input_ids[0].cpu(), reader.attention()[0].cpu(), None
    if isinstance(reader, T5AttentionReader):
        text = read_t5_prompt(prompt, tokenizer, row, attention)
        blind = reader.attention(content=False)[0].mean(0)
    else:
        text = read_prompt(prompt, tokenizer, row, [attention], 0)
    positions = text.positions
    said = len(tokenizer(prompt, truncation=False, verbose=False).input_ids)
    if len(positions) < 2 or said > len(row):
        raise RecipeError(
            f"the prompt {prompt[:40]!r} has {said} tokens with its marks; {name} reads {len(row)}. "
            "Use prompts of two words or more that fit."
        )
    span = slice(positions[0], positions[-1] + 1)
    whole = attention[:, span].mean(1)
    end = positions[-1] + 1
    parts = (whole[:, : positions[0]], whole[:, span], whole[:, end : end + 1], whole[:, end + 1 :])
    return EncoderReading(
        encoder=f"{name} {'CLIP' if text.causal else 'T5'}",
        text=text,
        embeddings=taken.states[0, span].float().cpu(),
        shares=torch.stack([part.sum(1) for part in parts], 1),
        position_attention=None if blind is None else blind[span, span].cpu(),
    )
