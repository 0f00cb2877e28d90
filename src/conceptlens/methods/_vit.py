"""What the methods on vision transformers share: opening a checkpoint, an image in, concepts as text, maps out."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, CLIPModel, CLIPTokenizer, PreTrainedModel, ViTForImageClassification
from transformers.image_processing_base import ImageProcessingMixin

from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.picture_files import open_image
from conceptlens.methods._vit_view import view_of
from conceptlens.methods.base import SaliencyMethod
from conceptlens.methods.templates import TEMPLATES
from conceptlens.readers.loading import device_of
from conceptlens.readers.opening import MODEL_FILE, opening
from conceptlens.values.errors import ConceptError, ModelError, RecipeError
from conceptlens.values.models import Model, Tokenizer
from conceptlens.values.provenance import RunInfo, versions_of
from conceptlens.values.words import check_concepts
from conceptlens.values.zoo import identity, located

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Family:
    """A kind of vision model that a method can be opened on.

    Attributes:
        name: what the option `backbone` calls it.
        hub_id: the checkpoint of the paper's table.
        model_type: what the checkpoint's config.json must say.
        model: the class that loads it.
        mean: per channel, subtracted from pixels in 0..1 where the checkpoint has no preprocessor_config.json.
        std: likewise; pixels are divided by it.
        resample: how pictures are resized.
        arguments: further keywords of `from_pretrained`.
    """

    name: str
    hub_id: str
    model_type: str
    model: type[PreTrainedModel]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resample: Image.Resampling = Image.Resampling.BILINEAR
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A loaded model in float32, in evaluation mode, whose parameters take no gradient."""

    model: Model
    family: Family
    model_id: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokenizer: Tokenizer | None = None


IMAGENET_VIT = Family(
    *("imagenet-vit", "google/vit-base-patch16-224", "vit", ViTForImageClassification),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
CLIP = Family(
    *("clip", "openai/clip-vit-base-patch16", "clip", CLIPModel),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    resample=Image.Resampling.BICUBIC,
)


def open_checkpoint(source: str | Path, families: Sequence[Family], device: str | None) -> Opened:
    """Loads a hub id or a folder of transformers' format as the first family that its config.json names.

    Raises:
        ModelError: when it cannot be loaded, is of another class, or lacks weights.
    """
    target = device_of(device)
    with opening(located(source), MODEL_FILE) as place:
        kind = AutoConfig.from_pretrained(place).model_type
        family = next((f for f in families if f.model_type == kind), None)
        if family is None:
            expected = " or ".join(f"{f.model.__name__} (model type {f.model_type})" for f in families)
            raise ModelError(f"{source} has a model of type {kind}; needed: {expected}. Name such a checkpoint.")
        model: Any = family.model.from_pretrained(place, dtype=torch.float32, **family.arguments)
        tokenizer = CLIPTokenizer.from_pretrained(place) if kind == "clip" else None
        mean, std = _normalisation(place, family)
    return Opened(model.eval().requires_grad_(False).to(target), family, identity(source), mean, std, tokenizer)


def _normalisation(source: str | Path, family: Family) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        said, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:  # no preprocessor_config.json
        return family.mean, family.std
    mean, std = (said.get(f"image_{name}") or getattr(family, name) for name in ("mean", "std"))
    return tuple(map(float, mean)), tuple(map(float, std))


class VisionMethod(SaliencyMethod):
    """A method on a vision model. The leaf says which, its `defaults`, and how pixels become scores."""

    families: ClassVar[tuple[Family, ...]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, opened: object, **options: Any) -> None:
        """On an `Opened` model; `options` as for `load`. Raises `ModelError` for anything else."""
        if not isinstance(opened, Opened):
            raise ModelError(
                f"{self.name} reads a vision model, not {type(opened).__name__}. "
                f"Open it with method_named({self.name!r}).load(folder or hub id)."
            )
        self._opened, self._model = opened, opened.model
        self._options = self._check(options)

    @classmethod
    def load(cls, model: str | Path | None = None, *, device: str | None = None, **options: Any) -> VisionMethod:
        """See `SaliencyMethod.load`; `backbone="imagenet-vit"` or `"clip"` where a method has both."""
        backbone = options.pop("backbone", None) if len(cls.families) > 1 else None
        cls._check(options)
        known = {family.name: family for family in cls.families}
        if backbone is not None and backbone not in known:
            raise RecipeError(f"{cls.name} has no backbone {backbone!r}. Known: {', '.join(known)}.")
        families = cls.families if backbone is None else (known[backbone],)
        return cls(cls._open(next(iter(families)).hub_id if model is None else model, families, device), **options)

    @classmethod
    def _open(cls, source: str | Path, families: Sequence[Family], device: str | None) -> Opened:
        return open_checkpoint(source, families, device)

    @classmethod
    def _check(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, with the defaults of those that were not given."""
        known = {"input_norm": "correct", **cls.defaults}
        choices = {"input_norm": ("correct", "reference"), **cls.choices}
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise RecipeError(f"{cls.name} has no setting {unknown[0]!r}. Known: {', '.join(sorted(known))}.")
        settings = {**known, **options}
        for name, allowed in choices.items():
            if settings[name] not in allowed:
                raise RecipeError(f"{name} must be one of {', '.join(allowed)}; got {settings[name]!r}.")
        return settings

    @property
    def model_id(self) -> str:
        return self._opened.model_id

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"backbone": self._opened.family.name, **self._options}

    def explain(self, image: Image.Image, concepts: Sequence[str], *, prompt: str = "", seed: int = 0) -> ConceptMaps:
        """See `SaliencyMethod.explain`. No noise is drawn and no prompt is seen: neither changes the maps."""
        started = time.perf_counter()
        names, picture = check_concepts(concepts), open_image(image)
        pixels = self._pixels(picture)
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            scores = self._scores(pixels, names)
        return ConceptMaps(
            concepts=names,
            scores=scores.expand(len(names), -1, -1).float().cpu().contiguous(),
            image=picture,
            recipe=None,
            model_id=self.model_id,
            seed=seed,
            run_info=RunInfo(
                task="read",
                method=self.name,
                settings=self.settings,
                versions=versions_of("transformers", "torch"),
                seconds=round(time.perf_counter() - started, 3),
            ),
        )

    def _pixels(self, picture: Image.Image) -> Float[Tensor, "1 3 height width"]:
        """The model's input. The official evaluation forgets the mean and standard deviation: "reference"."""
        resized = picture.resize(self._size(picture), self._opened.family.resample)
        pixels = torch.from_numpy(np.array(resized, np.float32) / 255).permute(2, 0, 1)
        if self._options["input_norm"] == "correct":
            mean, std = (torch.tensor(v)[:, None, None] for v in (self._opened.mean, self._opened.std))
            pixels = (pixels - mean) / std
        return pixels[None].to(self._model.device, self._model.dtype)

    @abstractmethod
    def _size(self, picture: Image.Image) -> tuple[int, int]:
        """Width and height to which a picture is resized."""

    @abstractmethod
    def _scores(self, pixels: Tensor, names: tuple[str, ...]) -> Float[Tensor, "map rows cols"]:
        """Scores of each concept, or one map for all."""


class ViTMethod(VisionMethod):
    """A method on an ImageNet classifier (the figures of the paper's table) or on CLIP (what the table says).

    The input is resized to the model's square. A class-conditioned method explains the classifier's top class, and is
    text-conditioned on CLIP: y_c = <z / |z|, t_c>, with the temperature, a positive factor, left out.
    """

    families = (IMAGENET_VIT, CLIP)

    def __init__(self, opened: object, **options: Any) -> None:
        super().__init__(opened, **options)
        if self._options.get("dtype") == "float64":
            self._model.double()
        self._view = view_of(self._model)
        self._texts: dict[str, Tensor] = {}
        if self._opened.family.name == "clip" and self.info.class_conditioned:
            vars(self)["info"] = replace(self.info, text_conditioned=True, class_conditioned=False)
        if not self.info.text_conditioned:
            self._options.pop("templates", None)
        start, depth = self._options.get("start_layer"), len(self._view.blocks)
        if start is not None and not (isinstance(start, int) and 0 <= start < depth):
            raise RecipeError(f"start_layer must be 0..{depth - 1} for a model of {depth} blocks; got {start!r}.")

    def _size(self, picture: Image.Image) -> tuple[int, int]:
        return self._view.side, self._view.side

    def _targets(self, out: Float[Tensor, "1 out"], names: tuple[str, ...]) -> Float[Tensor, "target out"]:
        """What is explained, as directions of the output: the top class, or each concept's text."""
        if self._opened.tokenizer is None:
            return torch.nn.functional.one_hot(out.argmax(dim=-1), out.shape[-1]).to(out.dtype)
        return torch.stack([self._text(name) for name in names]).to(out)

    def _score(self, out: Float[Tensor, "1 out"], target: Float[Tensor, " out"]) -> Float[Tensor, ""]:
        """The logit of the class, or the cosine with the text."""
        unit = out if self._opened.tokenizer is None else out / out.norm(dim=-1, keepdim=True)
        return (unit[0] * target).sum()

    def _text(self, concept: str) -> Float[Tensor, " out"]:
        """The mean over the templates of a concept's unit text embeddings, of unit length."""
        if concept not in self._texts:
            tokenizer = self._opened.tokenizer
            assert tokenizer is not None
            texts = [template.format(concept) for template in TEMPLATES[self._options["templates"]]]
            given = tokenizer(texts, padding=True, return_tensors="pt")
            longest = self._model.config.text_config.max_position_embeddings
            if given["input_ids"].shape[1] > longest:
                raise ConceptError(
                    f"concept {concept[:40]!r} has {given['input_ids'].shape[1]} tokens with its template; "
                    f"{self.model_id} takes {longest}. Shorten it."
                )
            found = self._model.get_text_features(**given.to(self._model.device)).pooler_output
            mean = torch.nn.functional.normalize(found, dim=-1).mean(dim=0)
            self._texts[concept] = torch.nn.functional.normalize(mean, dim=-1)
        return self._texts[concept]
