"""Places the actors of `distwatch up` in a Ray cluster, keeps them there, and stops them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

NAMESPACE = "distwatch"
RUN_ACTOR = "distwatch-run"
NODE_ACTOR = "distwatch-node-"
LONGEST_PAUSE_S = 60.0
_SAYS_WHY_WITHIN_S = 2.0
_STOPPED = b"up/stopped"
_HEAD = "node:__internal_head__"
_CAUSE_LENGTH = 300
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Pause:
    """The pause between tries, which doubles: 1 s, 2 s, … LONGEST_PAUSE_S."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause_s = 0.5
        self._until = 0.0

    @property
    def is_over(self) -> bool:
        return self._clock() >= self._until

    def begin(self) -> None:
        """Notes that a try has begun: the next one comes after the pause."""
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        self._until = self._clock() + self._pause_s


class NodeActors:
    """Keeps one actor on each node, also after it was killed or could not be created.

    Attributes:
        why: by node, why its last actor has ended.
    """

    def __init__(
        self, place_on: Callable[[str], Any], named: Callable[[], set[str]] | None = None
    ) -> None:
        """
        Args:
            place_on: creates the actor of a node.
            named: returns the names of our living or starting actors; by default, asks Ray.
        """
        self._place_on = place_on
        self._named = named or named_actors
        self._handles: dict[str, Any] = {}
        self._pauses: dict[str, Pause] = {}
        self.why: dict[str, str] = {}

    def keep(self, alive: set[str]) -> None:
        """One round over the living nodes; raises what Ray raises."""
        for node in (self._pauses.keys() | self._handles.keys()) - alive:
            self._pauses.pop(node, None)
            self._handles.pop(node, None)
            self.why.pop(node, None)
        named = self._named()
        for node in sorted(alive):
            if NODE_ACTOR + node in named:
                continue
            if (gone := self._handles.pop(node, None)) is not None:
                self.why[node] = _cause_of_end(gone)
            pause = self._pauses.setdefault(node, Pause())
            if pause.is_over:
                pause.begin()
                self._handles[node] = self._place_on(node)


def named_actors() -> set[str]:
    """The names of our living or starting actors, by one request to Ray."""
    import ray

    listed: list[Any] = ray.util.list_named_actors(all_namespaces=True)
    ours = {row["name"] for row in listed if row["namespace"] == NAMESPACE}
    return {name for name in ours if name == RUN_ACTOR or name.startswith(NODE_ACTOR)}


def mark_stopped(stopped: bool) -> None:
    """Tells actors to stop or resume placing others: a kill may reach some of them late."""
    from ray.experimental import internal_kv

    space = NAMESPACE.encode()
    if stopped:
        internal_kv._internal_kv_put(_STOPPED, b"1", overwrite=True, namespace=space)
    else:
        internal_kv._internal_kv_del(_STOPPED, namespace=space)


def is_stopped() -> bool:
    """Whether `distwatch up --ray --stop` was run since the last `up`."""
    from ray.experimental import internal_kv

    return bool(internal_kv._internal_kv_get(_STOPPED, namespace=NAMESPACE.encode()))


def place(kind: type, name: str, node_id: str, folders: str, *, concurrency: int) -> Any:
    """The actor of that name; created on that node if there is none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # The token is in no runtime_env: everybody may read those.
    env_vars = {"DISTWATCH": "0", **({"DISTWATCH_DIR": folders} if folders else {})}
    return (
        ray.remote(kind)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=concurrency,
            # Its folders are on this node: an actor that restarts elsewhere would have nothing.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
            runtime_env={"env_vars": env_vars},
        )
        .remote(folders)
    )


def head_node() -> str:
    """The id of the head node; of any node if none is marked as the head."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    heads = [node for node in alive if _HEAD in node["Resources"]]
    return str((heads or alive)[0]["NodeID"])


def _cause_of_end(actor: Any) -> str:
    import ray

    try:
        ray.get(actor.status.remote(), timeout=_SAYS_WHY_WITHIN_S)
    except (ray.exceptions.RayError, ValueError) as error:
        return f"its actor is gone: {cause_of(error)}"
    return ""


def cause_of(error: BaseException) -> str:
    """Type and text of the exception that a task raised, else the last line of Ray's text; never ''."""
    cause = getattr(error, "cause", None)
    # Ray puts the call first, and colours the text.
    told = cause if isinstance(cause, BaseException) else error
    lines = [line.strip() for line in _COLOURS.sub("", str(told)).splitlines() if line.strip()]
    kind = type(told).__name__
    if told is error and len(lines) > 1:
        return lines[-1][:_CAUSE_LENGTH]  # of a traceback, which names its error there
    return f"{kind}: {' '.join(lines)}"[:_CAUSE_LENGTH] if lines else kind
