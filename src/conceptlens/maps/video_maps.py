"""VideoMaps: scores of a film, frame by frame; each frame opens as the maps of a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from conceptlens.maps.films import can_write_mp4, film_url, save_film, write_gif, write_mp4
from conceptlens.maps.image_maps import ConceptMaps
from conceptlens.maps.links import Link, Linking, MatchLink, OverlapLink
from conceptlens.maps.pages import card, table
from conceptlens.maps.scored_maps import ScoredMaps
from conceptlens.maps.timelines import Timeline
from conceptlens.maps.tracks import Tracks, follow
from conceptlens.ops.grids import Threshold
from conceptlens.values.clips import Clip, numbers_besides
from conceptlens.values.errors import RecipeError
from conceptlens.values.files import into_folder, write_manifest, write_text
from conceptlens.values.provenance import Provenance, RunInfo
from conceptlens.values.recipe import Recipe, check_choice
from conceptlens.values.records import ImageRecord


@dataclass(frozen=True, repr=False)
class VideoMaps(ScoredMaps):
    """Saliency maps of concepts in one film.

    A model sees several frames as one latent frame (four with CogVideoX, the first alone), so there are fewer maps
    than frames: `at` gives a frame the map of the latent frame that holds it.

    Attributes:
        concepts: one name per map, in the order that was asked, then those of `background`.
        scores: (concept, latent frame, rows, cols) float32 on the CPU; as in `ConceptMaps`.
        clip: the film: its frames, their rate, and which frames of the given film they are.
        recipe: the settings that made the scores.
        model_id: the model that painted or read the film.
        prompt: the prompt it saw with it.
        seed: of the noise; None if the caller brought a generator.
        background: concepts that were added because a softmax over a single concept says nothing.
        parts: (step, layer, concept, latent frame, rows, cols), when asked for with `keep=True`.
        run_info: how else the maps were made.
        record: what `Session.probe` needs to ask this film for other concepts: of a film that was read, or painted with
            `record=True`.
        spread: standard deviation of the scores over noise draws, when the film was read with several `samples`.
        matches: where each cell of a latent frame is in the next ones (`conceptlens.ops.tracks`), where the image's
            queries were recorded: with `refine="self-attention"` or `space="cross"`.
    """

    concepts: tuple[str, ...]
    scores: Float[Tensor, "concept frame rows cols"]
    clip: Clip
    recipe: Recipe | None
    model_id: str
    prompt: str = ""
    seed: int | None = None
    background: tuple[str, ...] = ()
    parts: Float[Tensor, "step layer concept frame rows cols"] | None = None
    run_info: RunInfo = field(default_factory=RunInfo)
    record: ImageRecord | None = None
    spread: Float[Tensor, "concept frame rows cols"] | None = None
    matches: Float[Tensor, "gap frame cell cell"] | None = None

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The frames, RGB."""
        return self.clip.frames

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.clip)

    def latent_frame(self, frame: int) -> int:
        """The latent frame that holds a frame: the first stands alone, the others share evenly.

        Raises:
            RecipeError: for a frame that the film does not have.
        """
        count, latent = len(self), self.scores.shape[1]
        if not -count <= frame < count:
            raise RecipeError(f"no frame {frame}: this video has {count}. Use 0 to {count - 1}, or -1 to -{count}.")
        frame %= count
        return 0 if frame == 0 or latent == 1 else 1 + (frame - 1) * (latent - 1) // (count - 1)

    @property
    def latent_frames(self) -> tuple[int, ...]:
        """By frame the number of the latent frame that holds it."""
        return tuple(self.latent_frame(frame) for frame in range(len(self)))

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
            spread=None if self.spread is None else self.spread[:, latent],
        )

    def masks(self, concept: str, threshold: Threshold | None = None) -> Bool[np.ndarray, "frame height width"]:
        """Where one concept is in each frame: `at(frame).mask`, so that a level is of each frame's own map.

        Args:
            concept: its name.
            threshold: see `ConceptMaps.mask`; when None, "argmax" where concepts compete, which may leave a frame
                empty, and "mean" for a single one.

        Raises:
            ConceptError: for a concept that has no map.
        """
        chosen = threshold or ("argmax" if len(self.concepts) > 1 else "mean")
        return np.stack([self.at(frame).mask(concept, chosen) for frame in range(len(self))])

    def segmentation(self) -> Int[np.ndarray, "frame height width"]:
        """For each pixel of each frame the index, in `concepts`, of the concept with the highest score."""
        return np.stack([maps.segmentation() for maps in self._by_scores()])

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
        frames = [self.at(frame) for frame in range(len(self))]
        return follow(frames, self.clip, names, self.linking(link), threshold, smallest)

    def linking(self, how: str) -> Link:
        """What links instances of two frames: "match" or "overlap", see `tracks`. Raises as `tracks`."""
        check_choice("link", how, Linking)
        if how == "overlap" or self.scores.shape[1] == 1:
            return OverlapLink()
        if self.matches is None:
            raise RecipeError(
                "these maps hold no matches between frames: no image queries were recorded. Paint or read the film "
                "with refine='self-attention' (a model whose text stream is written out), or use link='overlap'."
            )
        _, _, rows, cols = self.scores.shape
        return MatchLink(self.matches, (rows, cols), self.latent_frames)

    def timeline(self) -> Timeline:
        """How much of each frame each concept has, and how high it scores there: when it is in the film.

        Concepts that compete share every frame out among themselves, so a word that is nowhere wins some pixels too:
        hold it against words for all else that is there.
        """
        return self._timeline(self._by_scores())

    def _by_scores(self) -> list[ConceptMaps]:
        """For each frame maps with its scores: one for all of a latent frame, unless their colours count too."""
        colours = self.recipe is not None and "joint-bilateral" in self.recipe.refine
        of = tuple(range(len(self))) if colours else self.latent_frames
        maps = {key: self.at(of.index(key)) for key in dict.fromkeys(of)}
        return [maps[key] for key in of]

    def _timeline(self, frames: Sequence[ConceptMaps]) -> Timeline:
        count = len(self.concepts)
        won = [np.bincount(maps.segmentation().ravel(), minlength=count) / maps.segmentation().size for maps in frames]
        peaks = [maps.scores.flatten(1).amax(dim=1).numpy() for maps in frames]
        return Timeline(
            self.concepts, np.stack(won, axis=1).astype(np.float32), np.stack(peaks, axis=1), self.clip.rate
        )

    def _repr_html_(self) -> str:
        line = self.timeline()
        shares = line.share.mean(axis=1)
        rows = [
            (name, f"{shares[self.concepts.index(name)]:.0%}", f"{float(self[name].max()):.3f}") for name in self.asked
        ]
        url = film_url(self._sheets(), self.clip.rate)
        alt = f"Maps of {', '.join(self.asked)}, frame by frame"
        return card(url, alt, table(("concept", "share of the film", "peak score"), rows), self.describe())

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
            rate=self.clip.rate,
            frame_numbers=numbers_besides(self.clip),
        ).to_dict()

    def describe(self) -> str:
        """One line that says how these maps were made."""
        return f"{len(self)} frames in {self.scores.shape[1]} latent ones · {self.at(0).describe()}"

    def save(self, folder: str | Path) -> Path:
        """Writes what can be seen of the film, and how it was all made.

        The overlay of every frame (`overlay-000.png`, ...), all as `overlay.gif`, when each concept is there
        (`timeline.png`, `timeline.json`), scores (`maps.npz`) and provenance (`maps.json`); of a film that was read its
        frames (`frame-000.png`, ...). Where the extra `conceptlens[video]` is installed there is `overlay.mp4` too;
        where not, a warning says so once.

        Returns:
            The folder.

        Raises:
            OutputError: when the folder cannot be written.
        """
        with into_folder(folder) as stage:
            frames = [self.at(frame) for frame in range(len(self))]
            sheets = [maps.overlay() for maps in frames]
            for number, sheet in enumerate(sheets):
                sheet.save(stage / f"overlay-{number:03d}.png")
            if self.run_info.task == "read":
                for number, frame in enumerate(self.images):
                    frame.save(stage / f"frame-{number:03d}.png")
            write_gif(sheets, stage / "overlay.gif", self.clip.rate)
            if can_write_mp4():
                write_mp4(sheets, stage / "overlay.mp4", self.clip.rate)
            line = self._timeline(frames)
            line.chart().save(stage / "timeline.png")
            write_text(stage / "timeline.json", json.dumps(line.to_dict()) + "\n")
            arrays: dict[str, Any] = {"scores": self.scores.numpy()}
            for name, values in (("parts", self.parts), ("spread", self.spread)):
                if values is not None:
                    arrays[name] = values.numpy()
            np.savez_compressed(stage / "maps.npz", **arrays)
            write_manifest(stage, self.provenance())
        return Path(folder)

    def save_gif(self, file: str | Path, *, rate: float | int | None = None) -> Path:
        """Writes the overlays of all frames as one GIF that repeats.

        Args:
            file: ends in .gif; its folder is made.
            rate: frames per second; the film's own when None.

        Returns:
            The file.

        Raises:
            OutputError: for another ending or an impossible rate, or when the file cannot be written.
        """
        return self._save_film(file, ".gif", write_gif, rate)

    def save_mp4(self, file: str | Path, *, rate: float | int | None = None) -> Path:
        """Writes the overlays of all frames as one MP4 (H.264).

        Args:
            file: ends in .mp4; its folder is made.
            rate: frames per second; the film's own when None.

        Returns:
            The file.

        Raises:
            LibraryError: when the extra `conceptlens[video]` is not installed.
            OutputError: for another ending or an impossible rate, or when the file cannot be written.
        """
        return self._save_film(file, ".mp4", write_mp4, rate)

    def _save_film(
        self,
        file: str | Path,
        ending: str,
        write: Callable[[Sequence[Image.Image], Path, float], None],
        rate: float | int | None,
    ) -> Path:
        shown = self.clip.rate if rate is None else rate
        return save_film(file, ending, lambda place: write(self._sheets(), place, shown))

    def _sheets(self) -> list[Image.Image]:
        return [self.at(frame).overlay() for frame in range(len(self))]


def clip_of(painted: Image.Image | Sequence[Image.Image] | Clip) -> Clip | None:
    """The film of what a pipeline gave; None of a picture."""
    if isinstance(painted, Image.Image):
        return None
    return painted if isinstance(painted, Clip) else Clip(tuple(painted))


def maps_of(picture: Image.Image | Sequence[Image.Image] | Clip, **settings: Any) -> ConceptMaps | VideoMaps:
    """The maps of what a pipeline gave, or was read: a picture, or a film, whose frames may come without a rate."""
    clip = clip_of(picture)
    if clip is None:
        assert isinstance(picture, Image.Image)
        settings.pop("matches", None)  # a picture has none
        return ConceptMaps(image=picture if picture.mode == "RGB" else picture.convert("RGB"), **settings)
    settings.pop("references", None)  # a film has none
    return VideoMaps(clip=clip, **settings)
