"""What is kept of loads under way: threads, waits and files, without any library."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from distwatch.integrations import load_hooks, load_waits, loads, transformers
from distwatch.settings import read_settings
from distwatch.state import events as ev
from distwatch.state.loads import LoadArguments


class Told:
    """An agent that keeps what it is told."""

    def __init__(self) -> None:
        self.settings = read_settings({})
        self.steps: list[str] = []
        self.errors: list[str] = []
        self.progress: list[tuple[int, int, int | None, str]] = []
        self.load_sources: list[Any] = []

    def begin_step(self, name: str, **_: Any) -> int:
        self.steps.append(name)
        return len(self.steps)

    def progress_step(
        self, step: int, done: int, total: int | None = None, label: str = "", **_: Any
    ) -> None:
        self.progress.append((step, done, total, label))

    def end_step(self, step: int, error: str | None = None) -> None:
        self.errors += [error] if error else []

    def record(self, event: ev.Event) -> None:
        pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    agent = Told()
    monkeypatch.setattr(loads, "running_agent", lambda: agent)
    monkeypatch.setattr(loads, "_loads", [])
    return agent


def in_a_thread(function: Any, *args: Any) -> None:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


def test_a_file_that_is_opened_again_is_not_one_more(told: Told) -> None:
    """4.57 opens every file up to three times, as (path, …) of load_shard_file among them."""
    transformers.FromPretrained().before((object, "model"), {})
    transformers.Shards().before((None, {}, ["/a", "/b"]), {})
    for argument in ("/a", "/b", ("/a", "more"), "/b"):
        load_hooks.FileOpened().before((argument,), {})
    assert told.progress == [(2, 1, 2, "a"), (2, 2, 2, "b"), (2, 1, 2, "a"), (2, 2, 2, "b")]


def test_worker_threads_tell_of_the_load_that_started_them(told: Told) -> None:
    transformers.FromPretrained().before((object, "mine"), {})
    transformers.Shards().before((["/a"],), {})
    in_a_thread(load_hooks.FileOpened().before, ("/a",), {})
    assert told.progress == [(2, 1, 1, "a")]
    in_a_thread(load_hooks.Phase("finalize").before, (), {})
    assert told.steps == ["from_pretrained", "shards"], "a step of a worker has no parent"


def test_loads_of_two_threads_are_kept_apart(told: Told) -> None:
    transformers.FromPretrained().before((object, "mine"), {})
    transformers.Shards().before((["/a", "/b"],), {})
    in_a_thread(transformers.FromPretrained().before, (object, "theirs"), {})
    load_hooks.FileOpened().before(("/a",), {})
    assert told.progress == [(2, 1, 2, "a")]


def test_what_is_known_of_tensors_is_bounded(told: Told) -> None:
    load = loads.begin_load("from_pretrained", LoadArguments(checkpoint="x"))
    assert load is not None
    transformers.Shards().before((["/a"],), {})
    load_hooks.FileOpened().before(("/a",), {})
    many = {str(n): object() for n in range(transformers.TENSORS_KNOWN + 1)}
    transformers.TensorsNamed().before((), {"state_dict": many})
    assert not load.file_of
    assert load.parameters_total == len(many)


def test_a_wait_that_is_repeated_is_one_wait(told: Told) -> None:
    load = loads.begin_load("from_pretrained", LoadArguments(checkpoint="x"))
    assert load is not None
    first = load_waits.Wait("request", "HEAD http://hub/x")
    load.end_wait(load.waits.begin(first), ConnectionError("refused"))
    (failed,) = load.progress().outstanding
    assert failed.last_error == "ConnectionError: refused"
    token = load.waits.begin(load_waits.Wait("request", "HEAD http://hub/x"))
    (again,) = load.progress().outstanding
    assert (again.attempts, again.since_ns) == (2, first.since_ns)
    load.end_wait(token)
    assert not load.progress().outstanding


def test_a_repeated_request_stays_in_sight_while_others_begin(told: Told) -> None:
    load = loads.begin_load("from_pretrained", LoadArguments(checkpoint="x"))
    assert load is not None
    load.end_wait(
        load.waits.begin(load_waits.Wait("request", "GET http://hub/1")), OSError("reset")
    )
    load.waits.begin(load_waits.Wait("request", "GET http://hub/1"))
    load.waits.begin(load_waits.Wait("request", "GET http://hub/2"))
    assert [one.what[-1] for one in load.progress().outstanding] == ["1", "2"]


def test_threads_that_were_there_before_a_load_are_no_part_of_it(told: Told) -> None:
    begun, asked = threading.Event(), threading.Event()
    found: list[loads.Load | None] = []

    def ask() -> None:
        begun.wait()
        found.append(loads.current_load())
        asked.set()

    stranger = threading.Thread(target=ask)
    stranger.start()
    load = loads.begin_load("from_pretrained", LoadArguments(checkpoint="x"))
    begun.set()
    stranger.join()
    in_a_thread(ask)
    assert found == [None, load]


def test_a_forked_child_has_none_of_its_parents_loads(told: Told) -> None:
    loads.begin_load("from_pretrained", LoadArguments(checkpoint="x"), adopts=True)
    with loads._lock:  # as another thread may at that moment
        child = os.fork()
        if child == 0:
            begun = loads.begin_load("from_pretrained", LoadArguments(checkpoint="y"))
            os._exit(0 if begun is not None and loads._loads == [begun] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(loads._loads) == 1


def test_signatures_of_urls_are_not_written_down(told: Told) -> None:
    """requests quotes the path and the query of what it could not reach."""
    error = ConnectionError("Max retries exceeded with url: /x?Policy=eyJT&Signature=SeCrEt~-x")
    load = loads.begin_load("from_pretrained", LoadArguments(checkpoint="x"))
    assert load is not None
    step = load.begin_phase("config")
    load.end_wait(load.waits.begin(load_waits.Wait("request", "GET http://hub/x")), error)
    load.end_phase(step, error)
    (failed,) = load.progress().outstanding
    loads.end_load(load, None, error)
    texts = [failed.last_error, *told.errors]
    assert len(texts) == 3
    assert all(text.endswith("url: /x?[redacted]") for text in texts)
