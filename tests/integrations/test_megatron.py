"""The real Megatron-core in one process: what the hooks see, and what they leave as it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distwatch.integrations.frameworks import megatron
from distwatch.state import events as ev
from tests.agent.rings import read_events
from tests.integrations.test_torch import ALONE, home, ring_of, run

__all__ = ["home"]

START = """
import inspect, warnings
warnings.simplefilter("ignore")
import torch.distributed as dist
from distwatch.agent import core
from distwatch.integrations import registry
from megatron.core import parallel_state as mpu
dist.init_process_group("gloo")
"""


def of_kind(home: Path, kind: type) -> list:
    return [event for event in read_events(ring_of(home)) if isinstance(event, kind)]


AGAIN = """
print(mpu.initialize_model_parallel(order="tp-pp-dp-cp-ep"))
mpu.destroy_model_parallel()
try:
    mpu.initialize_model_parallel(tensor_model_parallel_size=3)
except RuntimeError as error:
    print(error)
mpu.initialize_model_parallel()
try:
    mpu.initialize_model_parallel()
except AssertionError as error:
    print(error)
print(mpu.model_parallel_is_initialized())
"""


def test_initialized_destroyed_and_initialized_again(home: Path) -> None:
    done = run(home, START + AGAIN, **ALONE)
    assert done.stdout.splitlines() == [
        "None",
        "world_size (1) is not divisible by 3",
        "data parallel group is already initialized",
        "True",
    ], done.stderr
    first, second = of_kind(home, ev.LayoutHeld)
    assert (first.number, second.number) == (1, 3)
    assert first.label == "megatron: no sizes, order tp-pp-dp-cp-ep"
    assert second.label == "megatron: no sizes"
    assert first.stack[-1].startswith("<string>:11 in <module>")
    assert {group.axis for group in first.groups} == {
        "tp",
        "pp",
        "cp",
        "dp",
        "ep",
        "etp",
        "edp",
        "",
    }
    assert [event.framework for event in of_kind(home, ev.LayoutReleased)] == ["megatron"]
    steps = {
        s.step: s for s in of_kind(home, ev.StepStarted) if s.name.startswith("parallel state")
    }
    assert [step.name[-2:] for step in steps.values()] == ["#1", "#2", "#3", "#4"]
    assert {step.deadline_s for step in steps.values()} == {120}, "the deadline of groups"
    errors = [e.error for e in of_kind(home, ev.StepEnded) if e.step in steps]
    assert [bool(error) for error in errors] == [False, True, False, True]


def test_signature_and_undo_are_the_originals(home: Path) -> None:
    source = (
        START
        + """
hooked = mpu.initialize_model_parallel
print("tensor_model_parallel_size" in inspect.signature(hooked).parameters, hooked.__name__)
from megatron.core.pipeline_parallel import schedules
step = schedules.backward_step
registry.undo_all()
print(mpu.initialize_model_parallel is hooked.__wrapped__, schedules.backward_step is step.__wrapped__)
"""
    )
    done = run(home, source, **ALONE)
    assert done.stdout == "True initialize_model_parallel\nTrue True\n", done.stderr


def test_what_was_initialized_before_distwatch_came_is_read_all_the_same(home: Path) -> None:
    source = (
        START
        + """
registry.undo_all()
mpu.initialize_model_parallel()
from distwatch.settings import read_settings
registry.arm(read_settings())
from distwatch.state.events import LayoutHeld
status = registry.statuses()["megatron_groups"]
print(status.status, status.reason, core.current().retained.get(LayoutHeld, "megatron").number)
"""
    )
    done = run(home, source, **ALONE)
    assert (
        done.stdout == "applied initialized before distwatch was on: that call was not seen 0\n"
    ), done.stderr
    (held,) = of_kind(home, ev.LayoutHeld)
    assert (held.label, held.stack) == ("", ())


def test_switched_off_by_its_name_it_is_left_alone(home: Path) -> None:
    source = START + 'print(hasattr(mpu.initialize_model_parallel, "__wrapped__"))'
    done = run(home, source, **ALONE, DISTWATCH_INTEGRATIONS="-megatron")
    assert done.stdout == "False\n", done.stderr


def test_without_distwatch_initialize_builds_and_reads_it_all_the_same(home: Path) -> None:
    source = """
import distwatch
world = distwatch.initialize("gloo", "megatron", options={"create_gloo_process_groups": False})
print(world.groups, "DATA_PARALLEL_GROUP_GLOO" in world.roles["megatron"])
from megatron.core import parallel_state as mpu
print(hasattr(mpu.initialize_model_parallel, "__wrapped__"), mpu.get_data_parallel_world_size())
world.close()
print(mpu.model_parallel_is_initialized())
"""
    done = run(home, source, DISTWATCH="0")
    assert done.stdout == "{'world': (0,), 'dp': (0,)} False\nFalse 1\nFalse\n", done.stderr


# ---- backward steps -------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[ev.GradientSkipped]:
    """What an agent would have written down."""
    said: list[ev.GradientSkipped] = []
    agent: Any = SimpleNamespace(record=said.append)
    monkeypatch.setattr(megatron, "running_agent", lambda: agent)
    return said


def take_steps(steps: megatron.BackwardSteps, needs: bool, count: int = 1) -> None:
    output = SimpleNamespace(requires_grad=needs)
    for number in range(count):
        # Megatron passes a list to schedules with several stages, and a tensor to the others.
        steps.before((None, [output] if number % 2 else output, None), {})


def test_steps_left_out_are_written_down_at_the_first_and_at_every_tenfold(
    told: list[ev.GradientSkipped],
) -> None:
    steps = megatron.BackwardSteps(megatron.framework)
    take_steps(steps, needs=False, count=1000)
    assert [event.skipped for event in told] == [1, 10, 100, 1000]
    assert [event.of for event in told] == [1, 10, 100, 1000]


def test_a_step_that_was_not_left_out_is_told_once(told: list[ev.GradientSkipped]) -> None:
    steps = megatron.BackwardSteps(megatron.framework)
    take_steps(steps, needs=True, count=5)
    assert told == []
    take_steps(steps, needs=False)
    take_steps(steps, needs=True, count=50)
    assert [(event.skipped, event.of) for event in told] == [(1, 6), (1, 7)]
