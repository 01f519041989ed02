"""The table of codes: it has every code that the contract names and every one that the source uses."""

from __future__ import annotations

import pytest

from distwatch.state.codes import CODES, FAMILIES, Code, code_of, family_of, precedence_of
from distwatch.state.finding import Finding
from tools.findings_page import code_pattern, named_codes

CONTRACT = """
rendezvous.rank_missing rendezvous.rank_never_started rendezvous.rank_died rendezvous.rank_duplicated
rendezvous.rank_out_of_range rendezvous.world_size_disagrees rendezvous.endpoint_disagrees
rendezvous.store_unreachable rendezvous.port_taken rendezvous.store_lost rendezvous.node_missing
rendezvous.env_missing rendezvous.backend_unavailable rendezvous.interface_invalid
rendezvous.config_disagrees
group.call_missing group.members_disagree group.counter_skew group.layout_disagrees group.size_invalid
group.not_initialized group.already_initialized group.not_member group.destroyed
collective.rank_missing collective.op_mismatch collective.shape_mismatch collective.dtype_mismatch
collective.count_uneven collective.device_behind collective.root_disagrees collective.cycle
collective.concurrent_threads collective.site_differs collective.straggler
collective.timeout_disagrees collective.gradient_skipped
p2p.unmatched p2p.cycle
process.exited process.killed process.oom_killed process.stopped process.gil_held process.io_blocked
process.lock_wait process.livelock process.debugger process.data_stall process.worker_died
process.exit_stalled process.stdin_wait process.network_wait process.thread_died
process.exception_pending process.compiling process.limit_reached
checkpoint.save_stalled
device.stalled device.lost device.xid device.memory_error
load.stalled load.hub_unreachable load.lock_stale load.offloaded load.meta_leaked
load.memory_exceeds load.device_map_conflict load.generation_config_stalled
network.partition network.link_error
""".split()
"""The finding codes of the public contract."""


def test_the_contract_and_the_table_have_the_same_codes() -> None:
    assert sorted(code.name for code in CODES) == sorted(CONTRACT)


def test_every_code_that_the_source_names_is_in_the_table() -> None:
    named = list(named_codes())
    assert len(named) > 100, "the scan reads the source"
    unknown = [
        f"{text} at {place}"
        for text, place in named
        if text != "process.pid"  # a name of OpenTelemetry's
        and not any(code_pattern(text).fullmatch(code.name) for code in CODES)
    ]
    assert not unknown


def test_every_family_of_the_table_is_one_and_none_is_without_a_code() -> None:
    assert {code.name.partition(".")[0] for code in CODES} == set(FAMILIES)


def test_every_row_says_what_it_means_and_what_to_do() -> None:
    for code in CODES:
        for text in (code.meaning, code.advice):
            assert text.endswith("."), code.name
            assert text[0].isupper() or text.startswith(("torchrun", "new_group")), code.name


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_a_row_does_not_contradict_itself(code: Code) -> None:
    # Who ended left a process; what nobody's death can have caused is no death.
    assert not (code.ends_rank and (code.absent or code.persists or code.mismatch))
    assert not (code.ends_rank and code.tells_exception)


def test_the_order_of_the_rows_is_the_precedence() -> None:
    assert [precedence_of(code.name) for code in CODES] == list(range(len(CODES)))


def test_a_code_of_another_version_claims_nothing_and_comes_last() -> None:
    unknown = code_of("process.from_the_future")
    assert unknown == type(unknown)(unknown.name, "", "")
    assert precedence_of(unknown.name) == len(CODES)
    assert family_of(unknown.name).title == FAMILIES["process"].title
    assert not family_of("mind.read").forms_world


def test_a_finding_without_advice_of_its_own_has_that_of_its_code() -> None:
    finding = Finding(code="process.gil_held", severity="hang", summary="rank 1 holds the GIL")
    assert finding.advice == code_of("process.gil_held").advice != ""
    told = Finding(code="process.gil_held", severity="hang", summary="…", advice="Do this.")
    assert told.advice == "Do this."
