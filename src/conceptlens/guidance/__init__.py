"""Guidance: moves the latents during sampling so that cross-attention maps say what the prompt says.

Nothing is trained and no pipeline is forked; an ordinary Stable Diffusion (1.x, 2.x) or Stable Diffusion XL pipeline is
called with a callback. `TSAM` is the method; `AttendAndExcite`, `Conform` and `SynGen` are its peers. `TSAM` also reads
FLUX.1 and Stable Diffusion 3, as an experiment.
"""

from conceptlens.guidance._demo import demo_folder
from conceptlens.guidance._driver import GuidedCall, guide
from conceptlens.guidance._named import guidance_named
from conceptlens.guidance._painting import chosen_guidance, paint_guided
from conceptlens.guidance._result import GuidedMaps, GuidedResult, GuidedStep
from conceptlens.guidance._text import PromptText
from conceptlens.guidance.attend_and_excite import AttendAndExcite
from conceptlens.guidance.base import Guidance
from conceptlens.guidance.conform import Conform
from conceptlens.guidance.syngen import SynGen
from conceptlens.guidance.tsam import TSAM

__all__ = [
    "TSAM",
    "AttendAndExcite",
    "Conform",
    "Guidance",
    "GuidedCall",
    "GuidedMaps",
    "GuidedResult",
    "GuidedStep",
    "PromptText",
    "SynGen",
    "chosen_guidance",
    "demo_folder",
    "guidance_named",
    "guide",
    "paint_guided",
]
