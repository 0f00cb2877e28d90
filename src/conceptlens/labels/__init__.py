"""A label factory: prompts, or pictures and words, become a data set with masks that passed quality gates."""

from conceptlens.labels.gates import Gates
from conceptlens.labels.plan import LabelError, LabelSpec, read_plan
from conceptlens.labels.runs import Running, Summary, label

__all__ = ["Gates", "LabelError", "LabelSpec", "Running", "Summary", "label", "read_plan"]
