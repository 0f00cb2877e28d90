"""Session: generate, read, probe. The facade that users meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

from PIL import Image
from torch import Tensor

from conceptlens.families.base import ModelAdapter
from conceptlens.guidance import Guidance, GuidedMaps, chosen_guidance
from conceptlens.guidance.painting import GuidedPainter, check_guided
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.video_maps import maps_of
from conceptlens.readers.base import Asking, Reader, Verb
from conceptlens.readers.choosing import open_reader
from conceptlens.readers.embedding import ConceptEmbedder
from conceptlens.readers.keeping import RECORD_BUDGET, Keeping, Store
from conceptlens.readers.orders import Background, Request, note_unknown, with_background
from conceptlens.readers.pictures import BATCH, Source, check_batch, is_several, readings_of
from conceptlens.readers.replay import records_of
from conceptlens.readers.text_streams import TextStreamReader
from conceptlens.values.clips import Clip
from conceptlens.values.errors import RecipeError
from conceptlens.values.models import Pipeline
from conceptlens.values.recipe import RECIPE_FIELDS, Recipe
from conceptlens.values.record_files import load_record, save_record
from conceptlens.values.records import ImageRecord
from conceptlens.values.words import check_text
from conceptlens.watch.surroundings import usual_defaults


class Session:
    """A model that is ready to be asked where it sees a concept. Made by `conceptlens.load`."""

    def __init__(self, reader: Reader[Any]) -> None:
        self.reader = reader

    @property
    def can(self) -> frozenset[Verb]:
        """What this kind of model can do: "generate", "read", "probe" and others; see `require`."""
        return self.reader.can

    def require(self, verb: Verb) -> None:
        """Raises a `ModelError` for what this kind of model cannot do: with the reason, and what to do instead."""
        self.reader.require(verb)

    @property
    def pipeline(self) -> Pipeline:
        """The untouched diffusers pipeline."""
        return self.reader.pipeline

    @property
    def model_id(self) -> str:
        """The hub id or folder of the model; "demo" for the embedded one."""
        return self.reader.model_id

    @property
    def adapter(self) -> ModelAdapter:
        """What is known of the model's family. Raises a `ModelError` for a model without a text stream."""
        return self._text_stream().model.adapter

    @property
    def embed(self) -> ConceptEmbedder:
        """Encodes concepts. Raises a `ModelError` for a model without a text stream."""
        return self._text_stream().embed

    def _text_stream(self) -> TextStreamReader[Any]:
        self.require("follow")
        assert isinstance(self.reader, TextStreamReader)
        return self.reader

    @property
    def single_stream(self) -> bool:
        """Whether single-stream blocks are followed behind the dual-stream ones."""
        return "follow" in self.can and self.adapter.single_stream

    @property
    def family(self) -> str:
        """The model's family, such as "FLUX.1" or "U-Net"."""
        return self.reader.family

    @property
    def depth(self) -> int:
        """How many layers can be asked for: blocks that carry text, or layers of cross attention."""
        return self.reader.depth

    @property
    def generate_defaults(self) -> dict[str, Any]:
        """Pipeline keywords that `generate` sets unless told otherwise, from the model's `conceptlens.json`."""
        return dict(self.reader.defaults.generate)

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """The words that the model knows, where it knows few; None for a model with an open vocabulary."""
        return self.reader.defaults.vocabulary

    @property
    def calibration(self) -> Mapping[str, Any] | None:
        """What `conceptlens.presence` needs to turn this model's scores into chances; None where nobody measured it."""
        return self.reader.defaults.presence

    def recipe(self, preset: str | None = None, **options: Any) -> Recipe:
        """The recipe that a call with these settings uses, with concrete layers.

        Raises:
            RecipeError: for an unknown preset or option, or a layer that the model does not have.
        """
        return self.reader.recipe(preset, options)

    @overload
    def generate(
        self,
        prompt: str | None,
        concepts: Sequence[str] | None = None,
        *,
        seed: int | None = None,
        preset: str | None = None,
        background: Background = True,
        keep: bool = False,
        record: bool | Literal["fit"] = False,
        record_budget: int = RECORD_BUDGET,
        record_store: Store = "model",
        guide: None = None,
        compare: bool = False,
        **options: Any,
    ) -> ConceptMaps: ...
    @overload
    def generate(
        self,
        prompt: str,
        concepts: Sequence[str] | None = None,
        *,
        seed: int | None = None,
        preset: str | None = None,
        background: Background = True,
        keep: bool = False,
        record: bool | Literal["fit"] = False,
        record_budget: int = RECORD_BUDGET,
        record_store: Store = "model",
        guide: Guidance | str,
        compare: bool = False,
        **options: Any,
    ) -> GuidedMaps: ...
    @overload
    def generate(
        self,
        prompt: list[str] | tuple[str, ...],
        concepts: Sequence[str] | None = None,
        *,
        seed: int | None = None,
        preset: str | None = None,
        background: Background = True,
        keep: bool = False,
        guide: Guidance | str | None = None,
        compare: bool = False,
        **options: Any,
    ) -> list[ConceptMaps]: ...
    def generate(  # noqa: PLR0913 - the public call: one keyword for each thing that a painting may vary
        self,
        prompt: str | Sequence[str] | None,
        concepts: Sequence[str] | None = None,
        *,
        seed: int | None = None,
        preset: str | None = None,
        background: Background = True,
        keep: bool = False,
        record: bool | Literal["fit"] = False,
        record_budget: int = RECORD_BUDGET,
        record_store: Store = "model",
        guide: Guidance | str | None = None,
        compare: bool = False,
        **options: Any,
    ) -> Any:
        """Paints the prompt and maps the concepts while at it. The image is the plain pipeline's, bit for bit.

        Args:
            prompt: a text, or several for a batch; None with `prompt_embeds=` (and what else stands for a text).
                Concepts need the text encoders, unless they were asked before those were freed.
            concepts: any words, in the prompt or not; None for the prompt's own words that name things.
            seed: of the starting noise, drawn on the CPU; a random one (told in the result) when None.
            preset: "paper" for the settings of the official code, "sharp" for refined maps.
            background: words that compete without being shown. True: the model's usual ones join a single concept,
                whose softmax would be 1 everywhere; False: none; or words of your own, which always join.
            keep: also keep the scores of each step and layer, in `ConceptMaps.parts`.
            record: also keep what `probe` needs to ask this picture for other concepts, in `ConceptMaps.record`: per
                wanted step (`steps=`) keys and values of all blocks up to the last wanted one, outputs of the wanted.
                The embedded model takes 2 MB a step, FLUX.1 at 1024 x 1024 about 1 GB; `doctor` says it for any.
                "fit": of as many steps, evenly spread, as the budget takes; maps are of those.
            record_budget: bytes that the record may take.
            record_store: "model", where the model is; "cpu"; or "disk", temporary files mapped into memory.
            guide: `TSAM(experimental=True, ...)`, or a name such as "tsam:transformer", moves the latents on the way.
            compare: with `guide`, also paint the plain picture of the same seed.
            **options: fields of `Recipe` (`space=`, `softmax=`, `layers=`, ...); all others go to the pipeline
                (`num_inference_steps=`, `height=`, `guidance_scale=`, ...).

        Returns:
            `ConceptMaps` (`GuidedMaps` with `guide`); a list of them for several prompts or `num_images_per_prompt`
            above 1. A video model gives `VideoMaps` in their place, which type checkers do not know.

        Raises:
            ConceptError: for an unusable list of concepts.
            RecipeError: for impossible settings; `BudgetError`, one of them, for a record beyond its budget.
            ModelError: for a model that cannot be read, or that gives NaN.
        """
        self.require("record" if record else "generate")
        guidance = chosen_guidance(guide, compare)
        settings, given = _parted(options, RECIPE_FIELDS)
        call = {**self.generate_defaults, **given}
        painter = self.reader.painter()
        if guidance is not None:
            check_guided(self.pipeline, guidance, prompt, call)
            painter = GuidedPainter(painter, guidance, compare=compare)
        keeping = Keeping(record_budget, record == "fit", record_store) if record else None
        request = Request(prompt, concepts, background, seed, keep, keeping, preset, settings, call)
        painted = painter.paint(self.reader.order(request))
        return painted[0] if len(painted) == 1 and not isinstance(prompt, list | tuple) else painted

    @overload
    def read(
        self,
        image: str | Path | Image.Image | Clip,
        *,
        prompt: str = "",
        seed: int = 0,
        preset: str | None = None,
        batch: int = BATCH,
        **options: Any,
    ) -> ImageRecord: ...
    @overload
    def read(
        self,
        image: Sequence[Source],
        *,
        prompt: str | Sequence[str] = "",
        seed: int | Sequence[int] = 0,
        preset: str | None = None,
        batch: int = BATCH,
        **options: Any,
    ) -> list[ImageRecord]: ...
    @overload
    def read(self, image: Tensor, *, batch: int = BATCH, **options: Any) -> Any: ...  # noqa: ANN401 - by its axes
    @usual_defaults()
    def read(
        self,
        image: Source | Sequence[Source],
        *,
        prompt: str | Sequence[str] = "",
        seed: int | Sequence[int] = 0,
        preset: str | None = None,
        batch: int = BATCH,
        **options: Any,
    ) -> ImageRecord | list[ImageRecord]:
        """Looks at an existing image once, or at each of several; then `probe` them for any concepts.

        Args:
            image: a path, a picture of any size and aspect, or a tensor (3, height, width) with values in 0..1. Wide or
                tall images keep their aspect; the sides are rounded to the model's multiple, and maps come back in the
                image's own size. A video model reads films too: a `conceptlens.Clip`, or the path of a moving GIF, an
                MP4 or a WebM. A list of these, or a tensor (batch, 3, height, width), gives a list of records.
            prompt: what to tell the model about the image; empty is fine. One for all images, or a list.
            seed: of the noise; of each image's, so that its record does not depend on the others. One, or a list.
            preset: "paper" for the settings of the official code, "sharp" for refined maps.
            batch: how many images go through a model with a text stream at once; those of one size and prompt can.
            **options: fields of `Recipe`: `noise=` (0 clean to 1 pure noise), `samples=` (noise draws, averaged),
                `layers=`, `space=`, ...; and `guidance_scale=` (0 if not given, as in the official code) or
                `max_sequence_length=` of models that take them; of films `num_frames=`, how many are read at most.

        Raises:
            ImageError: for an image or film that cannot be read, or none.
            ModelError: for a film, of a model that reads pictures alone.
            RecipeError: for impossible settings.
        """
        self.require("read")
        if any(name.split(".")[0] == "guide" for name in options):
            raise RecipeError("guidance moves latents while a picture is painted; a given one has none. Use generate.")
        call, settings = _parted(options, self.reader.read_options)
        recipe = self.recipe(preset, **settings)
        check_text(prompt, "prompt")
        readings = readings_of(image, prompt, seed, self.reader.frame_room(call))
        records = self.reader.read_all(readings, recipe, call, check_batch(batch))
        return records if is_several(image) else records[0]

    @overload
    def probe(
        self,
        record: ImageRecord,
        concepts: Sequence[str],
        *,
        background: Background = True,
        keep: bool = False,
        batch: int = BATCH,
        **options: Any,
    ) -> ConceptMaps: ...
    @overload
    def probe(
        self,
        record: Sequence[ImageRecord],
        concepts: Sequence[str],
        *,
        background: Background = True,
        keep: bool = False,
        batch: int = BATCH,
        **options: Any,
    ) -> list[ConceptMaps]: ...
    @usual_defaults()
    def probe(
        self,
        record: ImageRecord | Sequence[ImageRecord],
        concepts: Sequence[str],
        *,
        background: Background = True,
        keep: bool = False,
        batch: int = BATCH,
        **options: Any,
    ) -> Any:
        """Maps of concepts in a recorded image, or each of several, without running the model; as if asked at first.

        A recorded film gives `VideoMaps`, which type checkers do not know.

        Args:
            record: from `read`, or of a painted image (`generate` with `record=True`). A list of records that were
                made with the same settings gives a list of maps.
            concepts: any words.
            background: see `generate`.
            keep: see `generate`.
            batch: how many records of one grid are asked at once.
            **options: fields of `Recipe`. Layers and spaces that were not recorded are an error.

        Raises:
            ConceptError: for an unusable list of concepts.
            RecipeError: for settings that need more than was recorded, or that differ between the records of a list.
            ModelError: for a record of another model.
        """
        self.require("probe")
        records = records_of(record, self.model_id)
        asking, settings = _parted(options, self.reader.probe_options)
        for each in records:
            self.reader.layers_of(each)
        recipe = records[0].recipe.override(settings).resolve(self.depth)
        self.reader.check(recipe)
        asked, added = with_background(self.reader.defaults, concepts, background, recipe)
        answers = self.reader.probe_all(records, (*asked, *added), Asking(recipe, asking, keep, check_batch(batch)))
        note_unknown(self.model_id, self.reader.defaults, asked)
        maps = [
            maps_of(
                each.clip or each.image,
                concepts=(*asked, *added),
                scores=answer.scores,
                spread=answer.spread,
                recipe=recipe,
                model_id=self.model_id,
                prompt=each.prompt,
                seed=each.seed,
                background=added,
                record=None if each.clip is None else each,
                parts=answer.parts,
                matches=answer.matches,
                run_info=replace(answer.info, pipeline=each.options, steps=each.steps or None),
            )
            for each, answer in zip(records, answers, strict=True)
        ]
        return maps[0] if isinstance(record, ImageRecord) else maps

    def save_record(self, record: ImageRecord, path: str | Path) -> Path:
        """Writes a record as one safetensors file. Raises `OutputError` when that fails."""
        return save_record(record, path)

    def load_record(self, path: str | Path) -> ImageRecord:
        """Reads a record onto the model's device, ready for `probe`. Raises `ImageError` for a foreign file."""
        self.require("probe")
        return load_record(path, self.reader.device)


def _parted(options: Mapping[str, Any], names: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those options that have some names, and the others."""
    inside = {name: value for name, value in options.items() if name in names}
    return inside, {name: value for name, value in options.items() if name not in names}


def load(model: object = None, **options: Any) -> Session:
    """Opens a model.

    Args:
        model: None or "demo" for the embedded demo model, "demo-unet" for the embedded U-Net; a hub id such as
            "black-forest-labs/FLUX.1-schnell"; a folder in diffusers' format; or a loaded diffusers pipeline.
        **options: `device`, `dtype`, `offload`, `single_stream`; see `conceptlens.readers.loading.load_model`.

    Raises:
        ModelError: when it cannot be loaded, or no adapter serves it.
    """
    return Session(open_reader(model, **options))
