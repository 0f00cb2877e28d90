"""Pictures of a U-Net, with maps of the cross-attention of the prompt's own words."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from conceptlens.families.kinds.tokens import told_apart
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.readers.call_settings import check_call
from conceptlens.readers.orders import Order, Request
from conceptlens.readers.painting import check_known, refusals
from conceptlens.readers.unet_inputs import attention_size, image_size, plain_unet, tokenizers_of
from conceptlens.values.errors import ConceptError, RecipeError, shown
from conceptlens.values.models import Pipeline
from conceptlens.values.provenance import RunInfo, plain_values, versions_of
from conceptlens.values.recipe import Recipe, check_seed
from conceptlens.values.words import check_concepts, check_prompts, content_words
from conceptlens.watch.prompt_text import PromptText, read_prompt, warn_of_prompt
from conceptlens.watch.surroundings import check_surroundings, execution_device
from conceptlens.watch.unet_attention import RunningMaps, capturing

_TEXTS = ("prompt_embeds", "pooled_prompt_embeds")
_OTHER_PROMPTS = ("prompt_2",)


def unet_order(pipeline: Pipeline, request: Request) -> Order:
    """An order for a U-Net: no concepts stand for each prompt's own words.

    Raises:
        ConceptError: for an unusable list of concepts.
        RecipeError: for no prompt, or a keyword that a U-Net's painting has not.
    """
    call = dict(request.pipeline)
    background = () if isinstance(request.background, bool) else ("background",)
    absent = [*request.settings, *background, *(n for n in ("output_type", "return_dict", *_TEXTS) if n in call)]
    absent += [name for name in ("keep", "preset") if getattr(request, name)]
    if absent:
        raise RecipeError(f"a U-Net session has no {absent[0]}. Drop it.")
    prompts = check_prompts(request.prompt)
    for name in _OTHER_PROMPTS:
        other = call.get(name)
        if other is not None and ([other] if isinstance(other, str) else list(other)) != list(prompts):
            raise RecipeError(f"{name} differs from prompt, and maps are of the prompt's words. Leave {name} out.")
    images = call.get("num_images_per_prompt")
    if images is not None and (type(images) is not int or images < 1):
        raise RecipeError(f"num_images_per_prompt must be a whole number from 1; got {shown(images)}.")
    check_call(pipeline, call)
    if not isinstance(request.prompt, str) and isinstance(call.get("negative_prompt"), str):
        call["negative_prompt"] = [call["negative_prompt"]] * len(prompts)
    seed = request.seed
    if "generator" not in call:
        seed = secrets.randbelow(2**31) if seed is None else check_seed(seed)
    elif seed is not None:
        raise RecipeError("both seed and generator were given. Give one of them.")
    concepts = () if request.concepts is None else check_concepts(request.concepts)
    prompt = request.prompt if isinstance(request.prompt, str) else list(prompts)
    return Order(prompt, tuple(prompts), tuple(concepts), (), Recipe(), call, seed)


class UnetPainter:
    """Calls the pipeline as it is, and maps the mean over steps, layers and heads. Guidance wraps it.

    Args:
        pipeline: Stable Diffusion 1, 2 or XL.
        model_id: its name, for results.
    """

    def __init__(self, pipeline: Pipeline, model_id: str) -> None:
        self.pipeline, self._model_id = pipeline, model_id

    def paint(self, order: Order) -> list[ConceptMaps]:
        """Maps of each picture of the order: probabilities, 0..1. Further pictures get `seed + 1`, ...

        Raises:
            ConceptError: for a concept that is not in the prompt.
            RecipeError: for settings that the pipeline refuses.
            ModelError: for a U-Net whose cross attention cannot be read.
        """
        started, pipeline = time.perf_counter(), self.pipeline
        check_surroundings(pipeline)
        texts = [self.text(prompt) for prompt in order.prompts]
        if order.seed is not None:  # else guidance calls, which says it itself
            for text in texts:
                warn_of_prompt(tokenizers_of(pipeline), text.encoded)
        places = [self.places(text, order.concepts or None) for text in texts]
        arguments = {"prompt": order.prompt, **order.pipeline}
        count = len(texts) * (order.pipeline.get("num_images_per_prompt") or 1)
        seeds = [None if order.seed is None else check_seed(order.seed + number) for number in range(count)]
        if order.seed is not None:
            drawn = [torch.Generator("cpu").manual_seed(seed) for seed in seeds if seed is not None]
            arguments["generator"] = drawn if len(drawn) > 1 else drawn[0]
        check_known(pipeline, arguments)
        sides = [side // pipeline.vae_scale_factor for side in image_size(pipeline, order.pipeline)]
        size = attention_size(pipeline.unet, sides, order.map_size)
        watched = RunningMaps(size, count)
        with torch.inference_mode(False), refusals(pipeline, "offload=True"), capturing(plain_unet(pipeline), watched):
            images = pipeline(**arguments).images
        info = replace(self._info(started, size), batch=len(images) if len(images) > 1 else None)
        repeats = len(images) // len(texts)
        return [
            replace(
                self._maps(image, places[n // repeats], maps, replace(info, pipeline=_settings(order, n // repeats))),
                prompt=order.prompts[n // repeats],
                seed=seeds[n],
            )
            for n, (image, maps) in enumerate(zip(images, watched.mean(), strict=True))
        ]

    def _maps(
        self,
        image: Image.Image,
        places: Mapping[str, Sequence[int]],
        maps: Float[Tensor, "key rows cols"],
        info: RunInfo,
    ) -> ConceptMaps:
        return ConceptMaps(
            concepts=tuple(places),
            scores=torch.stack([maps[list(place)].mean(0) for place in places.values()]),
            image=image.convert("RGB"),
            recipe=None,
            model_id=self._model_id,
            run_info=info,
        )

    def _info(self, started: float, size: tuple[int, int]) -> RunInfo:
        pipeline = self.pipeline
        return RunInfo(
            task="generate",
            method="cross-attention",
            family="U-Net",
            settings={"attention_size": list(size)},
            guidance={},
            dtype=str(pipeline.unet.dtype).removeprefix("torch."),
            device=str(execution_device(pipeline)),
            seconds=round(time.perf_counter() - started, 3),
            versions=versions_of("diffusers", "torch"),
            steps=pipeline.num_timesteps,
        )

    def text(self, prompt: str) -> PromptText:
        """The prompt's pieces and words."""
        tokenizer = self.pipeline.tokenizer
        converted = self.pipeline.maybe_convert_prompt(prompt, tokenizer)
        limit = {"max_length": tokenizer.model_max_length, "truncation": True}
        ids = tokenizer(converted, **limit, return_tensors="pt").input_ids
        return read_prompt(prompt, tokenizer, ids[0], [], 0, converted)

    def places(self, text: PromptText, names: Sequence[str] | None) -> dict[str, list[int]]:
        """Encoder positions of each concept; None for the prompt's own words, as far as they have any.

        Raises:
            ConceptError: for a concept that is not in the prompt, or a prompt without words.
        """
        places: dict[str, list[int]] = {}
        for name in content_words(text.prompt) if names is None else names:
            try:
                places[name] = self._own_places(text, name)
            except ConceptError:
                if names is not None:
                    raise
        if not places:
            raise ConceptError(f"the prompt {text.prompt!r} has no word to map. Name one of its words as a concept.")
        return places

    def _own_places(self, text: PromptText, name: str) -> list[int]:
        try:
            places = text.find([name])[0]
        except RecipeError as error:
            raise ConceptError(
                f"{error} A U-Net paints with maps of these alone; for others, read the picture: read PHOTO -c WORD."
            ) from None
        tokenizer = self.pipeline.tokenizer
        return list(told_apart(tokenizer, name, tokenizer(text.encoded, verbose=False).input_ids, places, "CLIP"))


def _settings(order: Order, prompt: int) -> dict[str, Any]:
    """The plain keywords that paint one prompt again."""
    plain, unwanted = plain_values(order.pipeline), order.pipeline.get("negative_prompt")
    return {**plain, "negative_prompt": unwanted[prompt]} if isinstance(unwanted, list) else plain
