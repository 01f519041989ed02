"""Ranks that use one group in ways that do not fit."""

from __future__ import annotations

import pytest

from tests.support.marked_lines import marked_places
from tests.support.ranks import launch_ranks


@pytest.mark.parametrize(
    ("way", "code", "culprits", "mentions"),
    [
        ("threads", "collective.concurrent_threads", {0, 1}, ("thread saver", "the main thread")),
        ("broadcast", "collective.root_disagrees", {0, 1}, ("rank 0 named rank 1 as src",)),
        ("held_lock", "process.lock_wait", {0, 1}, ("cache.lock, which rank 0 holds",)),
        ("destroyed", "group.destroyed", {1}, ("rank 0 still called all_reduce",)),
        ("skew", "group.counter_skew", {1}, ("held 2 groups", "skew_counters")),
    ],
)
def test_a_group_that_is_not_used_alike(
    way: str, code: str, culprits: set[int], mentions: tuple[str, ...]
) -> None:
    with launch_ranks("shared_groups", 2, args=(way, "1")) as job:
        places = marked_places("shared_groups", way)
        job.wait_verdict(code, culprits, mentions=(*mentions, *places))
