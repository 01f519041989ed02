"""Initializations that a log shows only by the exception that ended them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from distwatch.diagnosis.facts.communication import is_init_symptom
from distwatch.dumps.imported import WAITS_FROM_S
from distwatch.dumps.log.facts import Raised
from distwatch.state import events as ev

_IN_INIT = re.compile(r"init_process_group|/torch/distributed/rendezvous\.py")
_LASTED = re.compile(r"(?:after|timeout[= ]) ?(\d{1,9}) ?(ms|s\b|seconds)")
_SECOND = 1_000_000_000


def is_of_init(raised: Raised) -> bool:
    """Whether it came out of `init_process_group`, where the rank waited for others."""
    text = f"{raised.type_name}: {raised.message}"
    return is_init_symptom(text) and any(_IN_INIT.search(line) for line in raised.traceback)


def failed_init(raised: Raised, rank: int, world: int) -> Iterator[tuple[int, ev.Event]]:
    """The initialization as the rank's own agent would have told of it."""
    lasted = _LASTED.search(raised.message)
    number = int(lasted[1]) / (1000 if lasted[2] == "ms" else 1) if lasted else 0.0
    began_ns = raised.time_ns - int(max(number, WAITS_FROM_S + 1) * _SECOND)
    site = ev.Site(file=raised.file, line=raised.line, function=raised.function)
    plan = ev.InitPlanned(global_rank=rank, world_size=world, hosts_store=rank == 0)
    step = ev.StepStarted(
        step=1,
        name="init_process_group",
        site=site if raised.file else None,
        deadline_s=WAITS_FROM_S,
    )
    yield began_ns, plan
    yield began_ns, step
    error = f"{raised.type_name.rpartition('.')[2]}: {raised.message}"
    yield raised.time_ns, ev.StepEnded(step=1, error=error)
