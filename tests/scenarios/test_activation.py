"""The ways to turn distwatch on."""

from __future__ import annotations

import importlib.metadata

import pytest

from tests.support.ranks import launch_ranks, process_of


@pytest.mark.parametrize(("value", "instrumented"), [("1", True), ("0", False)])
def test_the_environment_alone_decides(value: str, instrumented: bool) -> None:
    try:
        importlib.metadata.distribution("distwatch")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(
            "distwatch is not installed here (`make test` does it), so nothing reads its .pth"
        )
    with launch_ranks("not_imported", 2, env={"DISTWATCH": value}) as job:
        assert job.wait_ended() == [0, 0]
        assert job.output().count("result 1") == 2
        job.wait_observer_ended()
        if instrumented:
            state = job.state()
            seen = [process_of(state, rank) for rank in (0, 1)]
            assert all(process is not None and process.confirmed for process in seen)
        else:
            assert job.folder.starts() == []
