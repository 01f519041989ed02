"""The kinds of steps: their deadlines, how a rank in one is shown, and what happens once it is late.

Every process of a job imports this for DISTWATCH_DEADLINES, so it imports only what Python has loaded.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from distwatch.state.statuses import Tone

PARALLEL_STATE = "parallel state"
"""The step in which a framework builds its groups; a number follows."""
MESH = "init_device_mesh"
ADDITION = "add framework"
"""`distwatch.initialize` adds a framework's groups to a world that exists."""
FRAMEWORK_PARTS = ("framework arrival", "framework groups", "layouts")
"""The steps of `distwatch.initialize` after the world has formed; the first one in an addition alone."""


class StepKind:
    """One kind of step.

    Attributes:
        name: its key in DISTWATCH_DEADLINES.
        family: the family of findings that explain why it is late.
        status: the status word of a rank in it.
        starts: whether a rank in it has not begun its work yet.
        calls: the names of its outermost steps, without a number.
        parts: steps inside those.
        supervised: functions of torch.distributed around which DISTWATCH_ON_HANG acts; for a kind
            without any, the agent's thread ends the rank.
    """

    def __init__(
        self,
        name: str,
        deadline_s: float,
        family: str,
        status: str,
        letter: str,
        tone: Tone,
        *,
        starts: bool = False,
        calls: tuple[str, ...] = (),
        parts: tuple[str, ...] = (),
        supervised: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self.family = family
        self.status = status
        self.letter = letter
        self.tone = tone
        self.starts = starts
        self.calls = calls
        self.parts = parts
        self.supervised = supervised


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
    calls=("new_group", "split_group", MESH, PARALLEL_STATE, ADDITION),
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
BUILD_LOCK = "build_lock"
"""A step without a deadline: another process builds an extension, and a file says so."""
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
