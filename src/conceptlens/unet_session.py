"""A session on a U-Net: it paints, guided or not, with cross-attention maps of the prompt's words. It cannot replay."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch

from conceptlens.families.kinds.tokens import told_apart
from conceptlens.guidance import Guidance, GuidedCall, GuidedMaps, GuidedResult, PromptText
from conceptlens.guidance.painting import chosen_guidance, prompt_words
from conceptlens.guidance.unets import attention_size, image_size, tokenizers_of
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.readers.painting import refusals
from conceptlens.readers.unets import LoadedUnet
from conceptlens.session import Session
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from conceptlens.values.provenance import RunInfo, plain_values, versions_of
from conceptlens.values.recipe import Recipe, check_seed
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import check_concepts, check_prompts
from conceptlens.watch.prompt_text import read_prompt, warn_of_prompt
from conceptlens.watch.surroundings import check_surroundings
from conceptlens.watch.unet_attention import RunningMaps, capturing


class UnetSession(Session):
    """Stable Diffusion 1, 2 or XL. A U-Net has no text stream, so nothing can be read or asked again later."""

    def __init__(self, model: LoadedUnet) -> None:
        self._model: Any = model

    @property
    def family(self) -> str:
        return "U-Net"

    @property
    def depth(self) -> int:
        return 0

    def generate(
        self,
        prompt: str | Sequence[str] | None,
        concepts: Sequence[str] | None = None,
        *,
        seed: int | None = None,
        guide: Guidance | str | None = None,
        compare: bool = False,
        **options: Any,
    ) -> Any:
        """Paints the prompt, guided if asked, and maps the cross-attention of its words over the whole run.

        Args:
            prompt: a text, or several for a batch.
            concepts: words of the prompt, or runs of them ("red house"); None: all but function words.
            seed: of the starting noise, drawn on the CPU; further images get `seed + 1`, ...
            guide: a guidance (`TSAM()`, ...) or its name ("tsam:paper-ae"); see `conceptlens.guidance`.
            compare: with `guide`, also paint the plain picture of the same seed.
            **options: of the pipeline's call.

        Returns:
            `ConceptMaps`, of a guided picture `GuidedMaps`; a list of them for several pictures. Scores are
            probabilities, the mean over steps, layers and heads.

        Raises:
            ConceptError: for a concept that is not in the prompt.
            RecipeError: for impossible settings.
            ModelError: for a pipeline or scheduler that cannot be guided.
        """
        guide = chosen_guidance(guide, compare)
        prompts = check_prompts(prompt)
        for name in ("output_type", "record", "keep", "preset"):
            if options.get(name) is not None:
                raise RecipeError(f"a U-Net session has no {name}. Drop it.")
        seed = secrets.randbelow(2**31) if seed is None else check_seed(seed)
        options = {**self.generate_defaults, **options}
        if isinstance(options.get("negative_prompt"), str):
            options["negative_prompt"] = [options["negative_prompt"]] * len(prompts)
        names = None if concepts is None else check_concepts(concepts)
        run, maps = self._paint(prompts, names, guide, seed, options)
        if guide is not None:
            before = self._paint(prompts, names, replace(guide, alpha=0.0), seed, options)[1] if compare else None
            plain = [None] * len(maps) if before is None else before
            maps = [GuidedMaps.of(own, run, n, other) for n, (own, other) in enumerate(zip(maps, plain, strict=True))]
        return maps[0] if not isinstance(prompt, list | tuple) and len(maps) == 1 else maps

    def _paint(
        self,
        prompts: list[str],
        names: Sequence[str] | None,
        guidance: Guidance | None,
        seed: int,
        options: dict[str, Any],
    ) -> tuple[GuidedResult, list[ConceptMaps]]:
        """A call of the pipeline with its cross-attention watched, and the maps of each picture."""
        started = time.perf_counter()
        pipeline = self.pipeline
        check_surroundings(pipeline)
        texts = [self._text(prompt) for prompt in prompts]
        if guidance is None:  # which says it itself
            for text in texts:
                warn_of_prompt(tokenizers_of(pipeline), text.encoded)
        shown = [self._places(text, names) for text in texts]
        call = GuidedCall(pipeline, prompts, guidance, seed, options)
        sides = [side // pipeline.vae_scale_factor for side in image_size(pipeline, options)]
        size = attention_size(pipeline.unet, sides, guidance and guidance.attention_size)
        watched = RunningMaps(size, len(call.seeds))
        unet = getattr(pipeline.unet, "_orig_mod", pipeline.unet)
        with torch.inference_mode(False), refusals(pipeline, "offload=True"), capturing(unet, watched):
            images = pipeline(**call.arguments).images
        run, attention = call.result(images), watched.mean()
        settings = plain_values(options)
        unwanted = options.get("negative_prompt")
        info = RunInfo(
            task="generate",
            method="cross-attention",
            family=self.family,
            settings={"attention_size": list(size)},
            guidance={},
            dtype=str(unet.dtype).removeprefix("torch."),
            device=str(pipeline._execution_device),
            seconds=round(time.perf_counter() - started, 3),
            versions=versions_of("diffusers", "torch"),
            steps=pipeline.num_timesteps,
            batch=len(images) if len(images) > 1 else None,
        )
        repeats = len(images) // len(prompts)
        maps = [
            ConceptMaps(
                concepts=tuple(shown[n // repeats]),
                scores=torch.stack([attention[n, list(places)].mean(0) for places in shown[n // repeats].values()]),
                image=image.convert("RGB"),
                recipe=None,
                model_id=self.model_id,
                prompt=prompts[n // repeats],
                seed=call.seeds[n],
                run_info=replace(
                    info,
                    pipeline=settings if not unwanted else {**settings, "negative_prompt": unwanted[n // repeats]},
                ),
            )
            for n, image in enumerate(images)
        ]
        return run, maps

    def _text(self, prompt: str) -> PromptText:
        """The prompt's pieces and words."""
        tokenizer = self.pipeline.tokenizer
        told = self.pipeline.maybe_convert_prompt(prompt, tokenizer)
        ids = tokenizer(told, max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt").input_ids
        return read_prompt(prompt, tokenizer, ids[0], [], 0, told)

    def _places(self, text: PromptText, names: Sequence[str] | None) -> dict[str, list[int]]:
        """Encoder positions of each concept."""
        found: dict[str, list[int]] = {}
        for name in prompt_words([text.prompt]) if names is None else names:
            try:
                found[name] = self._own_places(text, name)
            except ConceptError:
                if names is not None:
                    raise
        if not found:
            raise ConceptError(f"the prompt {text.prompt!r} has no word to map. Name one of its words as a concept.")
        return found

    def _own_places(self, text: PromptText, name: str) -> list[int]:
        try:
            places = text.find([name])[0]
        except RecipeError as error:
            raise ConceptError(
                f"{error} A U-Net paints with maps of these alone; for others, use the method daam or ovam."
            ) from None
        tokenizer = self.pipeline.tokenizer
        return list(told_apart(tokenizer, name, tokenizer(text.encoded, verbose=False).input_ids, places, "CLIP"))

    def read(self, image: Any, **options: Any) -> NoReturn:
        """Raises a `ModelError`: see `daam` and `ovam` of `conceptlens methods`."""
        raise self._refusal("read an image")

    def probe(self, record: Any, concepts: Any, **options: Any) -> NoReturn:
        """Raises a `ModelError`; see `read`."""
        raise self._refusal("probe a record")

    def load_record(self, path: Any) -> NoReturn:
        """Raises a `ModelError`; see `read`."""
        raise self._refusal("probe a record")

    def save_record(self, record: ImageRecord, path: Any) -> NoReturn:
        """Raises a `ModelError`; see `read`."""
        raise self._refusal("keep a record")

    def recipe(self, preset: str | None = None, **options: Any) -> Recipe:
        """Raises a `ModelError`: a recipe is of a concept stream."""
        raise self._refusal("follow a recipe")

    def _refusal(self, what: str) -> ModelError:
        return ModelError(
            f"{self.model_id} is a U-Net, which cannot be replayed, so it cannot {what}. Use the method daam or ovam "
            "(read --method daam), or a diffusion transformer."
        )
