"""What guidance sees of a diffusion transformer's pipeline: what the prompt says, first latents, word maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import adapter_for, prompt_encoders
from conceptlens.families.base import DiTAdapter, PromptEncoders
from conceptlens.families.kinds.first_call import first_call
from conceptlens.guidance.base import Maps
from conceptlens.guidance.joint_maps import JointMaps
from conceptlens.values.early_exit import StopForward
from conceptlens.values.errors import RecipeError, shown
from conceptlens.values.models import Pipeline, Tokenizer
from conceptlens.watch.prompt_readings import by_words, read_t5_prompt
from conceptlens.watch.prompt_text import PromptText, TextAttentionReader, read_prompt, warn_of_lost_words
from conceptlens.watch.t5_text import T5AttentionReader


class GuidedTransformer:
    """A transformer before its first step.

    Attributes:
        module: the transformer itself, without what `torch.compile` wraps around it.
        texts: for each image the prompt as T5 read it and as CLIP did; tokens are words, positions those of `maps`.
        latents: the first noise: packed tokens (image, patch, dim) for FLUX.1, (image, channel, rows, cols) for SD 3.
        arguments: of a call with the prompt alone, but for latents and timestep.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        prompts: list[str],
        guidance: Any,  # noqa: ANN401 - a method that reads transformers, with settings for it that others do not have
        generators: list[torch.Generator],
        options: Mapping[str, Any],
    ) -> None:
        known = prompt_encoders()
        self._encoders = next(known[base.__name__] for base in type(pipeline).__mro__ if base.__name__ in known)
        adapter = adapter_for(pipeline.transformer)
        assert isinstance(adapter, DiTAdapter)  # those with `prompts` are
        self.module = adapter.transformer
        given, segments, self.texts = _started(pipeline, self._encoders, prompts, generators, options)
        self.texts = tuple(_chosen(readings, guidance.text_encoders) for readings in self.texts)
        self.latents = given["hidden_states"]
        self.arguments = {n: v for n, v in given.items() if n not in ("hidden_states", "timestep", "return_dict")}
        whole = (
            guidance.checkpointing
            or self.module.gradient_checkpointing
            or bool(self.arguments.get("joint_attention_kwargs"))
        )
        kind: str = guidance.maps
        self.joint = JointMaps(
            adapter,
            kind,
            _blocks(adapter, kind, guidance.blocks),
            adapter.observe(given, slice(None), 0, None),
            segments,
            early_exit=not whole,
        )
        hook = getattr(pipeline.transformer, "_hf_hook", None)
        if hook is not None:  # model offload; the calls below go past it
            hook.pre_forward(pipeline.transformer)

    def maps(self, latents: Tensor, timestep: Tensor) -> Sequence[Maps]:
        """One forward with the prompt alone: (word, rows, cols) of each image, with graph."""
        time = timestep.to(latents.device).expand(len(latents))
        if self._encoders.time != 1:  # FLUX.1 rounds its timesteps to the latents' precision before the division
            time = time.to(latents.dtype) / self._encoders.time
        with suppress(StopForward):
            # Past all hooks on the transformer itself: one that records the pipeline's own calls must not see this one.
            type(self.module).forward(
                self.module, hidden_states=latents, timestep=time, **self.arguments, return_dict=False
            )
        return self.joint.mean()

    def reading(self) -> AbstractContextManager[None]:
        """See `GuidedModel`."""
        return self.joint.reading()


Places = tuple[tuple[tuple[int, ...], ...], ...]
"""Text rows of a prompt's words in each segment of the text stream."""


def _started(
    pipeline: Pipeline,
    encoders: PromptEncoders,
    prompts: list[str],
    generators: list[torch.Generator],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], list[Places], tuple[tuple[PromptText, ...], ...]]:
    """The pipeline's own first call without a negative prompt; for each image where words stand, and its readings."""
    call = {n: v for n, v in options.items() if not n.startswith(("negative_prompt", "callback"))}
    call |= {**encoders.plain, "prompt": prompts, "generator": generators if len(generators) > 1 else generators[0]}
    with ExitStack() as stack:
        readers = {
            ending: stack.enter_context((T5AttentionReader if ending == encoders.t5 else TextAttentionReader)(module))
            for ending in (*encoders.clip, encoders.t5)
            if (module := getattr(pipeline, f"text_encoder{ending}")) is not None
        }
        given = first_call(pipeline, call)
    unused = encoders.unused + (options.get("clip_skip") or 0)
    encoders = replace(encoders, unused=unused)
    read = [
        _placed(pipeline, encoders, _read(pipeline, encoders, readers, row, prompt))
        for row, prompt in enumerate(prompts)
    ]
    images = [pair for pair in read for _ in range(options.get("num_images_per_prompt") or 1)]
    return given, [places for places, _ in images], tuple(readings for _, readings in images)


def _read(
    pipeline: Pipeline, encoders: PromptEncoders, readers: Mapping[str, Any], row: int, prompt: str
) -> tuple[PromptText | None, PromptText | None]:
    """A prompt as CLIP and as T5 read it; None for an encoder that the pipeline lacks."""
    clip = t5 = None
    endings = [ending for ending in encoders.clip if ending in readers]
    if endings:
        tokenizer = getattr(pipeline, f"tokenizer{encoders.clip[0]}")
        attentions = [readers[ending].attention()[row] for ending in endings]
        ids = readers[endings[0]].input_ids[row]
        spelt_out = _spelt_out(pipeline, prompt, tokenizer)
        warn_of_lost_words(tokenizer, spelt_out, ids.shape[-1])
        clip = read_prompt(prompt, tokenizer, ids, attentions, encoders.unused, spelt_out)
    if encoders.t5 in readers:
        tokenizer, reader = getattr(pipeline, f"tokenizer{encoders.t5}"), readers[encoders.t5]
        ids = reader.input_ids[row]
        spelt_out = _spelt_out(pipeline, prompt, tokenizer)
        warn_of_lost_words(tokenizer, spelt_out, ids.shape[-1])
        t5 = read_t5_prompt(prompt, tokenizer, ids, reader.attention()[row], spelt_out)
    return clip, t5


def _placed(
    pipeline: Pipeline, encoders: PromptEncoders, texts: tuple[PromptText | None, PromptText | None]
) -> tuple[Places, tuple[PromptText, ...]]:
    """Text rows of a prompt's words in each segment, and its readings by words, T5's first."""
    clip, t5 = texts
    if not encoders.clip_rows:
        assert t5 is not None
        names = [word for word, _ in t5.words]
        places = tuple(rows for _, rows in t5.words)
        return (places,), tuple(by_words(text, names, 0) for text in (t5, clip) if text is not None)
    segments, readings, first = [], [], 0
    length: int = getattr(pipeline, f"tokenizer{encoders.clip[0]}").model_max_length
    for text, offset in ((clip, 0), (t5, length)):
        if text is not None and text.words:
            segments.append(tuple(tuple(offset + place for place in rows) for _, rows in text.words))
            readings.append(by_words(text, [word for word, _ in text.words], first))
            first += len(text.words)
    return tuple(segments), tuple(reversed(readings))


def _spelt_out(pipeline: Pipeline, prompt: str, tokenizer: Tokenizer) -> str:
    """The prompt with the names of all vectors of a textual inversion, in pipelines that can load one."""
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    return prompt if convert is None else convert(prompt, tokenizer)


def _chosen(readings: Sequence[PromptText], wanted: str) -> tuple[PromptText, ...]:
    kept = tuple(text for text in readings if wanted == "all" or text.causal == (wanted == "clip"))
    if not kept:
        raise RecipeError(f"this pipeline has no {wanted} text encoder to follow. Use text_encoders='all'.")
    return kept


def _blocks(adapter: DiTAdapter, kind: str, given: tuple[int, ...] | None) -> tuple[int, ...]:
    blocks = adapter.blocks()
    if given is not None and (isinstance(given, str) or not isinstance(given, Sequence) or not given):
        raise RecipeError(f"blocks must be numbers of dual-stream blocks, such as (2, 3); got {shown(given)}.")
    recipe = replace(adapter.recipe(len(blocks)), layers=given) if given is not None else adapter.recipe(len(blocks))
    layers = recipe.resolve(len(blocks)).layers or ()
    # The last block of Stable Diffusion 3 attends for the text, too, but passes none of it on.
    silent = [n for n in layers if kind == "output" and "out" not in adapter.text_taps(blocks[n])]
    if silent and given is not None:
        raise RecipeError(f"block {silent[0]} has no text output. Leave it out of blocks, or use maps='joint'.")
    return tuple(n for n in layers if n not in silent)
