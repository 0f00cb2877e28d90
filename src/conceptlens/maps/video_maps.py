"""VideoMaps: scores of a generated video, frame by frame; each frame opens as the maps of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from conceptlens.maps.films import RATE, can_write_mp4, write_gif, write_mp4
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.links import Link, Linking, MatchLink, OverlapLink
from conceptlens.maps.tracks import Tracks, follow
from conceptlens.ops.grids import Threshold, check_finite
from conceptlens.values.errors import ConceptError, OutputError, RecipeError
from conceptlens.values.files import check_file, into_folder, write_manifest
from conceptlens.values.provenance import Provenance, RunInfo
from conceptlens.values.recipe import Recipe, check_choice


@dataclass(frozen=True)
class VideoMaps:
    """Saliency maps of concepts in one video.

    A model paints several frames as one latent frame (four with CogVideoX, the first alone), so there are fewer maps
    than frames: `at` gives a frame the map of the latent frame that holds it.

    Attributes:
        concepts: one name per map, in the order that was asked, then those of `background`.
        scores: (concept, latent frame, rows, cols) float32 on the CPU; as in `ConceptMaps`.
        images: the frames, RGB.
        recipe: the settings that made the scores.
        model_id: the model that painted the video.
        prompt: its prompt.
        seed: of the noise; None if the caller brought a generator.
        background: concepts that were added because a softmax over a single concept says nothing.
        parts: (step, layer, concept, latent frame, rows, cols), when asked for with `keep=True`.
        run_info: how else the maps were made.
        matches: where each cell of a latent frame is in the next ones (`conceptlens.ops.tracks`), where the image's
            queries were recorded: with `refine="self-attention"` or `space="cross"`.
    """

    concepts: tuple[str, ...]
    scores: Float[Tensor, "concept frame rows cols"]
    images: tuple[Image.Image, ...]
    recipe: Recipe | None
    model_id: str
    prompt: str = ""
    seed: int | None = None
    background: tuple[str, ...] = ()
    parts: Float[Tensor, "step layer concept frame rows cols"] | None = None
    run_info: RunInfo = field(default_factory=RunInfo)
    matches: Float[Tensor, "gap frame cell cell"] | None = None

    def __post_init__(self) -> None:
        """Refuses maps that hold NaN or infinity (`ScoreError`)."""
        check_finite(self.scores)

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.images)

    @property
    def asked(self) -> tuple[str, ...]:
        """The concepts that were asked for, without those of `background`."""
        return self.concepts[: len(self.concepts) - len(self.background)]

    @property
    def details(self) -> Mapping[str, Any]:
        """See `ConceptMaps.details`."""
        return self.run_info.to_dict()

    def __getitem__(self, concept: str) -> Float[Tensor, "frame rows cols"]:
        """The scores of one concept on the token grid of every latent frame.

        Raises:
            ConceptError: for a concept that has no map.
        """
        if concept not in self.concepts:
            raise ConceptError(f"no map of {concept!r}. These maps are of: {', '.join(self.concepts)}.")
        return self.scores[self.concepts.index(concept)]

    def latent_frame(self, frame: int) -> int:
        """The latent frame that holds a frame: the first stands alone, the others share evenly.

        Raises:
            RecipeError: for a frame that the video does not have.
        """
        count, latent = len(self.images), self.scores.shape[1]
        if not -count <= frame < count:
            raise RecipeError(f"no frame {frame}: this video has {count}. Use 0 to {count - 1}, or -1 to -{count}.")
        frame %= count
        return 0 if frame == 0 or latent == 1 else 1 + (frame - 1) * (latent - 1) // (count - 1)

    def at(self, frame: int) -> ConceptMaps:
        """The maps of one frame, with all that `ConceptMaps` can do. Raises `RecipeError` for a frame that is not."""
        latent = self.latent_frame(frame)
        return ConceptMaps(
            concepts=self.concepts,
            scores=self.scores[:, latent],
            image=self.images[frame],
            recipe=self.recipe,
            model_id=self.model_id,
            prompt=self.prompt,
            seed=self.seed,
            background=self.background,
            parts=None if self.parts is None else self.parts[:, :, :, latent],
            run_info=self.run_info,
        )

    def segmentation(self) -> Int[np.ndarray, "frame height width"]:
        """For each pixel of each frame the index, in `concepts`, of the concept with the highest score."""
        return np.stack([self.at(frame).segmentation() for frame in range(len(self))])

    def tracks(
        self,
        *concepts: str,
        threshold: Threshold | None = None,
        smallest: float = 0.005,
        link: str = "match",
    ) -> Tracks:
        """Instances of concepts, each followed through the film.

        Args:
            *concepts: some of those that have maps; all that were asked for when none is named.
            threshold: of their masks; see `ConceptMaps.places`.
            smallest: share of the frame below which a part of a mask is no instance.
            link: "match" links instances of two frames by the model's own attention between these, so that they keep
                their numbers where they cross, or are out of sight for up to three latent frames; "overlap" by where
                their masks overlap or are nearest, which needs no matches.

        Raises:
            ConceptError: for a concept that has no map.
            RecipeError: for a wrong setting, or maps without matches.
        """
        names = tuple(dict.fromkeys(concepts)) or self.asked
        for name in names:
            self[name]
        return follow([self.at(frame) for frame in range(len(self))], names, self._link(link), threshold, smallest)

    def _link(self, how: str) -> Link:
        check_choice("link", how, Linking)
        if how == "overlap" or self.scores.shape[1] == 1:
            return OverlapLink()
        if self.matches is None:
            raise RecipeError(
                "these maps hold no matches between frames: no image queries were recorded. Paint or read the film "
                "with refine='self-attention' (a model whose text stream is written out), or use link='overlap'."
            )
        _, _, rows, cols = self.scores.shape
        return MatchLink(self.matches, (rows, cols), [self.latent_frame(frame) for frame in range(len(self))])

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
            run=self.run_info,
            frames=len(self),
        ).to_dict()

    def describe(self) -> str:
        """One line that says how these maps were made."""
        return f"{len(self)} frames in {self.scores.shape[1]} latent ones · {self.at(0).describe()}"

    def save(self, folder: str | Path) -> Path:
        """Writes the overlay of every frame (`overlay-000.png`, ...), all as `overlay.gif`, scores, provenance.

        Where the extra `conceptlens[video]` is installed there is `overlay.mp4` too; where not, a warning says so once.

        Returns:
            The folder.

        Raises:
            OutputError: when the folder cannot be written.
        """
        with into_folder(folder) as stage:
            sheets = self._sheets()
            for number, sheet in enumerate(sheets):
                sheet.save(stage / f"overlay-{number:03d}.png")
            write_gif(sheets, stage / "overlay.gif")
            if can_write_mp4():
                write_mp4(sheets, stage / "overlay.mp4")
            arrays: dict[str, Any] = {"scores": self.scores.numpy()}
            if self.parts is not None:
                arrays["parts"] = self.parts.numpy()
            np.savez_compressed(stage / "maps.npz", **arrays)
            write_manifest(stage, self.provenance())
        return Path(folder)

    def save_mp4(self, file: str | Path, *, rate: int = RATE) -> Path:
        """Writes the overlays of all frames as one MP4 (H.264).

        Args:
            file: ends in .mp4; its folder is made.
            rate: frames per second.

        Returns:
            The file.

        Raises:
            LibraryError: when the extra `conceptlens[video]` is not installed.
            OutputError: for another ending or an impossible rate, or when the file cannot be written.
        """
        target = Path(file)
        if target.suffix.lower() != ".mp4":
            raise OutputError(f"save_mp4 writes MP4 files; got {target.name!r}. End the name in .mp4.")
        check_file(target)
        with into_folder(target.parent) as stage:
            write_mp4(self._sheets(), stage / target.name, rate)
        return target

    def _sheets(self) -> list[Image.Image]:
        return [self.at(frame).overlay() for frame in range(len(self))]


def maps_of(picture: Image.Image | Sequence[Image.Image], **settings: Any) -> ConceptMaps | VideoMaps:
    """The maps of what a pipeline gave: a picture, or the frames of a video."""
    if isinstance(picture, Image.Image):
        settings.pop("matches", None)  # between frames
        return ConceptMaps(image=picture.convert("RGB"), **settings)
    for name in ("record", "references"):  # a video has none
        settings.pop(name, None)
    return VideoMaps(images=tuple(frame.convert("RGB") for frame in picture), **settings)
