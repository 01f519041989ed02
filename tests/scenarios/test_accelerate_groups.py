"""accelerate's parallel dimensions: a framework that is one file."""

from __future__ import annotations

import pytest

from distwatch.state.layouts import layout_of
from tests.support.ranks import PATIENT, launch_ranks
from tests.support.verdicts import assert_healthy


@pytest.mark.parametrize("how", ["own", "ours"])
def test_its_dimensions_are_read_back(how: str) -> None:
    env = {"DISTWATCH_DEADLINES": PATIENT}
    with launch_ranks("accelerate_groups", 4, args=(how,), env=env) as job:
        job.wait_step("gate end", range(4))
        held = {p.global_rank: p.layouts["accelerate"] for p in job.state().processes.values()}
        layout = layout_of({rank: layout for rank, layout in held.items() if rank is not None})
        assert layout["tp"] == ((0, 1), (2, 3))
        assert layout["dp"] == layout["dp_shard"] == ((0, 2), (1, 3))
        assert {layout.label for layout in held.values()} == {"accelerate: dp_shard 2 × tp 2"}
        assert_healthy(job.judged_blocking())
