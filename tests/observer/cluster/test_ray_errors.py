"""The messages about a Ray cluster that fails, and the pause before the next try."""

from __future__ import annotations

from pathlib import Path

import pytest

from distwatch.observer.cluster.ray_placing import (
    LONGEST_PAUSE_S,
    NODE_ACTOR,
    NodeActors,
    Pause,
    cause_of,
)
from distwatch.observer.cluster.ray_question import ClusterSilent, ask_cluster
from tests.support.ranks import free_port

IN_CONSTRUCTOR = (
    "The actor died because of an error raised in its creation task, "
    "\x1b[36mray::RunActor.__init__()\x1b[39m (pid=1, ip=192.0.2.2)\n"
    '  File "roots.py", line 5, in __init__\n'
    "          ^^^^^^^^\n"
    "PermissionError: [Errno 13] Permission denied: '/x'\n"
)


class TaskFailed(Exception):
    """As Ray's own: it carries what the task raised."""

    def __init__(self, text: str, cause: BaseException) -> None:
        super().__init__(text)
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError(IN_CONSTRUCTOR), "PermissionError: [Errno 13] Permission denied: '/x'"),
        (TaskFailed("ray::f()\n  File", ValueError("of two\nlines")), "ValueError: of two lines"),
        (RuntimeError("died.\n\tpid: 1\nIt was killed.\n\n"), "It was killed."),
        (ValueError("one line"), "ValueError: one line"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_the_cause_of_a_ray_error_is_said(error: Exception, said: str) -> None:
    assert cause_of(error) == said


def test_tries_become_rarer() -> None:
    now = 0.0
    pause = Pause(lambda: now)
    waited = []
    for _ in range(9):
        began = now
        while not pause.is_over:
            now += 0.5
        waited.append(now - began)
        pause.begin()
    assert waited == [0, 1, 2, 4, 8, 16, 32, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_node_has_an_actor_while_it_lives() -> None:
    placed: list[str] = []
    named = {NODE_ACTOR + "a"}

    def place_on(node: str) -> None:
        placed.append(node)

    actors = NodeActors(place_on, lambda: named)
    actors.keep({"a", "b"})
    assert placed == ["b"]
    actors.keep({"a", "b"})  # at once: its pause has begun
    assert placed == ["b"]
    actors.keep({"a"})
    named.clear()
    actors.keep({"a", "b"})
    assert placed == ["b", "a", "b"]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_not_there_is_said_at_once(scheme: str) -> None:
    port = free_port()
    with pytest.raises(ClusterSilent, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
        ask_cluster("cards", f"{scheme}127.0.0.1:{port}")


def test_an_address_file_that_a_cluster_left_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"127.0.0.1:{free_port()}"
    file = tmp_path / "ray" / "ray_current_cluster"
    file.parent.mkdir()
    file.write_text(place)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterSilent, match=f"no Ray cluster answers at {place}.*{file} names it"):
        ask_cluster("up", "")
    monkeypatch.setenv("RAY_ADDRESS", place)
    with pytest.raises(ClusterSilent, match="RAY_ADDRESS names it"):
        ask_cluster("up", "auto")
