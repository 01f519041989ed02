"""Ranks that others wait for in init_process_group."""

from __future__ import annotations

from tests.support.ranks import launch_ranks


def test_ranks_that_were_never_started() -> None:
    with launch_ranks("init_only", world_size=4, ranks=[0, 1]) as job:
        job.wait_step("init", {0, 1})
        job.wait_verdict("rendezvous.rank_never_started", {2, 3})


def test_rank_that_died_of_an_import_error_before_init() -> None:
    codes = ("rendezvous.rank_died", "process.exited")
    with launch_ranks("import_error", world_size=2) as job:
        job.wait_step("init", {0})
        job.wait_verdict(codes, {1}, mentions=("a_module_that_is_not_installed", "import_error.py"))


def test_rank_that_was_killed_before_init() -> None:
    codes = ("rendezvous.rank_died", "process.killed")
    with launch_ranks("late_before_init", world_size=2) as job:
        job.wait_step("gate token", {1})
        job.wait_step("init", {0})
        job.kill(1)
        job.wait_verdict(codes, {1}, mentions=("SIGKILL",))


def test_rank_that_is_alive_but_elsewhere() -> None:
    with launch_ranks("late_before_init", world_size=2) as job:
        job.wait_step("gate token", {1})
        job.wait_step("init", {0})
        job.wait_verdict(
            "rendezvous.rank_missing", {1}, mentions=("late_before_init.py", "read_the_token")
        )
