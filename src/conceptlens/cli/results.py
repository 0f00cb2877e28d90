"""What commands do with a model and with what came out: open, refine, save, show."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.cli.options import console, note, say, show, table
from conceptlens.values.errors import ImageError, RecipeError
from conceptlens.values.files import saved_provenance

if TYPE_CHECKING:
    from PIL.Image import Image

    from conceptlens.maps.image_maps import ConceptMaps
    from conceptlens.maps.video_maps import VideoMaps
    from conceptlens.methods.base import SaliencyMethod
    from conceptlens.session import Session
    from conceptlens.values.clips import Clip
    from conceptlens.values.records import ImageRecord

    Result = ConceptMaps | VideoMaps
    Mapped = Callable[[list[Image | Clip]], list[Result]]
    Opened = Callable[[Path], Image | Clip]


def open_method(name: str, model: str | None, device: str | None, options: dict[str, Any]) -> SaliencyMethod:
    from conceptlens.methods import method_named

    chosen = method_named(name)
    with console().status("opening the model"):
        return chosen.load(model, device=device, **options)


def explains(method: SaliencyMethod, concepts: list[str], prompt: str, seed: int) -> Mapped:
    """Maps of pictures by a method."""
    from conceptlens.methods.base import Question

    def mapped(pictures: list[Any]) -> list[Result]:
        return [*method.explain_all([Question(picture, tuple(concepts), prompt, seed) for picture in pictures])]

    return mapped


def opens(session: Session, options: Mapping[str, Any]) -> Opened:
    """What opens a file as the session reads it: as a picture, or as a film where the model reads films."""
    from conceptlens.readers.pictures import opened

    names = session.reader.read_options
    room = session.reader.frame_room({name: value for name, value in options.items() if name in names})
    return lambda path: opened(path, room)


def reads(session: Session, concepts: list[str], file: Path | None, **options: Any) -> Mapped:
    """Maps of pictures and films by a session; the record of a single one goes to `file` where that is given."""

    def mapped(pictures: list[Image | Clip]) -> list[Result]:
        at_once = len(pictures)
        seen = session.read(pictures, batch=at_once, **options)
        found = zip(session.probe(seen, concepts, batch=at_once), seen, strict=True)
        results = [judged(session, maps, record) for maps, record in found]
        if file is not None:
            session.save_record(seen[0], file)
        return results

    return mapped


def pictures_at(images: list[Path], out: Path) -> dict[Path, Path]:
    """The pictures that a command line names, and for each the folder of its result.

    A single picture has `out` itself; each of several has a folder in it that is called after the picture, with its
    ending where two differ in nothing else.

    Raises:
        ImageError: for a picture alone that cannot be opened, a folder without pictures, or two results of one name.
        LibraryError: for a film alone that needs a package which is not installed.
    """
    from conceptlens.maps.picture_files import open_image
    from conceptlens.values.film_files import FILMS, check_film
    from conceptlens.values.pictures import PICTURES

    if len(images) == 1 and not images[0].is_dir():
        refuse = check_film if images[0].suffix.lower() in FILMS else open_image
        refuse(images[0])  # before a model is opened
        return {images[0]: out}
    places: dict[Path, Path] = {}
    for image in images:
        if not image.is_dir():
            places[image] = Path(image.name)
            continue
        found = sorted(path for path in image.rglob("*") if path.suffix.lower() in PICTURES)
        if not found:
            raise ImageError(f"no pictures in {image}. It must hold files that end in {', '.join(PICTURES)}.")
        places |= {path: path.relative_to(image) for path in found}
    stems = Counter(place.with_suffix("") for place in places.values())
    folders = {path: p if stems[p.with_suffix("")] > 1 else p.with_suffix("") for path, p in places.items()}
    if (same := Counter(folders.values()).most_common(1)[0])[1] > 1:
        raise ImageError(f"{same[1]} pictures are called {same[0]}. Read them into folders of their own, with --out.")
    return {path: out / folder for path, folder in folders.items()}


def finish_all(pictures: dict[Path, Path], opened: Opened, mapped: Mapped, json_: bool, batch: int = 1) -> None:
    """Maps, saves and shows each picture; one that cannot be opened among several is named and left out.

    Args:
        pictures: the folder of each one's result.
        opened: what opens one of them.
        mapped: maps of some of them.
        json_: show one machine-readable line for each.
        batch: how many are mapped at once.

    Raises:
        ImageError: when none of them could be opened.
    """
    from rich.progress import track

    if len(pictures) == 1:
        ((path, folder),) = pictures.items()
        finish(mapped([opened(path)])[0], folder, json_)
        return
    bad: list[ImageError] = []
    waiting: list[tuple[Image | Clip, Path]] = []
    last = list(pictures)[-1]
    for path, folder in track(
        pictures.items(), "reading", console=console(), transient=True, disable=not console().is_terminal
    ):
        try:
            waiting.append((opened(path), folder))
        except ImageError as error:
            bad.append(error)
            note(f"left out: {error}")
        if waiting and (len(waiting) == batch or path == last):
            for maps, (_, place) in zip(mapped([picture for picture, _ in waiting]), waiting, strict=True):
                finish(maps, place, json_, brief=True)
            waiting.clear()
    if len(bad) == len(pictures):
        raise ImageError(f"none of the {len(bad)} pictures could be opened. The first: {bad[0]}")


def open_session(
    model: str | None, device: str | None = None, offload: bool = False, single_stream: bool = False, *, quiet: bool
) -> Session:
    """Opens the model; the heavy imports happen here, so that `--help` and `--version` are quick."""
    from conceptlens.session import load

    with console().status("opening the model"):
        session = load(model, device=device, offload=offload, single_stream=single_stream)
    session.pipeline.set_progress_bar_config(disable=quiet or not console().is_terminal, leave=False, desc="painting")
    return session


def judged(session: Session, maps: Result, record: ImageRecord | None = None, *, again: bool = True) -> Result:
    """Maps with the chance of each concept to be in the picture, where the model can tell."""
    from conceptlens.maps.image_maps import ConceptMaps
    from conceptlens.presence import add_presence

    return add_presence(session, maps, record, again=again) if isinstance(maps, ConceptMaps) else maps


def refined(maps: Result, edges: bool, abstain: float) -> Result:
    """Maps whose masks follow edges or abstain, where that is asked for."""
    from conceptlens.maps.video_maps import VideoMaps

    if not edges and not abstain:
        return maps
    if isinstance(maps, VideoMaps):
        raise RecipeError("--edges and --abstain are of pictures; got a video. Drop them.")
    return maps.refined(edges=edges, abstain=abstain)


def finish(maps: Result | list[Result], out: Path, json_: bool, *, brief: bool = False) -> None:
    """Saves and shows one result, or each of several in its own folder; `brief`ly in one line."""
    if isinstance(maps, list):
        for number, each in enumerate(maps):
            finish(each, out / str(number), json_)
        return
    from conceptlens.maps.image_maps import chance_text
    from conceptlens.maps.video_maps import VideoMaps

    earlier = _subject(saved_provenance(out))
    if earlier and (earlier != _subject(maps.provenance()) or not _shows(out / "image.png", maps)):
        note(f"{out} held {earlier}, which this result replaces. --out keeps both.")
    maps.save(out)
    if json_:
        peaks = {name: round(float(maps[name].max()), 4) for name in maps.asked}
        say(json.dumps({"out": str(out), **maps.provenance(), "peak": peaks}))
        return
    if isinstance(maps, VideoMaps):
        _show_film(maps, out, brief)
        return
    if brief:
        shares = ", ".join(f"{name} {place.area:.0%}" for name, place in maps.places().items())
        say(f"{out / 'overlay.png'}  {shares}")
        return
    there = [] if maps.presence is None else ["in the image?"]
    shown = table("concept", *there, "share of the image", "peak score")
    for name, place in maps.places().items():
        chance = [] if maps.presence is None else [chance_text(maps.presence[name])]
        shown.add_row(name, *chance, f"{place.area:.0%}", f"{float(maps[name].max()):.3f}")
    show(shown)
    say(f"{out / 'overlay.png'}, with heat maps, masks, report.html and maps.json beside it")
    if maps.run_info.caveat is not None:
        note(maps.run_info.caveat)
    say(maps.describe())


def _show_film(maps: VideoMaps, out: Path, brief: bool) -> None:
    """Says what a saved film's maps show; `brief`ly in one line."""
    shares = dict(zip(maps.concepts, maps.timeline().share.mean(axis=1), strict=True))
    if brief:
        say(f"{out / 'overlay.gif'}  {', '.join(f'{name} {shares[name]:.0%}' for name in maps.asked)}")
        return
    shown = table("concept", "share of the film", "peak score")
    for name in maps.asked:
        shown.add_row(name, f"{shares[name]:.0%}", f"{float(maps[name].max()):.3f}")
    show(shown)
    say(f"{out / 'overlay.gif'}, with every frame, timeline.png and maps.json beside it")
    say(maps.describe())


def suggest_more_words(maps: Result) -> None:
    """Says of maps of a prompt's own words that they part the whole picture among them, sky and ground too."""
    if maps.recipe is not None and maps.recipe.softmax and not maps.background:
        words = ", ".join(maps.asked)
        note(f'every place went to one of these words. Name what else is there: -c "{words}, ..."')


def _shows(file: Path, maps: Result) -> bool:
    """Whether a saved picture is that of the maps; a video's first frame stands for it."""
    from conceptlens.maps.picture_files import open_image
    from conceptlens.maps.video_maps import VideoMaps

    if isinstance(maps, VideoMaps) or not file.exists():
        return True
    return open_image(file).tobytes() == maps.image.tobytes()


def _subject(result: Mapping[str, Any]) -> str:
    """What a result is of, from its provenance: two of the same differ in settings alone."""
    if not result:
        return ""
    prompt = f" of {result['prompt']!r}" if result.get("prompt") else ""
    words = ", ".join(map(str, result.get("concepts", ())))
    return f"{result.get('task')}{prompt} with {words} (model {result.get('model')}, seed {result.get('seed')})"
