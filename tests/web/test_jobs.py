"""Jobs, their queue and what is kept of them, without a model: cancelled late, failed, forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
import torch
from PIL import Image

from conceptlens.values.recipe import Recipe
from conceptlens.values.records import ImageRecord, TokenGrid
from conceptlens.web import Limits
from conceptlens.web import jobs as jobs_module
from conceptlens.web.errors import RequestError
from conceptlens.web.jobs import Job, Jobs
from conceptlens.web.store import Picture, Store
from conceptlens.web.worker import Worker


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(8)
    yield made
    made.close()


def picture(job: Job) -> Picture:
    record = ImageRecord(
        layers=(),
        grid=TokenGrid(1, 1),
        image=Image.new("RGB", (8, 8)),
        prompt="",
        model_id="demo",
        recipe=Recipe(),
        seed=0,
    )
    return Picture(job.tab, record, "made")


def held(worker: Worker) -> tuple[threading.Event, threading.Event]:
    """Keeps the worker's thread busy until the second event is set; the first says that it is."""
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go_on.wait(10)

    worker.submit(wait)
    assert begun.wait(10)
    return begun, go_on


def until_idle(worker: Worker, line: str = "") -> None:
    done: Future[None] = worker.submit(lambda: None, line)[0]
    done.result(10)


def test_who_leaves_the_queue_behind_does_not_shorten_the_wait(worker: Worker) -> None:
    _, go_on = held(worker)
    _, second = worker.submit(lambda: None)
    third, _ = worker.submit(lambda: None)
    fourth, number = worker.submit(lambda: None)
    assert [worker.ahead_of(n) for n in (second, number)] == [1, 3]
    assert third.cancel()
    assert [worker.ahead_of(n) for n in (second, number)] == [1, 2]
    assert fourth.cancel()
    assert worker.ahead_of(second) == 1
    go_on.set()


def test_a_reading_cancelled_midway_is_not_kept(worker: Worker) -> None:
    store = Store(Limits())
    jobs, tab = Jobs(worker, store), store.open_tab()
    begun, go_on = threading.Event(), threading.Event()

    def read(job: Job) -> Picture:
        begun.set()
        go_on.wait(10)
        return picture(job)

    name = jobs.start(tab, read)
    assert begun.wait(10)
    jobs.cancel(tab, name)
    go_on.set()
    until_idle(worker)
    assert jobs.tell(tab, name)["state"] == "cancelled"
    assert store.counts()["pictures"] == 0


def test_a_picture_of_a_forgotten_tab_is_not_kept(worker: Worker) -> None:
    store = Store(Limits(tabs=1))
    jobs, tab = Jobs(worker, store), store.open_tab()
    _, go_on = held(worker)
    name = jobs.start(tab, picture)
    store.open_tab()
    go_on.set()
    until_idle(worker)
    assert store.counts()["pictures"] == 0
    assert jobs.tell(tab, name)["status"] == 401


def test_lines_take_turns(worker: Worker) -> None:
    _, go_on = held(worker)
    done: list[str] = []
    asked = [("greedy", "g1"), ("greedy", "g2"), ("greedy", "g3"), ("small", "s1"), ("late", "l1"), ("small", "s2")]
    numbers = {name: worker.submit(lambda name=name: done.append(name), line)[1] for line, name in asked}
    expected = ["g1", "s1", "l1", "g2", "s2", "g3"]
    assert sorted(numbers, key=lambda name: worker.ahead_of(numbers[name])) == expected
    assert [worker.ahead_of(numbers[name]) for name in expected] == [1, 2, 3, 4, 5, 6]
    go_on.set()
    until_idle(worker)
    assert done == expected


def test_a_typed_word_waits_for_one_painting_however_many_there_are(worker: Worker) -> None:
    store, order = Store(Limits()), []
    jobs = Jobs(worker, store)
    _, go_on = held(worker)
    for _ in range(5):
        jobs.start(store.open_tab(), lambda job: order.append("job") or picture(job))
    worker.submit(lambda: order.append("word"), store.open_tab())
    go_on.set()
    until_idle(worker, jobs_module.LINE)
    assert order == ["job", "word", *["job"] * 4]


def test_when_too_many_wait_the_longest_line_gives_way() -> None:
    worker = Worker(3)
    try:
        _, go_on = held(worker)
        greedy = [worker.submit(lambda: "greedy", "greedy")[0] for _ in range(3)]
        with pytest.raises(RequestError, match="3 requests are waiting") as full:
            worker.submit(lambda: "greedy", "greedy")
        assert full.value.status == 503
        small = worker.submit(lambda: "small", "small")[0]
        with pytest.raises(RequestError, match="3 requests are waiting"):
            worker.submit(lambda: "small", "small")
        go_on.set()
        assert [future.result(10) for future in (*greedy[:2], small)] == ["greedy", "greedy", "small"]
        with pytest.raises(RequestError, match="3 requests are waiting"):
            greedy[2].result(10)
    finally:
        worker.close()


def test_a_job_that_gives_way_is_told_as_failed() -> None:
    worker, store = Worker(2), Store(Limits())
    try:
        jobs, tabs, ended = Jobs(worker, store), [store.open_tab() for _ in range(2)], []
        _, go_on = held(worker)
        first, second = [jobs.start(tab, picture, lambda tab=tab: ended.append(tab)) for tab in tabs]
        last: Future[None] = worker.submit(lambda: None, "a tab")[0]
        told = jobs.tell(tabs[1], second)
        assert (told["state"], told["status"]) == ("failed", 503)
        assert ended == [tabs[1]]
        assert jobs.busy() == {tabs[0]}
        go_on.set()
        last.result(10)
        assert jobs.tell(tabs[0], first)["state"] == "done"
        assert ended == [tabs[1], tabs[0]]
    finally:
        worker.close()


def test_a_tab_with_a_job_is_not_forgotten() -> None:
    store = Store(Limits(tabs=2))
    busy = store.open_tab()
    for _ in range(3):
        store.open_tab({busy})
    assert store.check_tab(busy) == busy
    with pytest.raises(RequestError, match="2 pages are at work here") as full:
        store.open_tab(set(store._tabs))
    assert full.value.status == 503


def failing(error: Exception) -> Callable[[Job], Picture]:
    def act(job: Job) -> Picture:
        raise error

    return act


def test_a_device_without_memory_is_told_as_such(worker: Worker) -> None:
    store = Store(Limits())
    jobs, tab = Jobs(worker, store), store.open_tab()
    name = jobs.start(tab, failing(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")))
    until_idle(worker)
    told = jobs.tell(tab, name)
    assert told["status"] == 503
    assert told["error"] == "CUDA out of memory. Use a smaller picture or fewer words."


def test_jobs_that_run_are_remembered_however_many_come_after(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "REMEMBERED", 3)
    store = Store(Limits())
    jobs, mine, other = Jobs(worker, store), store.open_tab(), store.open_tab()
    _, go_on = held(worker)
    name = jobs.start(mine, picture)
    others = []
    for _ in range(6):
        others.append(jobs.start(other, picture))
        jobs.cancel(other, others[-1])
    go_on.set()
    until_idle(worker)
    assert jobs.tell(mine, name)["state"] == "done"
    with pytest.raises(Exception, match="no such job"):
        jobs.tell(other, others[0])
