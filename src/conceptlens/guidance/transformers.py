"""What guidance sees of a FLUX.1 or Stable Diffusion 3 pipeline: what the prompt says, first latents, word maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conceptlens.families import adapter_for
from conceptlens.families.base import DiTAdapter
from conceptlens.families.kinds.calls import named_arguments
from conceptlens.guidance.base import Maps
from conceptlens.guidance.joint_maps import JointMaps
from conceptlens.values.errors import RecipeError, shown
from conceptlens.watch.early_exit import StopForward
from conceptlens.watch.prompt_readings import by_words, read_t5_prompt
from conceptlens.watch.prompt_text import PromptText, TextAttentionReader, read_prompt, warn_of_lost_words
from conceptlens.watch.t5_text import T5AttentionReader


@dataclass(frozen=True)
class Layout:
    """How a pipeline uses its text encoders.

    Attributes:
        clip: endings of the names of its CLIP encoders, `text_encoder` and so on; they share a tokenizer's cuts.
        t5: the ending of its T5 encoder.
        clip_rows: whether CLIP's states are rows of the text stream, before T5's; else only its pooled vector is used.
        unused: how many of CLIP's last layers never reach the transformer.
        time: what the scheduler's timesteps are divided by.
        plain: options without which a negative prompt would be encoded, too.
    """

    clip: tuple[str, ...]
    t5: str
    clip_rows: bool
    unused: int
    time: int
    plain: Mapping[str, Any]


LAYOUTS = {
    "FluxPipeline": Layout(("",), "_2", False, 0, 1000, {"true_cfg_scale": 1.0}),
    "StableDiffusion3Pipeline": Layout(("", "_2"), "_3", True, 1, 1, {"guidance_scale": 1.0}),
}


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
        pipeline: Any,
        prompts: list[str],
        guidance: Any,  # a method that reads transformers, with settings for it that others do not have
        generators: list[torch.Generator],
        options: Mapping[str, Any],
    ) -> None:
        kinds = [base.__name__ for base in type(pipeline).__mro__]
        self._layout = next(LAYOUTS[kind] for kind in kinds if kind in LAYOUTS)
        adapter = adapter_for(pipeline.transformer)
        assert isinstance(adapter, DiTAdapter)  # those of LAYOUTS are
        self.module = adapter.transformer
        layout = replace(self._layout, unused=self._layout.unused + (options.get("clip_skip") or 0))
        given, readers = first_call(pipeline, self._layout, prompts, generators, options)
        segments, texts = zip(
            *(_read(pipeline, layout, readers, n, prompt) for n, prompt in enumerate(prompts)), strict=True
        )
        chosen = [_chosen(readings, guidance.text_encoders) for readings in texts]
        repeats = options.get("num_images_per_prompt") or 1
        self.texts = tuple(readings for readings in chosen for _ in range(repeats))
        call = adapter.observe(given, slice(None), 0, None)
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
            call,
            [s for s in segments for _ in range(repeats)],
            early_exit=not whole,
        )
        hook = getattr(pipeline.transformer, "_hf_hook", None)
        if hook is not None:  # model offload; the calls below go past it
            hook.pre_forward(pipeline.transformer)

    def maps(self, latents: Tensor, timestep: Tensor) -> Sequence[Maps]:
        """One forward with the prompt alone: (word, rows, cols) of each image, with graph."""
        time = timestep.to(latents.device).expand(len(latents))
        if self._layout.time != 1:  # FLUX.1 rounds its timesteps to the latents' precision before the division
            time = time.to(latents.dtype) / self._layout.time
        with suppress(StopForward):
            # Past all hooks on the transformer itself: one that records the pipeline's own calls must not see this one.
            type(self.module).forward(
                self.module, hidden_states=latents, timestep=time, **self.arguments, return_dict=False
            )
        return self.joint.mean()

    def reading(self) -> AbstractContextManager[None]:
        """See `GuidedModel`."""
        return self.joint.reading()


@torch.no_grad()
def first_call(
    pipeline: Any, layout: Layout, prompts: list[str], generators: list[torch.Generator], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the pipeline's own first call of its transformer, and what its text encoders were seen doing.

    The pipeline runs until that call, without a negative prompt, and is stopped there: whatever it does to timesteps,
    latents and embeddings is done by itself.
    """
    seen: dict[str, Any] = {}

    def stop(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(named_arguments(pipeline.transformer, args, kwargs))
        raise StopForward

    call = {n: v for n, v in options.items() if not n.startswith(("negative_prompt", "callback"))}
    call |= {**layout.plain, "prompt": prompts, "generator": generators if len(generators) > 1 else generators[0]}
    bar = getattr(pipeline, "_progress_bar_config", {})
    handle = pipeline.transformer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        pipeline.set_progress_bar_config(**{**bar, "disable": True})
        with ExitStack() as stack:
            readers = {
                ending: stack.enter_context(
                    (T5AttentionReader if ending == layout.t5 else TextAttentionReader)(encoder)
                )
                for ending in (*layout.clip, layout.t5)
                if (encoder := getattr(pipeline, f"text_encoder{ending}")) is not None
            }
            with suppress(StopForward):
                pipeline(**call)
    finally:
        handle.remove()
        pipeline.set_progress_bar_config(**bar)
    return seen, readers


def _read(
    pipeline: Any, layout: Layout, readers: Mapping[str, Any], row: int, prompt: str
) -> tuple[tuple[tuple[tuple[int, ...], ...], ...], tuple[PromptText, ...]]:
    """Text rows of a prompt's words in each segment, and its readings."""
    clip = t5 = None
    tokenizer = getattr(pipeline, f"tokenizer{layout.clip[0]}")
    endings = [ending for ending in layout.clip if ending in readers]
    if endings:
        attentions = [readers[ending].attention()[row] for ending in endings]
        ids = readers[endings[0]].input_ids[row]
        told = _spelt_out(pipeline, prompt, tokenizer)
        warn_of_lost_words(tokenizer, told, ids.shape[-1])
        clip = read_prompt(prompt, tokenizer, ids, attentions, layout.unused, told)
    if layout.t5 in readers:
        tokenizer_t5, reader = getattr(pipeline, f"tokenizer{layout.t5}"), readers[layout.t5]
        ids = reader.input_ids[row]
        told = _spelt_out(pipeline, prompt, tokenizer_t5)
        warn_of_lost_words(tokenizer_t5, told, ids.shape[-1])
        t5 = read_t5_prompt(prompt, tokenizer_t5, ids, reader.attention()[row], told)
    if not layout.clip_rows:
        assert t5 is not None
        names = [word for word, _ in t5.words]
        places = tuple(rows for _, rows in t5.words)
        own = [by_words(text, names, 0) for text in (t5, clip) if text is not None]
        return (places,), tuple(own)
    segments, readings, first = [], [], 0
    offsets = ((clip, 0), (t5, tokenizer.model_max_length))
    for text, offset in offsets:
        if text is not None and text.words:
            segments.append(tuple(tuple(offset + place for place in rows) for _, rows in text.words))
            readings.append(by_words(text, [word for word, _ in text.words], first))
            first += len(text.words)
    return tuple(segments), tuple(reversed(readings))


def _spelt_out(pipeline: Any, prompt: str, tokenizer: Any) -> str:
    """The prompt with the names of all vectors of a textual inversion, in pipelines that can load one."""
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    return prompt if convert is None else convert(prompt, tokenizer)


def _chosen(readings: Sequence[PromptText], wanted: str) -> tuple[PromptText, ...]:
    kept = tuple(text for text in readings if wanted == "all" or text.causal == (wanted == "clip"))
    if not kept:
        raise RecipeError(f"this pipeline has no {wanted} text encoder to follow. Use text_encoders='all'.")
    return kept


def _blocks(adapter: Any, kind: str, given: tuple[int, ...] | None) -> tuple[int, ...]:
    blocks = adapter.blocks()
    if given is not None and (isinstance(given, str) or not isinstance(given, Sequence) or not given):
        raise RecipeError(f"blocks must be numbers of dual-stream blocks, such as (2, 3); got {shown(given)}.")
    recipe = replace(adapter.recipe(len(blocks)), layers=given) if given is not None else adapter.recipe(len(blocks))
    layers = recipe.resolve(len(blocks)).layers or ()
    # The last block of Stable Diffusion 3 attends for the text, too, but passes none of it on.
    silent = [n for n in layers if kind == "output" and getattr(blocks[n].attn, "to_add_out", None) is None]
    if silent and given is not None:
        raise RecipeError(f"block {silent[0]} has no text output. Leave it out of blocks, or use maps='joint'.")
    return tuple(n for n in layers if n not in silent)
