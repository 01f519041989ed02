"""A framework's parallel state that is used before it exists, or built a second time."""

from __future__ import annotations

import re

from distwatch.diagnosis.checks.failed_calls import Told, at_site, who_of, words_of
from distwatch.diagnosis.facts.failures import Failure
from distwatch.state.events import LayoutHeld
from distwatch.state.finding import Evidence
from distwatch.state.layouts import TWINS
from distwatch.state.model import Process
from distwatch.state.steps import PARALLEL_STATE

_FRAMEWORKS = ("sglang", "megatron", "neuron", "deepspeed")
_LISTED = 8
_RANKS_TOLD = 2


def framework_of(failed: list[Failure]) -> str:
    """The framework whose parallel state a failure is about, by its step, text or frames; '' for none."""
    step = failed[0].step
    if step is not None and step.name.startswith(PARALLEL_STATE):
        return step.label.partition(":")[0]
    told = " ".join([failed[0].text, *failed[0].traceback]).lower()
    return next((name for name in _FRAMEWORKS if re.search(rf"\b{name}", told)), "")


def initialized_twice(framework: str, failed: list[Failure]) -> Told:
    """group.already_initialized: the state that exists, and the stack of the call that built it."""
    held = failed[0].process.layouts.get(framework)
    first = f" (first at {held.site})" if held and held.site else ""
    sizes = f" with {_sizes(held)}" if held else ""
    evidence = [
        e for failure in failed[:_RANKS_TOLD] for e in _first_call(failure.process, framework)
    ]
    return Told(
        f"{who_of(failed)} initialized the parallel state of {framework} a second time"
        f"{at_site(failed[0])}, but the first one still exists{sizes}{first}: {words_of(failed[0])}",
        f"Initialize it once, or destroy the first state before the second call. "
        f'distwatch.initialize(framework="{framework}") with the same sizes is a no-op.',
        tuple(evidence),
    )


def used_too_early(framework: str, failed: list[Failure]) -> Told:
    """group.not_initialized: the parallel state that a getter or a model needs does not exist."""
    process = failed[0].process
    built = [
        step
        for step in process.steps.values()
        if step.name.startswith(PARALLEL_STATE) and step.label.startswith(f"{framework}:")
    ]
    if any(step.ended_ns is not None and not step.error for step in built):
        why = "it was destroyed before"
    elif built:
        why = "its initialization did not succeed"
    elif process.initialized:
        why = "torch's default group exists, but the parallel state on top was never built"
    else:
        why = "neither torch's default group nor the parallel state was ever built"
    return Told(
        f"{who_of(failed)} used the parallel state of {framework}, which does not exist"
        f"{at_site(failed[0])}: {words_of(failed[0])} ({why})",
        f'Call distwatch.initialize(framework="{framework}", tensor=…, pipeline=…) first, or '
        f"{framework}'s own initializer, before any model or getter that needs a group.",
    )


def heads_do_not_fit(failed: list[Failure]) -> Told:
    """group.size_invalid: key and value heads cannot be divided over the tensor groups."""
    held = failed[0].process.layouts.get("neuron")
    tensor = f" of {held.sizes['tp']}" if held and "tp" in held.sizes else ""
    return Told(
        f"{who_of(failed)}: the key and value heads cannot be divided over a tensor group{tensor}"
        f"{at_site(failed[0])}: {words_of(failed[0])}",
        "Choose kv_size_multiplier so that it divides the tensor size, and that heads × multiplier is a "
        "multiple of the tensor size; or choose a tensor size that divides the number of key and value heads.",
    )


def _sizes(held: LayoutHeld) -> str:
    sizes = {
        axis: size
        for axis, size in held.sizes.items()
        if size > 1 and size != held.sizes.get(TWINS.get(axis, ""))
    }
    return " × ".join(f"{axis} {size}" for axis, size in sizes.items()) or "sizes of 1"


def _first_call(process: Process, framework: str) -> list[Evidence]:
    held = process.layouts.get(framework)
    rank = process.global_rank
    return [
        Evidence("stack", f"rank {rank}, first call: {line}", rank)
        for line in (held.stack[-_LISTED:] if held else ())
    ]
