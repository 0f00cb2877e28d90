"""Clips: what a film file becomes, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import conceptlens as cl
from conceptlens.maps.films import write_gif, write_mp4
from conceptlens.readers.frames import FrameRoom
from conceptlens.values import film_files
from conceptlens.values.errors import LibraryError


def pictures(count: int, size: tuple[int, int] = (32, 16)) -> list[Image.Image]:
    """Each of one grey, brighter than the one before."""
    return [Image.new("RGB", size, (20 * number, 20 * number, 20 * number)) for number in range(count)]


def greys(clip: cl.Clip) -> list[int]:
    """Which of `pictures` each frame is, whatever a lossy file made of it."""
    return [round(float(np.asarray(frame).mean()) / 20) for frame in clip.frames]


def test_frames_of_a_gif_come_in_order_at_its_rate(tmp_path: Path) -> None:
    write_gif(pictures(6), tmp_path / "film.gif", 5)
    clip = cl.Clip.open(tmp_path / "film.gif")
    assert (len(clip), clip.size, clip.rate, clip.seconds) == (6, (32, 16), 5.0, 1.2)
    assert greys(clip) == [0, 1, 2, 3, 4, 5]
    assert all(frame.mode == "RGB" for frame in clip.frames)
    assert cl.Clip.open(tmp_path / "film.gif", rate=2).rate == 2


def test_transparent_frames_stand_on_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (32, 16), (255, 0, 0, alpha)) for alpha in (0, 255)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:], duration=250)
    clip = cl.Clip.open(tmp_path / "film.png")
    assert [frame.getpixel((3, 3)) for frame in clip.frames] == [(255, 255, 255), (255, 0, 0)]
    assert clip.rate == 4


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv"])
def test_frames_of_a_video_come_in_order_at_its_rate(tmp_path: Path, name: str) -> None:
    write_mp4(pictures(9), tmp_path / "film.mp4", 12.5)
    (tmp_path / "film.mp4").rename(tmp_path / name)
    clip = cl.Clip.open(str(tmp_path / name))
    assert (len(clip), clip.size, clip.rate) == (9, (32, 16), 12.5)
    assert greys(clip) == list(range(9))


def test_a_long_film_is_thinned_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(pictures(9), tmp_path / "film.mp4", 8)
    monkeypatch.setattr(film_files, "LARGEST", 3 * 3 * 32 * 16)
    with pytest.raises(cl.ImageError, match=r"has 9 frames of 32x16 pixels, of which 3 can be held. Take fewer: .*=3"):
        cl.Clip.open(tmp_path / "film.mp4")
    clip = cl.Clip.open(tmp_path / "film.mp4", frames=3)
    assert (greys(clip), clip.numbers, clip.rate) == ([0, 4, 8], (0, 4, 8), 2.0)


def test_a_phone_film_stands_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = av.VideoFrame.from_image(Image.new("RGB", (32, 16)))
    assert film_files._upright(frame).size == (32, 16)

    class Turned:
        rotation = -90

        def to_image(self) -> Image.Image:
            picture = Image.new("RGB", (32, 16))
            picture.putpixel((0, 0), (255, 0, 0))
            return picture

    upright = film_files._upright(Turned())  # type: ignore[arg-type]
    assert upright.size == (16, 32)
    assert upright.getpixel((15, 0)) == (255, 0, 0)  # a quarter to the right: the left end is up


def test_a_folder_of_numbered_frames(tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(11)):
        picture.save(tmp_path / f"shot2-{number}.png")
    (tmp_path / "notes.txt").write_text("")
    clip = cl.Clip.open(tmp_path, rate=24)
    assert (greys(clip), clip.rate) == (list(range(11)), 24)
    assert cl.Clip.open(tmp_path, rate=24, frames=6).rate == 12
    pictures(1)[0].save(tmp_path / "cover.png")
    with pytest.raises(cl.ImageError, match=r"frames in a folder have numbers; .*cover\.png has none"):
        cl.Clip.open(tmp_path)


def test_parts_of_a_clip_keep_their_numbers() -> None:
    clip = cl.Clip(tuple(pictures(9)), 8)
    part = clip[2:7:2]
    assert (greys(part), part.numbers, part.rate) == ([2, 4, 6], (2, 4, 6), 4)
    assert part.spread(2).numbers == (2, 6)
    assert clip.spread(3).rate == 2
    assert clip.spread(20).numbers == clip.numbers
    assert clip.spread(1).numbers == (0,)
    with pytest.raises(cl.RecipeError, match=r"cut with a slice, such as clip\[10:59\]; got 3"):
        clip[3]  # pyright: ignore[reportArgumentType]
    with pytest.raises(cl.ImageError, match="one or more"):
        clip[9:]


def test_what_is_no_clip_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(cl.ImageError, match=r"one size; frame 0 is 32x16 pixels, frame 1 16x16\. Resize"):
        cl.Clip((*pictures(1), *pictures(1, (16, 16))))
    with pytest.raises(cl.ImageError, match=r"one or more; got \(\)"):
        cl.Clip(())
    with pytest.raises(cl.ImageError, match=r"PIL pictures, one or more; got .*Files: Clip\.open"):
        cl.Clip(("film.gif",))  # pyright: ignore[reportArgumentType]
    for rate in (0, -1, float("nan"), 2000.0):
        with pytest.raises(cl.RecipeError, match="above 0, at most 1000"):
            cl.Clip(tuple(pictures(2)), rate)
    with pytest.raises(cl.RecipeError, match="numbers has 1 entries for 2 frames"):
        cl.Clip(tuple(pictures(2)), 8, (4,))
    with pytest.raises(cl.ImageError, match="no film at .*gone"):
        cl.Clip.open(tmp_path / "gone.gif")
    with pytest.raises(cl.ImageError, match="no film at .*gone"):
        cl.Clip.open(tmp_path / "gone.mp4")
    with pytest.raises(cl.ImageError, match="no frames in"):
        cl.Clip.open(tmp_path)
    for name in ("broken.gif", "broken.mp4"):
        (tmp_path / name).write_bytes(b"no film at all")
        with pytest.raises(cl.ImageError, match=f"cannot read .*{name} as a film"):
            cl.Clip.open(tmp_path / name)
    pictures(1)[0].save(tmp_path / "still.gif")
    with pytest.raises(cl.RecipeError, match="frames is a whole number, 1 or more; got 0"):
        cl.Clip.open(tmp_path / "still.gif", frames=0)


def test_a_video_without_the_extra_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(pictures(2), tmp_path / "film.mp4", 8)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(LibraryError, match=r"reading film\.mp4 needs av: pip install 'conceptlens\[video\]'"):
        cl.Clip.open(tmp_path / "film.mp4")


def test_a_truncated_video_is_damaged(tmp_path: Path) -> None:
    write_mp4(pictures(9, (64, 64)), tmp_path / "film.mp4", 8)
    whole = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "film.mp4").write_bytes(whole[: len(whole) - 120])
    with pytest.raises(cl.ImageError, match="damaged|cannot read"):
        cl.Clip.open(tmp_path / "film.mp4")


def test_a_gif_that_ends_anywhere_is_damaged_or_shorter(tmp_path: Path) -> None:
    write_gif(pictures(4), tmp_path / "film.gif", 8)
    whole = (tmp_path / "film.gif").read_bytes()
    refused = 0
    for length in range(len(whole)):
        (tmp_path / "cut.gif").write_bytes(whole[:length])
        try:
            assert len(cl.Clip.open(tmp_path / "cut.gif")) <= 4
        except cl.ImageError as error:
            refused += "cannot read" in str(error)
    assert refused > len(whole) / 2


def test_the_extent_is_that_of_the_frames(tmp_path: Path) -> None:
    write_gif(pictures(6), tmp_path / "film.gif", 5)
    write_mp4(pictures(9), tmp_path / "film.mp4", 5)
    pictures(1)[0].save(tmp_path / "still.png")
    extents = [film_files.film_extent(tmp_path / name) for name in ("film.gif", "film.mp4", "still.png")]
    assert extents == [(6, (32, 16)), (9, (32, 16)), (1, (32, 16))]


@pytest.mark.parametrize(
    ("count", "numbers"),
    [
        (1, (0,)),
        (4, (0,)),
        (5, (0, 1, 2, 3, 4)),
        (8, (0, 1, 2, 3, 4)),
        (9, tuple(range(9))),
        (10, (0, 1, 2, 3, 4, 6, 7, 8, 9)),
        (17, (0, 2, 4, 6, 8, 10, 12, 14, 16)),
    ],
)
@pytest.mark.filterwarnings("ignore:of .* frames")
def test_which_frames_fit(count: int, numbers: tuple[int, ...]) -> None:
    clip = cl.Clip(tuple(pictures(count)))
    assert FrameRoom(4, 11).fitted(clip).numbers == numbers  # 1 + 4n, at most 11: 9


@pytest.mark.parametrize(("count", "says"), [(7, "of 7 frames the first 5"), (10, "9.* are read, evenly spread")])
def test_a_file_is_read_as_the_clip_of_it_would_be(tmp_path: Path, count: int, says: str) -> None:
    write_gif(pictures(count), tmp_path / "film.gif", 10)
    room = FrameRoom(4, 9)
    with pytest.warns(UserWarning, match=says):
        opened = room.open(tmp_path / "film.gif")
    with pytest.warns(UserWarning, match=says):
        own = room.fitted(cl.Clip.open(tmp_path / "film.gif"))
    assert (opened.numbers, opened.rate) == (own.numbers, own.rate)
    assert greys(opened) == greys(own)
