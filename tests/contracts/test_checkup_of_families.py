"""A checkup of every kind of reader, on tiny random models: it paints, reads, and says that they show nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_adapters import session_of
from test_reentry_pipelines import session_of as reentry_session

import conceptlens as cl
import tiny_cross
import tiny_unets
from conceptlens.bench.checkup.collages import plan_collages
from conceptlens.bench.checkup.looking import Looker
from conceptlens.bench.checkup.plan import Plan
from conceptlens.bench.checkup.run import Checkup
from conceptlens.bench.checkup.scores import image_score
from conceptlens.session import Session
from tiny_models import FAMILIES
from tiny_reentry import TINY

pytestmark = pytest.mark.filterwarnings("ignore:.*CPU autocast", "ignore:__array__ implementation")
NOUNS = ("house", "tree", "sun", "boat", "sea")
FAST: dict[str, Any] = {"num_inference_steps": 2}
READERS: dict[str, Callable[[Path], Session]] = {
    **{name: lambda folder, name=name: session_of(FAMILIES[name].pipeline()) for name in FAMILIES},
    **{name: lambda folder, name=name: reentry_session(TINY[name].pipeline()) for name in TINY},
    **{name: lambda folder, name=name: _opened(tiny_cross.saved(name, folder)) for name in tiny_cross.PIPELINES},
    "sd2": lambda folder: _opened(tiny_unets.saved(tiny_unets.sd2_pipeline, folder)),
    "sdxl": lambda folder: _opened(tiny_unets.saved(tiny_unets.sdxl_pipeline, folder)),
}


def _opened(folder: Path) -> Session:
    return cl.load(folder, device="cpu")


KINDS = ("flux", next(iter(TINY)), "sd2")
"""A reader of three kinds; the others take minutes."""


def opened(name: str, folder: Path) -> Session:
    """A reader whose other words are ones that the smallest of the tiny vocabularies holds."""
    session = READERS[name](folder)
    known = (*NOUNS, "sky", "image", "user")
    session.reader.defaults = replace(session.reader.defaults, background=("sky", "image"), vocabulary=known)
    return session


@pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in READERS]
)
def test_every_reader_is_checked_up(name: str, tmp_path: Path) -> None:
    session = opened(name, tmp_path / "model")
    plan = Plan.of(session, NOUNS, "a {}", (0.6,), pictures=2, limit=8, call=FAST)
    with Checkup(session, plan, tmp_path / "run") as run:
        forecast = run.forecast()
        assert forecast.pictures == 2 * len(NOUNS) - 1
        assert forecast.readings == 8 * len(plan.noises)
        assert forecast.record_mb > 0
        assert forecast.seconds > 0
        picture = run._studio.picture(run.cells[0])
        collage = plan_collages(NOUNS, 2, 2, 0)[1]
        looker = Looker(session, NOUNS, max(picture.size))
        left = np.zeros((picture.height, picture.width), bool)
        left[:, : picture.width // 2] = True
        extents = dict.fromkeys(collage.cells, left)
        record = looker.read(collage.paste(dict.fromkeys(collage.cells, picture), extents), 0.6, 0)
        scores = looker.scores(record, collage, extents)
        assert list(scores) == list(looker.spaces)
        for spans in scores.values():
            assert list(spans) == list(looker.spans)
            assert all(0 <= image_score(scored) <= 1 for scored in spans.values())
        for standings in looker.standings(record).values():
            assert len(standings) == len(NOUNS)
            assert all(map(math.isfinite, standings))


@pytest.mark.parametrize("name", [*KINDS[:2], *(pytest.param(n, marks=pytest.mark.slow) for n in ("pixart", "sd2"))])
def test_a_random_model_is_told_that_it_shows_nothing(name: str, tmp_path: Path) -> None:
    session = opened(name, tmp_path / "model")
    plan = Plan.of(session, NOUNS, "a {}", (0.6,), pictures=2, limit=8, call=FAST)
    with Checkup(session, plan, tmp_path / "run") as run:
        run.paint()
        run.read()
        found = run.findings()
        run.write(found)
    assert not found.trusted
    assert found.presence is None
    assert "nothing can be said of its maps" in found.text()
    assert found.summary()["why_not"] in (tmp_path / "run" / "checkup.json").read_text()
    assert "nothing can be said" in (tmp_path / "run" / "checkup.html").read_text()
