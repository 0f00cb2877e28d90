"""One tiny random model per served class, with the arguments of one call, and what a dry run on it shows."""

from specimens.examination import dry_run, required_settings
from specimens.families import FAMILY_SPECIMENS
from specimens.random_models import Specimen
from specimens.reentry import REENTRY_SPECIMENS

__all__ = ["FAMILY_SPECIMENS", "REENTRY_SPECIMENS", "SPECIMENS", "Specimen", "dry_run", "required_settings"]

SPECIMENS: dict[str, Specimen] = {**FAMILY_SPECIMENS, **REENTRY_SPECIMENS}
"""By transformer class: the model, and the arguments of one call for a batch and a patch grid (videos: two frames)."""
