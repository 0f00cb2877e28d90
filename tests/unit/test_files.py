"""Saving is all or nothing: after an error, after a kill at any moment, between any two moves."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conceptlens.values.errors import ImageError, OutputError
from conceptlens.values.files import check_file, check_folder, into_folder, settle, write_manifest

KILLS = 12
BEGIN = "import sys, time; from pathlib import Path; from conceptlens.values.files import into_folder, write_manifest\n"
SAVE = """
def save(folder, number, count):
    with into_folder(folder) as stage:
        for name in range(count):
            (stage / f"{name}.txt").write_text(str(number) * 1000)
        write_manifest(stage, {"number": number})
"""


def save(folder: Path, number: int, count: int) -> None:
    """As `SAVE`, in this process."""
    with into_folder(folder) as stage:
        for name in range(count):
            (stage / f"{name}.txt").write_text(str(number) * 1000)
        write_manifest(stage, {"number": number})


def whole(folder: Path) -> int | None:
    """The number of the result in a folder; None for no result. Fails for anything between."""
    files = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
    if "maps.json" not in files:
        return None
    told = json.loads(files.pop("maps.json"))
    assert sorted([*files, "maps.json"]) == told["files"]
    assert set(files.values()) == {str(told["number"]) * 1000}
    return told["number"]


def stages(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".conceptlens-*")]


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BEGIN + SAVE + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_process_killed_at_any_moment_leaves_a_whole_result(tmp_path: Path) -> None:
    endless = """
print("ready", flush=True)
for number in range(1, 1_000_000): save(sys.argv[1], number, 3 + number % 9)
"""
    chance = random.Random(0)
    for _ in range(KILLS):
        process = run(endless, tmp_path)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.wait()
        process.stdout.close()
        whole(tmp_path)
        settle(tmp_path)
        assert whole(tmp_path) is not None or not any(tmp_path.glob("*.txt"))
    save(tmp_path, 7, 2)
    assert whole(tmp_path) == 7
    assert stages(tmp_path) == []


@pytest.mark.parametrize("moves", range(12))
def test_a_kill_between_two_moves_is_finished_by_the_next_reader(tmp_path: Path, moves: int) -> None:
    """Saves 3 files over 5, and is killed after so many moves: one of the whole stage, 6 aside, 4 to their places."""
    save(tmp_path, 1, 5)
    (tmp_path / "mine.part").mkdir()
    code = """
import os
left = int(sys.argv[2])
def counted(original):
    def move(*arguments):
        global left
        if left == 0: os.kill(os.getpid(), 9)
        left -= 1
        return original(*arguments)
    return move
Path.replace, Path.rename = counted(Path.replace), counted(Path.rename)
save(sys.argv[1], 2, 3)
"""
    process = run(code, tmp_path, moves)
    status = process.wait()
    assert process.stdout is not None
    process.stdout.close()
    assert status == (-signal.SIGKILL if moves < 11 else 0)
    seen = whole(tmp_path) if (tmp_path / "maps.json").exists() else None
    assert seen == (1 if moves < 2 else 2 if moves == 11 else None)
    settle(tmp_path)
    assert whole(tmp_path) == (1 if moves == 0 else 2)
    assert (tmp_path / "mine.part").is_dir()
    save(tmp_path, 3, 1)
    assert whole(tmp_path) == 3
    assert stages(tmp_path) == []


def test_the_stage_of_a_living_process_stays(tmp_path: Path) -> None:
    code = """
with into_folder(sys.argv[1]) as stage:
    (stage / "slow.txt").write_text("slow")
    print(stage.name, flush=True)
    sys.stdin.readline()
"""
    command = [sys.executable, "-c", BEGIN + code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        living = process.stdout.readline().strip()
        (tmp_path / ".conceptlens-dead").mkdir()
        save(tmp_path, 1, 2)
        assert stages(tmp_path) == [living]
        process.stdin.close()
    assert stages(tmp_path) == []
    assert (tmp_path / "slow.txt").read_text() == "slow"


def test_a_folder_in_the_way_stops_the_save_before_anything_moves(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    (tmp_path / "3.txt").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*/3.txt: a folder has this name. Move it, or choose another"):
        save(tmp_path, 2, 5)
    (tmp_path / "3.txt").rmdir()
    assert whole(tmp_path) == 1
    assert stages(tmp_path) == []


def test_a_move_that_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, 4)
    original, moved = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        moved.append(target)
        if len(moved) == 8:
            raise PermissionError(1, "Operation not permitted")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OutputError, match="cannot write to .*: Operation not permitted"):
        save(tmp_path, 2, 5)
    assert whole(tmp_path) == 1
    assert stages(tmp_path) == []


@pytest.mark.parametrize(
    "listed",
    [
        '{"files": 3}',
        '{"files": [3, null, {"a": 1}, "", ".", "..", "a/b", "sub", "\\u0000", "\\ud800"]}',
        "[" * 100_000,
    ],
)
def test_an_earlier_list_of_nonsense_removes_nothing(tmp_path: Path, listed: str) -> None:
    outside, folder = tmp_path / "outside.txt", tmp_path / "out"
    outside.write_text("mine")
    (folder / "sub").mkdir(parents=True)
    (folder / "maps.json").write_text(listed)
    save(folder, 4, 2)
    assert (folder / "sub").is_dir()
    assert outside.read_text() == "mine"
    (folder / "sub").rmdir()
    assert whole(folder) == 4


@pytest.mark.parametrize(
    ("check", "path", "says"),
    [
        (check_file, "", "names no file"),
        (check_file, ".", "names no file"),
        (check_file, "{}", "is a folder. Name a file, such as"),
        (check_file, "{}/file/record", "is a file. Choose another folder"),
        (check_folder, "{}/file", "is a file. Choose another folder"),
        (check_folder, "{}/file/deeper", "is a file. Choose another folder"),
        (check_folder, "/proc/nowhere", "cannot write to /proc/nowhere"),
        (check_folder, "a\0b", r"'a\\x00b' can be no path"),
        (check_folder, "\ud800", r"'\\ud800' can be no path"),
    ],
)
def test_what_can_be_no_target(tmp_path: Path, check: Callable[[str], None], path: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=says):
        check(path.format(tmp_path))


def test_errors_are_lines_that_any_terminal_can_show() -> None:
    assert str(ImageError("no \x1b[31mred\nline\ud800 of Ärger 房")) == "no \\x1b[31mred\\nline\\ud800 of Ärger 房"
