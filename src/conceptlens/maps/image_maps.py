"""ConceptMaps: scores on a grid, and everything people do with them: heat maps, masks, overlays, files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from conceptlens.maps.exports import ABSTAINED, coco, cut_out, detections, palette_image
from conceptlens.maps.pages import card, page, picture_url, table
from conceptlens.maps.pictures import contact_sheet, heat_colours, palette, tint
from conceptlens.maps.positions import Place, Relation, place_of, relate
from conceptlens.maps.scored_maps import ScoredMaps
from conceptlens.ops.doubt import doubt
from conceptlens.ops.edges import follow_edges
from conceptlens.ops.grids import Threshold, resize, threshold_level, unit_range
from conceptlens.ops.joint_bilateral import joint_bilateral
from conceptlens.ops.parts import connected_parts
from conceptlens.values.errors import RecipeError
from conceptlens.values.files import into_folder, write_manifest, write_text
from conceptlens.values.provenance import Provenance, RunInfo
from conceptlens.values.recipe import Recipe
from conceptlens.values.records import ImageRecord


@dataclass(frozen=True, repr=False)
class ConceptMaps(ScoredMaps):
    """Saliency maps of concepts in one image.

    Attributes:
        concepts: one name per map, in the order that was asked, then those of `background`.
        scores: (concept, rows, cols) float32 on the CPU: with softmax, in 0..1 and summing to one over the concepts;
            without, raw similarities of any range.
        image: the picture, RGB, in its own size. Heat maps and masks are returned in this size.
        recipe: the settings that made the scores; None for a method without a concept stream, whose `method` and
            `settings` stand in `run_info`.
        model_id: the model that saw the image.
        prompt: the prompt it saw with it.
        seed: of the noise; None if the caller brought a generator.
        background: concepts that were added because a softmax over a single concept says nothing.
        parts: (step, layer, concept, rows, cols), when asked for with `keep=True`; steps and layers as in `recipe`.
        run_info: how else the maps were made: versions, pipeline options, seconds.
        record: what `Session.probe` needs to ask this picture for other concepts, when painted with `record=True`.
        spread: standard deviation of the scores over noise draws, when the image was read with several `samples`.
        presence: by concept the chance, 0..1, that it is in the picture, None for "cannot say"; None when not asked
            (`conceptlens.presence.add_presence`).
        edges: masks follow the edges of the picture; see `refined`.
        abstain: share of the pixels, the most doubtful, that belong to no concept; see `refined`.
        references: maps of the same concepts in the pictures that the model was shown (FLUX.1 Kontext, FLUX.2), as it
            saw them while it painted this one.
    """

    concepts: tuple[str, ...]
    scores: Float[Tensor, "concept rows cols"]
    image: Image.Image
    recipe: Recipe | None
    model_id: str
    prompt: str = ""
    seed: int | None = None
    background: tuple[str, ...] = ()
    parts: Float[Tensor, "step layer concept rows cols"] | None = None
    run_info: RunInfo = field(default_factory=RunInfo)
    record: ImageRecord | None = None
    spread: Float[Tensor, "concept rows cols"] | None = None
    presence: Mapping[str, float | None] | None = None
    edges: bool = False
    abstain: float = 0.0
    references: tuple[ConceptMaps, ...] = ()

    def pixels(self, mode: str = "bilinear") -> Float[Tensor, "concept height width"]:
        """Scores at the resolution of the image; "bilinear", which the recipe may refine, or "nearest"."""
        if mode == "bilinear" and self._along_colours is not None:
            return self._along_colours.clone()
        return resize(self.scores, self.image.height, self.image.width, mode)

    @property
    def finest(self) -> Float[Tensor, "concept _height _width"]:
        """Scores as fine as they are known: of pixels with "joint-bilateral", of patches otherwise."""
        return self.scores if self._along_colours is None else self.pixels()

    @cached_property
    def _along_colours(self) -> Float[Tensor, "concept height width"] | None:
        if self.recipe is None or "joint-bilateral" not in self.recipe.refine:
            return None
        return joint_bilateral(self.scores, self.image, compete=self.recipe.softmax)

    def heatmap(self, concept: str) -> Float[np.ndarray, "height width"]:
        """One concept at the resolution of the image, stretched to 0..1."""
        scores, fine = self[concept], self._along_colours
        if fine is not None:
            return unit_range(fine[self.concepts.index(concept)]).numpy()
        return unit_range(resize(scores[None], self.image.height, self.image.width)[0]).numpy()

    def doubt(self) -> Float[np.ndarray, "height width"]:
        """For each pixel the chance, 0..0.5, that the runner-up should have won; see `conceptlens.ops.doubt`."""
        size = self.image.height, self.image.width
        return doubt(self.pixels(), None if self.spread is None else resize(self.spread, *size)).numpy()

    def refined(self, *, edges: bool | None = None, abstain: float | None = None) -> ConceptMaps:
        """The same maps, with other masks: also those that `save`, `coco`, `places` and the others use.

        Args:
            edges: masks end at the edges of the picture (see `conceptlens.ops.edges`). Scores and heat maps stay.
            abstain: share of the pixels, 0 to below 1, that no concept wins: those of the greatest `doubt`.

        Raises:
            RecipeError: for a share out of range.
        """
        if abstain is not None and not 0 <= abstain < 1:
            raise RecipeError(f"abstain is a share of the pixels, from 0 to below 1; got {abstain}.")
        chosen = {name: value for name, value in (("edges", edges), ("abstain", abstain)) if value is not None}
        return replace(self, **chosen)

    def mask(self, concept: str, threshold: Threshold = "mean") -> Bool[np.ndarray, "height width"]:
        """Where one concept is.

        Args:
            concept: its name.
            threshold: "mean" (strictly above the map's mean), "otsu", a fraction of the map's range in 0..1, or
                "argmax" (where no other concept scores higher).
        """
        if threshold == "argmax":
            self[concept]
            return self._winners == self.concepts.index(concept)
        heat = self.heatmap(concept)
        level = threshold_level(heat, threshold)
        mask = heat > level
        return follow_edges(mask.astype(np.int64), np.abs(heat - level), self.image) == 1 if self.edges else mask

    def instances(
        self, concept: str, threshold: Threshold | None = None, *, smallest: float = 0.005
    ) -> tuple[Bool[np.ndarray, "height width"], ...]:
        """A mask for each thing of one name, largest first: parts that do not touch, of at least a share `smallest`."""
        if not 0 <= smallest <= 1:
            raise RecipeError(f"smallest is a share of the picture, from 0 to 1; got {smallest}.")
        return connected_parts(self._masks(threshold, (concept,))[concept], smallest)

    def segmentation(self) -> Int[np.ndarray, "height width"]:
        """For each pixel the index, in `concepts`, of the concept with the highest score; -1 for abstained pixels."""
        return self._winners.copy()

    @cached_property
    def _winners(self) -> Int[np.ndarray, "height width"]:
        scores = self.pixels()
        winners = scores.max(dim=0).indices.numpy()  # the first of equals, as argmax, which is ten times slower
        if self.edges and len(scores) > 1:
            best, second = scores.topk(2, dim=0).values
            winners = follow_edges(winners, (best - second).numpy(), self.image)
        if self.abstain:
            doubtful = self.doubt().ravel()
            winners.ravel()[np.argsort(-doubtful, kind="stable")[: round(self.abstain * doubtful.size)]] = -1
        return winners

    def cut_out(self, concept: str, threshold: Threshold | None = None) -> Image.Image:
        """The picture with all but one concept transparent (RGBA); see `places` for the threshold."""
        return cut_out(self.image, self._masks(threshold, (concept,))[concept])

    def coco(self, threshold: Threshold | None = None, *, outlines: bool = False) -> dict[str, Any]:
        """The masks of the asked concepts as a COCO data set; run lengths, or with `outlines` polygons."""
        return coco(self._masks(threshold), self.image.size, outlines=outlines)

    def to_supervision(self, threshold: Threshold | None = None) -> Any:  # noqa: ANN401 - an optional package's
        """The masks of the asked concepts as `supervision.Detections`; see `conceptlens.maps.exports.detections`.

        Raises:
            LibraryError: when the package `supervision` is not installed.
        """
        scores = dict(zip(self.concepts, self.pixels().numpy(), strict=True))
        return detections(self._masks(threshold), scores)

    def places(self, threshold: Threshold | None = None) -> dict[str, Place]:
        """Box, centre and area of each asked concept.

        Args:
            threshold: see `mask`; when None, "argmax" where concepts compete and "mean" for a single one.
        """
        return {name: place_of(mask) for name, mask in self._masks(threshold).items()}

    def relations(self, threshold: Threshold | None = None) -> tuple[Relation, ...]:
        """How the concepts of each pair are placed, by their centres; those with an empty mask are left out."""
        return relate(self.places(threshold), self.image.size)

    def _masks(
        self, threshold: Threshold | None = None, names: tuple[str, ...] | None = None
    ) -> dict[str, Bool[np.ndarray, "height width"]]:
        """Masks of the asked concepts; their competition is settled once for all."""
        names = self.asked if names is None else names
        if threshold not in (None, "argmax") or (threshold is None and len(self.concepts) == 1):
            return {name: self.mask(name, "mean" if threshold is None else threshold) for name in names}
        for name in names:
            self[name]
        winners = self._winners
        return {name: winners == self.concepts.index(name) for name in names}

    def _repr_html_(self) -> str:
        alt = f"Maps of {', '.join(self.asked)}"
        return card(picture_url(self.overlay()), alt, self._table(), self.describe())

    def report(self) -> str:
        """A web page in one file: pictures, a table and the settings that made them."""
        return self._report(self.tiles())

    def _report(self, tiles: list[tuple[str, Image.Image]]) -> str:
        title = self.prompt or f"Where is {', '.join(self.asked)}?"
        return page(title, self.describe(), [*tiles, *self._extras().items()], self._table(), self.provenance())

    def _table(self) -> str:
        rows = []
        for name, place in self.places().items():
            box = "" if place.box is None else "{} to {} x {} to {}".format(*(place.box[i] for i in (0, 2, 1, 3)))
            there = [] if self.presence is None else [chance_text(self.presence.get(name))]
            rows.append((name, *there, f"{place.area:.0%}", f"{float(self[name].max()):.3f}", box))
        there = [] if self.presence is None else ["in the image?"]
        return table(("concept", *there, "share of the image", "peak score", "box in pixels"), rows)

    def overlay(self, columns: int | None = None) -> Image.Image:
        """A contact sheet: the image, each concept's heat over it, and the segmentation."""
        return contact_sheet(self.tiles(), columns, legend=self.concepts)

    def tiles(self) -> list[tuple[str, Image.Image]]:
        """What is shown of these maps, with captions."""
        tiles = [("image", self.image)]
        tiles += [(name, tint(self.image, heat_colours(self.heatmap(name)), self.heatmap(name))) for name in self.asked]
        if len(self.concepts) > 1:
            tiles.append(("segmentation", self._segmented()))
        if self.spread is not None or self.abstain:
            doubts = 2 * self.doubt()
            tiles.append(("doubt", tint(self.image, heat_colours(doubts), doubts)))
        return tiles

    def _extras(self) -> Mapping[str, Image.Image]:
        """Further pictures that a kind of maps has, by the names of their files."""
        return {}

    def _segmented(self) -> Image.Image:
        winners = self._winners
        colours = palette(len(self.concepts))[winners]
        colours[winners < 0] = ABSTAINED
        return tint(self.image, colours, np.full(colours.shape[:2], 0.75, np.float32))

    def provenance(self) -> dict[str, Any]:
        """Everything that is needed to make these maps again, as plain JSON values."""
        return Provenance(
            model=self.model_id,
            prompt=self.prompt,
            concepts=self.asked,
            background=self.background,
            seed=self.seed,
            recipe=self.recipe,
            grid=tuple(self.scores.shape[1:]),
            edges=self.edges,
            abstain=self.abstain,
            presence=self.presence,
            run=self.run_info,
        ).to_dict()

    def describe(self) -> str:
        """One line that says how these maps were made."""
        rows, cols = self.scores.shape[1:]
        versions = " ".join(f"{k} {v}" for k, v in (self.run_info.versions or {}).items())
        parts = (f"model {self.model_id}", *self._facts(), f"grid {rows}x{cols}", f"seed {self.seed}", versions)
        return " · ".join(part for part in parts if part)

    def _facts(self) -> list[str]:
        """The settings, in words."""
        recipe = self.recipe
        if recipe is None:
            settings = self.run_info.settings or {}
            return [self.run_info.method or "", *(f"{k} {v}" for k, v in settings.items() if v is not None)]
        when = f"steps {'all' if recipe.steps is None else ','.join(map(str, recipe.steps))}"
        if self.run_info.task == "read":
            when = f"noise {recipe.noise:g} x {recipe.samples}"
        return [
            f"{recipe.space} space",
            "softmax" if recipe.softmax else "raw",
            f"layers {','.join(map(str, recipe.layers or ()))}",
            when,
            f"pooling {recipe.pooling}",
            *([f"{recipe.branch} branch"] if recipe.branch != "prompt" else []),
            *([f"refined by {', '.join(recipe.refine)}"] if recipe.refine else []),
            *([f"preset {recipe.preset}"] if recipe.preset else []),
        ]

    def save(self, folder: str | Path) -> Path:
        """Writes the pictures, the masks in several forms, the scores, a report and how it was all made.

        `image.png`, `overlay.png`, and per concept `heatmap-*.png`, `mask-*.png` (see `places`) and `cutout-*.png`;
        `segmentation.png` and `labels.png` (a palette PNG whose values index `concepts`, 255 where `abstain` applies)
        of competing concepts; `coco.json` (masks of the segmentation as run lengths), `reference-*-overlay.png` of
        reference pictures, `maps.npz` (`scores`, `spread`, `segmentation`, `parts`, `reference_*`), `report.html` and
        `maps.json`, which `conceptlens.rerun` repeats.

        All or nothing: the files are written aside and then moved. What an earlier `save` left in the folder is
        replaced; other files are not touched. A folder that has a `maps.json` holds one whole result, also when the
        process was killed.

        Returns:
            The folder.

        Raises:
            OutputError: when the folder cannot be written.
        """
        with into_folder(folder) as stage:
            self.image.save(stage / "image.png")
            tiles, masks = self.tiles(), self._masks()
            contact_sheet(tiles, legend=self.concepts).save(stage / "overlay.png")
            for name, picture in self._extras().items():
                picture.save(stage / f"{name}.png")
            for number, name in enumerate(self.asked):
                stem = f"{number}-{_file_name(name)}.png"
                Image.fromarray(heat_colours(self.heatmap(name))).save(stage / f"heatmap-{stem}")
                Image.fromarray(masks[name]).save(stage / f"mask-{stem}")
                cut_out(self.image, masks[name]).save(stage / f"cutout-{stem}", compress_level=3)
            if len(self.concepts) > 1:
                self._segmented().save(stage / "segmentation.png")
                if len(self.concepts) < 256:
                    palette_image(self._winners, len(self.concepts)).save(stage / "labels.png")
            write_text(stage / "coco.json", json.dumps(coco(masks, self.image.size)) + "\n")
            write_text(stage / "report.html", self._report(tiles))
            arrays = {"scores": self.scores.numpy(), "segmentation": self._winners.astype(np.int32)}
            for name, values in (("parts", self.parts), ("spread", self.spread)):
                if values is not None:
                    arrays[name] = values.numpy()
            for number, reference in enumerate(self.references, 1):
                reference.overlay().save(stage / f"reference-{number}-overlay.png")
                arrays[f"reference_{number}"] = reference.scores.numpy()
            np.savez_compressed(stage / "maps.npz", **arrays)
            write_manifest(stage, self.provenance())
        return Path(folder)


def chance_text(chance: float | None) -> str:
    """The chance that a concept is in the picture, for a table."""
    if chance is None:
        return "cannot say"
    figure = f"{chance:.0%}" if 0.01 <= chance <= 0.99 else "> 99%" if chance > 0.99 else "< 1%"
    return f"{'yes' if chance > 0.5 else 'no'} ({figure})"


def reference_maps(given: object, scores: Sequence[Tensor], **settings: Any) -> tuple[ConceptMaps, ...]:
    """Maps over the pictures that a model was shown, one for each element of `scores`.

    None where `given`, what the pipeline got as its image, is not pictures, or not as many.
    """
    offered = list(given) if isinstance(given, (list, tuple)) else [given]
    pictures = [picture for picture in offered if isinstance(picture, Image.Image)]
    if not len(scores) == len(pictures) == len(offered):
        return ()
    return tuple(
        ConceptMaps(scores=part, image=picture.convert("RGB"), **settings)
        for part, picture in zip(scores, pictures, strict=True)
    )


def _file_name(concept: str) -> str:
    """A concept as part of a file name: letters, digits and dashes."""
    safe = "".join(c if c.isalnum() else "-" for c in concept.lower()).strip("-")
    return safe[:40] or "concept"
