"""Films as a benchmark: which are drawn, what is measured of one, what a run says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import conceptlens as cl
from command_line import here
from conceptlens.bench.datasets.moving import Film, make_film
from conceptlens.bench.film_metrics import identities
from conceptlens.bench.films.cases import FilmCase, film_case
from conceptlens.bench.films.measuring import (
    match_hits,
    motion_scores,
    motion_words,
    object_scores,
    segmentation_scores,
    true_tracks,
)
from conceptlens.bench.films.report import figures, save, tables
from conceptlens.bench.films.runs import ALONE, METHODS, FilmsError, FilmsSpec, run
from conceptlens.maps.links import MatchLink, OverlapLink
from conceptlens.session import Session
from conceptlens.values.errors import RecipeError
from tiny_models import cogvideox_pipeline

LATENT = (0, 1, 1, 2, 2, 3, 3, 4, 4)
GRID, PATCH = 12, 4


def test_films_take_turns_with_pairs_that_meet() -> None:
    cases = [film_case(number) for number in range(4)]
    assert [case.pair for case in cases] == [False, True, False, True]
    for case in cases[1::2]:
        assert len(case.film.objects) == 2
        assert len(case.nouns) == 1
        assert case.film.crosses
    again = film_case(3)
    assert np.array_equal(again.film.frames, cases[3].film.frames)
    assert again.id == "00003"


def ideal_matches(film: Film) -> torch.Tensor:
    """What a model would attend to that knows where every pixel goes."""
    first = [LATENT.index(number) for number in range(5)]
    matches = torch.zeros(3, 5, GRID**2, GRID**2)
    for gap in (1, 2, 3):
        for start in range(5 - gap):
            here, there = first[start], first[start + gap]
            for y, x in np.ndindex(48, 48):
                thing = int(film.instances[here, y, x])
                path = film.objects[thing].path if thing >= 0 else ((0.0, 0.0),) * 9
                right, down = (round(b - a) for a, b in zip(path[here], path[there], strict=True))
                place = min(max(y + down, 0), 47) // PATCH * GRID + min(max(x + right, 0), 47) // PATCH
                matches[gap - 1, start, y // PATCH * GRID + x // PATCH, place] += 1 / PATCH**2
    return matches


@pytest.fixture(scope="module")
def pair() -> tuple[FilmCase, MatchLink]:
    case = film_case(3)  # two balls roll through each other
    return case, MatchLink(ideal_matches(case.film), (GRID, GRID), LATENT)


def test_the_best_that_matches_can_do_keeps_two_balls_apart(pair: tuple[FilmCase, MatchLink]) -> None:
    case, link = pair
    truth = case.film.instances.astype(int) + 1
    matched = identities(true_tracks(case.film, case.nouns, link), truth)
    assert (matched.switches, matched.idf1 > 0.95) == (0, True)
    overlapped = identities(true_tracks(case.film, case.nouns, OverlapLink()), truth)
    assert overlapped.switches == 2
    assert overlapped.idf1 < 0.5


def maps_of_truth(film: Film, matches: torch.Tensor | None = None) -> cl.VideoMaps:
    """Maps that score each concept where it is, on the latent frames' first frames."""
    first = [LATENT.index(number) for number in range(5)]
    there = np.stack([film.labels[first] == number for number in range(len(film.concepts))])
    return cl.VideoMaps(film.concepts, torch.from_numpy(there).float(), film.clip, None, "truth", matches=matches)


def test_scores_of_the_truth_are_one() -> None:
    film = film_case(0).film
    assert segmentation_scores(film.labels.astype(int), film) == {"miou": 1, "j": 1, "f": 1, "jf": 1}
    wrong = np.full(film.labels.shape, len(film.concepts) - 1)  # all of it ground
    scores = segmentation_scores(wrong, film)
    assert (scores["j"], scores["f"]) == (0, 0)
    share = np.mean([(frame == len(film.concepts) - 1).mean() for frame in film.labels])
    shown = [len(np.unique(frame)) for frame in film.labels]
    assert scores["miou"] == pytest.approx(share / np.mean(shown), abs=0.01)


def test_objects_of_the_truth_are_found_and_said_how_they_behave() -> None:
    film = make_film(8, nouns=("house", "ball"))
    ball = next(n for n, item in enumerate(film.objects) if item.noun == "ball")
    scores = {row["noun"]: row for row in object_scores(film.labels.astype(int), film)}
    assert {row["j"] for row in scores.values()} == {1.0}
    assert scores["house"]["speed"] == 0
    assert scores["ball"]["speed"] == pytest.approx(film.objects[ball].speed, abs=1e-3)
    assert scores["ball"]["meets"] == film.crosses
    twins = make_film(3, nouns=("ball", "ball"))
    assert object_scores(twins.labels.astype(int), twins) == []


def test_words_of_motion_are_held_against_what_moves_so() -> None:
    film = next(film for film in map(make_film, range(200)) if "left" in motion_words(film) and film.crosses)
    which = motion_words(film)["left"]
    assert all("left" in film.objects[n].motion for n in which)
    there = torch.from_numpy(np.isin(film.instances, which))[None].float()
    maps = cl.VideoMaps(("left",), there, film.clip, None, "truth")
    assert motion_scores(maps, film, which) == {"everywhere": 1.0, "among objects": 1.0}
    away = cl.VideoMaps(("left",), 1 - there, film.clip, None, "truth")
    assert motion_scores(away, film, which) == {"everywhere": 0.0, "among objects": 0.0}


def test_matches_hit_where_the_object_goes(pair: tuple[FilmCase, MatchLink]) -> None:
    case, link = pair
    maps = maps_of_truth(case.film, link.matches)
    maps = cl.VideoMaps(maps.concepts, maps.scores[..., ::PATCH, ::PATCH], maps.clip, None, "t", matches=link.matches)
    hits = match_hits(maps, case.film)
    assert hits["hits"] is not None
    assert hits["stays"] is not None
    assert hits["hits"] > 0.7  # cells at an object's rim lead to others of which it has less than half
    assert hits["stays"] < 0.4
    still = torch.eye(GRID**2).expand(3, 5, -1, -1).contiguous()
    maps = cl.VideoMaps(maps.concepts, maps.scores, maps.clip, None, "t", matches=still)
    assert match_hits(maps, case.film)["hits"] == hits["stays"]


@pytest.fixture(scope="module")
def session() -> Session:
    return cl.load(cogvideox_pipeline())


@pytest.fixture(scope="module")
def made(session: Session, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[Any]]:
    out = tmp_path_factory.mktemp("films")
    header, rows = run(session, FilmsSpec(2, noises=(0.5,)), out, command="here")
    return out, header, rows


def test_a_run_has_a_row_for_each_film(made: tuple[Path, dict[str, Any], list[Any]], session: Session) -> None:
    _, _, rows = made
    assert [row["pair"] for row in rows] == [False, True]
    for row in rows:
        assert set(row["methods"]) == {*METHODS, ALONE}
        assert set(row["layers"]) == {str(layer) for layer in range(session.depth)}
        assert set(row["noises"]) == {"0.5"}
        assert row["noises"]["0.5"]["miou"] == row["scores"]["iou"]  # the model's own level
        assert set(row["tracks"]) == {f"{a}, {b}" for a in ("match", "overlap") for b in ("maps", "true masks")}


def test_tracks_are_linked_by_the_layers_that_are_named(
    made: tuple[Path, dict[str, Any], list[Any]], session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks stay those of the recipe, and the matches are those of the named layer alone."""
    _, _, rows = made
    linked: list[cl.VideoMaps] = []
    monkeypatch.setattr("conceptlens.bench.films.runs.tracking_scores", lambda maps, *rest: linked.append(maps) or {})
    for layers in ((), *((layer,) for layer in session.recipe().layers or range(session.depth))):
        _, (row,) = run(session, FilmsSpec(1, noises=(), layers=False, match_layers=layers), tmp_path / str(layers))
        assert row["methods"] == rows[0]["methods"]
    plain, *each = (maps.matches for maps in linked if maps.matches is not None)
    assert len(each) > 1
    assert not torch.equal(each[0], each[1])
    torch.testing.assert_close(plain, sum(each) / len(each))


def test_a_run_goes_on_where_it_stopped(
    made: tuple[Path, dict[str, Any], list[Any]], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, rows = made
    monkeypatch.setattr("conceptlens.bench.films.runs._Measured.row", lambda self, case: pytest.fail("measured again"))
    _, again = run(session, FilmsSpec(2, noises=(0.5,)), out)
    assert again == rows


def test_tables_of_a_run(made: tuple[Path, dict[str, Any], list[Any]]) -> None:
    out, header, rows = made
    found = tables(header, rows)
    assert set(found) >= {"methods", "margins", "objects", "tracks", "pairs", "layers", "noises"}
    margin = figures(rows)["margins"]["cross attention"]["miou"].value
    differences = [row["methods"]["output"]["miou"] - row["methods"]["cross attention"]["miou"] for row in rows]
    assert margin == pytest.approx(np.mean(differences))
    assert found["methods"].body[0][0] == "output"
    assert "2 films of the test split, 1 of them" in " ".join(found["methods"].notes)
    jf = figures(rows)["methods"]["output"]["jf"].value
    assert jf == pytest.approx(np.mean([row["methods"]["output"]["jf"] for row in rows]))
    gain = figures(rows)["gains"]["pairs that meet"]["idf1, true masks"].value
    one = rows[1]["tracks"]
    assert gain == pytest.approx(one["match, true masks"]["idf1"] - one["overlap, true masks"]["idf1"])
    save(header, rows, out)
    text = (out / "films.md").read_text()
    assert "![tracks-00001](tracks-00001.png)" in text
    assert "pairs that meet: switches, maps" in text
    assert all((out / name).stat().st_size for name in ("films.png", "methods.tex", "pairs.csv", "tracks-00001.png"))


def test_a_model_that_takes_fewer_frames_is_held_to_the_truth_of_those() -> None:
    case = film_case(3)
    part = case.of_frames((0, 2, 4)).film
    assert np.array_equal(part.labels, case.film.labels[[0, 2, 4]])
    assert (len(part.frames), len(part.instances)) == (3, 3)


def test_a_model_of_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FilmsError, match="films are read by video models; got demo, which reads pictures"):
        run(cl.load(), FilmsSpec(1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_layers_that_are_not_there_are_refused_before_anything_is_written(session: Session, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="layers has 99, but there are"):
        run(session, FilmsSpec(1, match_layers=(99,)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_a_model_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, "bench", "films", "--model", "demo", "--limit", "1", "--out", str(tmp_path)) == 2
    assert "films are read by video models" in capsys.readouterr().err
