"""What no traceback shows yet: exceptions in flight, dead threads, limits, and processes that stay."""

from __future__ import annotations

import pytest

from tests.support.marked_lines import marked_places
from tests.support.ranks import launch_ranks


@pytest.mark.parametrize(
    ("script", "way", "code", "mentions"),
    [
        ("exceptions", "finally", "process.exception_pending", ("batch 17", "compute")),
        ("exceptions", "busy_retry", "process.exception_pending", ("MemoryError", "load_batch")),
        (
            "exceptions",
            "late_retry",
            "process.livelock",
            ("says each time: cannot allocate 3 GiB",),
        ),
        ("exceptions", "thread", "process.thread_died", ("prefetch", "KeyError", "a queue")),
        ("limits", "group_files", "process.limit_reached", ("open files (", "open_files")),
        ("limits", "save", "process.limit_reached", ("file size (limit 8.0 MiB", "model.pt")),
        ("saves", "dcp_fails", "process.exited", ("it began with RuntimeError",)),
        ("exit_stalls", "thread", "process.exit_stalled", ("thread uploader", "upload_logs")),
    ],
)
def test_what_no_traceback_shows(
    script: str, way: str, code: str, mentions: tuple[str, ...]
) -> None:
    with launch_ranks(script, 2, args=(way, "1")) as job:
        job.wait_verdict(code, {1}, mentions=(*mentions, *marked_places(script, way)))
