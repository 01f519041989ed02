"""The cases of `scenario_verdicts.py`: scripts of `tests/scenarios/jobs`, and what is right about them.

Where the person's code parts in a case, the script marks the line that decides it, `# < WAY: TOPIC`. Without a mark
nothing is expected: all ranks pass the same lines, and one of them is held up there or has come to its end.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Case(msgspec.Struct, frozen=True):
    """One job, and its right verdict; without codes: nothing that blocks."""

    name: str
    script: str
    args: tuple[str, ...]
    codes: tuple[str, ...]
    culprits: tuple[int, ...] = ()
    world: int = 2
    ranks: tuple[int, ...] | None = None
    env: Mapping[str, str] = {}
    torchrun: bool = False
    types: bool = False
    """Whether the culprits have a stdin on which nobody types; the others read /dev/null."""


def _of(script: str, way: str, code: str, *culprits: int, world: int = 2, who: int = 1) -> Case:
    return Case(f"{script} {way}", script, (way, str(who)), tuple(code.split()), culprits, world)


def _parting(way: str, codes: str, *culprits: int, world: int = 2) -> Case:
    return _of("partings", way, codes, *(culprits or (0, 1)), world=world)


def _divergence(way: str, codes: str, *culprits: int, world: int = 3) -> Case:
    case = _of("divergences", way, codes, *(culprits or (0, 1)), world=world)
    return msgspec.structs.replace(case, torchrun=True)


_UNEVEN = "collective.count_uneven collective.op_mismatch"
CASES = (
    *(
        _of("exit_stalls", way, "process.exit_stalled", 1)
        for way in "thread child atexit executor queue command".split()
    ),
    *(
        _of("exceptions", way, "process.exception_pending", 1)
        for way in "finally context exit handler retry busy_retry".split()
    ),
    # Its exception is over when anybody looks: its log shows that it repeats itself.
    _of("exceptions", "late_retry", "process.livelock", 1),
    *(
        _of("exceptions", way, "process.thread_died", 1)
        for way in "thread polled_thread exited_thread".split()
    ),
    *(_of("outside_waits", way, "process.network_wait", 1) for way in "http socket".split()),
    *(
        msgspec.structs.replace(_of("outside_waits", way, "process.stdin_wait", 1), types=True)
        for way in "input readline".split()
    ),
    _of("outside_waits", "compile", "process.compiling", 1),
    _of("outside_waits", "baton", "load.lock_stale process.lock_wait", 1),
    *(
        _of("limits", way, "process.limit_reached", 1)
        for way in "group_files files disk save wrapped memory".split()
    ),
    _of("shared_groups", "threads", "collective.concurrent_threads", 0, 1),
    _of("shared_groups", "finalizer", "collective.concurrent_threads", 1),
    *(
        _of("shared_groups", way, "collective.root_disagrees", 0, 1)
        for way in "broadcast reduce gather scatter".split()
    ),
    _of("shared_groups", "subgroup", "collective.root_disagrees", 1, 2, world=3),
    _of("shared_groups", "held_lock", "process.lock_wait", 0, 1),
    _of("shared_groups", "crossed", "collective.cycle", 0, 1),
    _of("shared_groups", "circle", "collective.cycle", 0, 1, 2, world=3),
    _of("shared_groups", "sites", "collective.site_differs", 1),
    _of("shared_groups", "destroyed", "group.destroyed", 1),
    _of("shared_groups", "destroyed_subgroup", "group.destroyed", 1),
    _of("shared_groups", "skew", "group.counter_skew", 1),
    _of("library_aborts", "skipped", "collective.count_uneven collective.shape_mismatch", 0, 1),
    _of("library_aborts", "splits", "collective.shape_mismatch", 0, 1),
    _of("library_aborts", "ddp", "collective.shape_mismatch collective.op_mismatch", 0, 1),
    _of("library_aborts", "monitored", "collective.rank_missing process.data_stall", 1, 2, world=4),
    _of("library_aborts", "p2p", "p2p.unmatched collective.shape_mismatch", 0, 1),
    *(_of("saves", way, "checkpoint.save_stalled", 1) for way in "torch dcp dcp_async".split()),
    _of("saves", "dcp_fails", "process.exited", 1),
)
PARTINGS = (
    _parting("helper_return", "collective.shape_mismatch"),
    *(
        _parting(way, _UNEVEN)
        for way in "data_continue comprehension short_circuit time_loop no_sync no_sync_branch generator "
        "callback early_stop".split()
    ),
    _parting("swallowed", "collective.count_uneven", 2, world=3),
    *(_parting(way, "collective.op_mismatch") for way in "decorated file_branch retry".split()),
    _parting("hook", "collective.shape_mismatch"),
)
"""Shapes of code in which ranks part: written as a trial of `why` before it was looked at what it says of them."""
DIVERGENCES = (
    *(
        _divergence(way, _UNEVEN, world=2)
        for way in "clock_epoch max_steps accumulate_tail recursion resume_ckpt iterator_ends "
        "async_steps".split()
    ),
    *(
        _divergence(way, "collective.op_mismatch", world=2)
        for way in "dict_dispatch ternary_reduce partial_reduce".split()
    ),
    *(
        _divergence(way, "collective.shape_mismatch", world=2)
        for way in "set_order last_batch".split()
    ),
    *(
        _divergence(way, _UNEVEN, 0)
        for way in "metric_compute hook_list rank_zero_logger argparse_default".split()
    ),
    *(
        _divergence(way, _UNEVEN, 1)
        for way in "oom_skip decorated_method walrus_budget lru_cached all_finite env_switch".split()
    ),
    *(
        _divergence(way, _UNEVEN, 2)
        for way in "loss_stop uneven_shards suppressing_with coin_flip match_phase".split()
    ),
)
"""Parts of a program in several functions, classes and files, each under torchrun: judged at first try."""
