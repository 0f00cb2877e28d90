"""Which frames of a film a video model reads."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from conceptlens.values.clips import Clip


@dataclass(frozen=True)
class FrameRoom:
    """How many frames a model takes at once: 1 + `step` x n, at most `most`.

    Attributes:
        step: frames behind the first that share one step of the model in time.
        most: the largest count it is asked to take.
    """

    step: int
    most: int

    @property
    def largest(self) -> int:
        """The largest count that is of that form."""
        return 1 + (self.most - 1) // self.step * self.step

    def open(self, path: str | Path) -> Clip:
        """A film file as a clip of as many frames as fit; see `fitted`. Raises as `Clip.open`."""
        clip = Clip.open(path, frames=self.largest)
        if clip.numbers[-1] >= len(clip):
            self._say(f"of {path} {len(clip)} frames are read, evenly spread from 0 to {clip.numbers[-1]}")
        return self.fitted(clip)

    def fitted(self, clip: Clip) -> Clip:
        """The frames of a clip that are read; a warning says what is left out.

        Of a clip with more frames than fit, so many as fit, evenly spread from the first to the last; of any other all
        but the last few, which make no whole step.
        """
        count = len(clip)
        if count > self.largest:
            chosen = clip.spread(self.largest)
            self._say(f"of {count} frames {len(chosen)} are read, evenly spread")
            return chosen
        taken = 1 + (count - 1) // self.step * self.step
        if taken < count:
            self._say(f"of {count} frames the first {taken} are read")
        return clip[:taken]

    def _say(self, what: str) -> None:
        warnings.warn(
            f"{what}: this model takes 1 + {self.step}n, at most {self.largest}. num_frames= sets how many at most.",
            stacklevel=5,
        )
