"""What commands do with a model and with what came out: open, refine, save, show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlens.cli.options import console, note, say, show, table
from conceptlens.values.errors import RecipeError

if TYPE_CHECKING:
    from conceptlens.maps.image_maps import ConceptMaps
    from conceptlens.maps.video_maps import VideoMaps
    from conceptlens.session import Session
    from conceptlens.values.records import ImageRecord

    Result = ConceptMaps | VideoMaps


def explain(
    method: str,
    model: str | None,
    image: Path,
    concepts: list[str],
    prompt: str,
    seed: int,
    device: str | None,
    options: dict[str, Any],
) -> ConceptMaps:
    from conceptlens.maps.picture_files import open_image

    picture = open_image(image)
    from conceptlens.methods import method_named

    chosen = method_named(method)
    with console().status("opening the model"):
        opened = chosen.load(model, device=device, **options)
    return opened.explain(picture, concepts, prompt=prompt, seed=seed)


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


def finish(maps: Result | list[Result], out: Path, json_: bool) -> None:
    """Saves and shows one result, or each of several in its own folder."""
    if isinstance(maps, list):
        for number, each in enumerate(maps):
            finish(each, out / str(number), json_)
        return
    from conceptlens.maps.image_maps import chance_text
    from conceptlens.maps.video_maps import VideoMaps

    maps.save(out)
    if json_:
        peaks = {name: round(float(maps[name].max()), 4) for name in maps.asked}
        say(json.dumps({"out": str(out), **maps.provenance(), "peak": peaks}))
        return
    if isinstance(maps, VideoMaps):
        say(f"{out / 'overlay.gif'}, with every frame and maps.json beside it")
        say(maps.describe())
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
