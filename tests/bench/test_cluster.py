"""Runs on Ray: a worker or a whole node that is lost midway costs no row and doubles none."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conceptlens.bench.rows import ROWS
from conceptlens.bench.runs import run
from conceptlens.bench.scorer import RunSpec

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SPEC = RunSpec("scenes")
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


def canonical(folder: Path) -> bytes:
    """The rows, sorted, without the only field that no two runs share."""
    rows = [json.loads(line) for line in (folder / ROWS).read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return "\n".join(sorted(json.dumps(row) for row in rows)).encode()


def workers() -> dict[int, int]:
    """Processes that hold a model, and the node's process that started each. Ray names them after what they do."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::") and b"MapWorker" in path.read_bytes():
                stat = (path.parent / "stat").read_text()
                found[int(path.parent.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def after_the_first(act: Callable[[], None]) -> Callable[..., Iterator[Any]]:
    """Follows a run and acts once, when its first row is there."""

    def follow(rows: Iterable[Any], total: int) -> Iterator[Any]:
        for number, row in enumerate(rows):
            yield row
            if number == 0:
                act()

    return follow


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("local")
    run(SPEC, folder, limit=12)
    return canonical(folder)


def test_a_worker_is_killed(tmp_path: Path, local: bytes) -> None:
    killed: list[int] = []

    def kill() -> None:
        alive = workers()
        assert len(alive) == 2
        killed.append(min(alive))
        os.kill(killed[0], signal.SIGKILL)

    ray.init(num_cpus=2, include_dashboard=False, **QUIET)
    try:
        run(SPEC, tmp_path, limit=12, engine="ray", workers=2, track=after_the_first(kill))
    finally:
        ray.shutdown()
    assert killed
    assert canonical(tmp_path) == local


def test_a_node_of_a_cluster_dies(tmp_path: Path, local: bytes) -> None:
    """Two nodes with a worker each, beside a head without any."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    lost: list[int] = []

    def kill() -> None:
        assert len(set(workers().values())) == 2, "each node has a worker"
        lost.append(len(ray.nodes()))
        cluster.remove_node(nodes[0], allow_graceful=False)

    ray.init(address=cluster.address, **QUIET)
    try:
        run(SPEC, tmp_path, limit=12, engine="ray", workers=2, track=after_the_first(kill))
        alive = sum(node["Alive"] for node in ray.nodes())
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost == [3]
    assert alive == 2
    assert canonical(tmp_path) == local
