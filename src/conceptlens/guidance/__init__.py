"""Guidance: moves the latents during sampling so that cross-attention maps say what the prompt says.

Nothing is trained and no pipeline is forked; an ordinary Stable Diffusion (1.x, 2.x) or Stable Diffusion XL pipeline is
called with a callback. `TSAM` is the method; `AttendAndExcite`, `Conform` and `SynGen` are its peers. `TSAM` also reads
FLUX.1 and Stable Diffusion 3, as an experiment.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from conceptlens.guidance.attend_and_excite import AttendAndExcite
from conceptlens.guidance.base import Guidance
from conceptlens.guidance.conform import Conform
from conceptlens.guidance.named import guidance_named
from conceptlens.guidance.result import GuidedMaps, GuidedResult, GuidedStep
from conceptlens.guidance.syngen import SynGen
from conceptlens.guidance.tsam import TSAM
from conceptlens.watch.prompt_text import PromptText

if TYPE_CHECKING:
    from conceptlens.guidance.demo import demo_folder
    from conceptlens.guidance.driver import GuidedCall, guide
    from conceptlens.guidance.painting import GuidedPainter, chosen_guidance

_LATER = {
    "GuidedCall": "driver",
    "GuidedPainter": "painting",
    "chosen_guidance": "painting",
    "demo_folder": "demo",
    "guide": "driver",
}
"""What needs diffusers, and the module that has it: settings can be checked without."""


def __getattr__(name: str) -> object:
    """What stands in `_LATER` is fetched when it is first used."""
    if name not in _LATER:
        raise AttributeError(f"module 'conceptlens.guidance' has no attribute {name!r}")
    return getattr(import_module(f"conceptlens.guidance.{_LATER[name]}"), name)


__all__ = [
    "TSAM",
    "AttendAndExcite",
    "Conform",
    "Guidance",
    "GuidedCall",
    "GuidedMaps",
    "GuidedPainter",
    "GuidedResult",
    "GuidedStep",
    "PromptText",
    "SynGen",
    "chosen_guidance",
    "demo_folder",
    "guidance_named",
    "guide",
]
