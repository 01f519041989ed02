"""Events of the right types and of no sense: folded, judged and shown, in whatever they claim."""

from __future__ import annotations

from random import Random

import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.report.document import build_report
from distwatch.report.formats import render
from distwatch.state.events import decode_event
from distwatch.state.model import RunState
from distwatch.state.reducer import reduce
from tests.support.hostile import hostile_run


@pytest.mark.parametrize("part", range(8))
def test_whatever_a_journal_claims_there_is_a_report(part: int) -> None:
    for seed in range(part * 12, part * 12 + 12):
        random = Random(seed)
        state = RunState(run_id="hostile")
        for header, seq, time_ns, payload in hostile_run(random):
            event = decode_event(payload)
            if event is not None:
                reduce(state, header, seq, time_ns, event)
        report = build_report(state, diagnose(state), "hostile")
        for output in ("json", "md", "html"):
            render(report, output)
