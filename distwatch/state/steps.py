"""The kinds of steps: what has a deadline, how a rank in it is shown, and who acts once it is late.

Every process of a job imports it, with DISTWATCH_DEADLINES: only what Python has loaded anyway.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

PARALLEL_STATE = "parallel state"
"""The step in which a framework builds its groups; a number follows."""
MESH = "init_device_mesh"
FRAMEWORK_PARTS = ("framework groups", "layouts")
"""What `distwatch.initialize` goes on with once the world holds."""
Tone = Literal["bad", "waiting", "unknown", "starting", "busy", "good", "over"]
"""How urgent a status is, the most urgent first: what its colour is chosen by."""


class StepKind(NamedTuple):
    """One kind of step."""

    name: str
    """Its key in DISTWATCH_DEADLINES."""
    deadline_s: float
    family: str
    """Of the findings that say why it is late."""
    status: str
    """The word for a rank that is in it."""
    letter: str
    tone: Tone
    starts: bool = False
    """Whether the job has yet to begin its work."""
    calls: tuple[str, ...] = ()
    """Its outermost steps, without the number that may follow."""
    parts: tuple[str, ...] = ()
    """Steps inside of those."""
    supervised: tuple[str, ...] = ()
    """Functions of torch.distributed that DISTWATCH_ON_HANG acts on where they are called; where a
    kind has none, the agent's thread ends the rank."""


INIT = StepKind(
    "init",
    120.0,
    "rendezvous",
    "initializing",
    "i",
    "starting",
    starts=True,
    calls=("init_process_group", "initialize", "rendezvous"),
    parts=(
        "environment",
        "endpoint",
        "store",
        "arrival",
        "agreement",
        "process group",
        "round trip",
    ),
    supervised=("init_process_group",),
)
GROUP = StepKind(
    "group",
    120.0,
    "group",
    "grouping",
    "g",
    "starting",
    calls=("new_group", "split_group", MESH, PARALLEL_STATE),
    parts=(*FRAMEWORK_PARTS, "new_process_group", "store barrier"),
    supervised=("new_group", "split_group"),
)
LOAD = StepKind(
    "load",
    900.0,
    "load",
    "loading",
    "l",
    "busy",
    starts=True,
    calls=(
        "from_pretrained",
        "distwatch.load",
        "load_checkpoint_and_dispatch",
        "load_checkpoint_in_model",
        "dispatch_model",
        "ModelRunner",
    ),
)
COLLECTIVE = StepKind("collective", 300.0, "collective", "waiting", "w", "waiting")
KINDS = (INIT, GROUP, LOAD, COLLECTIVE)
DEADLINES = {kind.name: kind.deadline_s for kind in KINDS}
_BY_STEP = {step: kind for kind in KINDS for step in (*kind.calls, *kind.parts)}


def kind_of(step: str) -> StepKind | None:
    """The kind of a step by its name, with or without its number; None for the phases of a load."""
    return _BY_STEP.get(base_name(step))


def base_name(step: str) -> str:
    """`new_group` of `new_group #3` and of `new_group (members only)`."""
    return step.partition(" #")[0].partition(" (")[0]
