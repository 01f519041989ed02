"""Settings from DISTWATCH_* variables. An invalid value falls back to the default, with a complaint."""

from __future__ import annotations

import os

from distwatch.state.quantities import bytes_of, seconds_of
from distwatch.state.steps import DEADLINES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ON_HANG = ("report", "raise", "abort", "restart-node")
ENDS_CULPRITS = ("abort", "restart-node")
"""With these, whoever holds a hung job up is ended, so that its launcher starts it again."""
RING = 1 << 20
LEAST_RING, MOST_RING = 64 << 10, 256 << 20
KEEP = "14d,2GiB"


class Keep:
    """How long ended runs are kept: up to this age, while all runs together are at most this large.

    Attributes:
        age_s: infinite: runs of any age.
        size: bytes; None: any size.
    """

    def __init__(self, age_s: float, size: int | None) -> None:
        self.age_s = age_s
        self.size = size


# No dataclass or NamedTuple: their modules cost every process of a job more than all of distwatch.
class Settings:
    """The settings of this process. `complaints` are sentences about values that were ignored.

    Attributes:
        ring: bytes of each process's ring.
    """

    def __init__(
        self,
        *,
        enabled: bool | None = None,
        root: str = "",
        run_id: str | None = None,
        deadlines: dict[str, float] = DEADLINES,
        on_hang: str = "report",
        integrations_off: frozenset[str] = frozenset(),
        integrations_only: frozenset[str] | None = None,
        observer: str = "auto",
        ring: int = RING,
        complaints: tuple[str, ...] = (),
    ) -> None:
        self.enabled = enabled
        self.root = root
        self.run_id = run_id
        self.deadlines = deadlines
        self.on_hang = on_hang
        self.integrations_off = integrations_off
        self.integrations_only = integrations_only
        self.observer = observer
        self.ring = ring
        self.complaints = complaints

    def wants(self, integration: str) -> bool:
        """Whether an integration should be applied."""
        if integration in self.integrations_off:
            return False
        return self.integrations_only is None or integration in self.integrations_only


_chosen: Mapping[str, str] | None = None


def choose_environment(environ: Mapping[str, str] | None) -> None:
    """Settings come from this environment from now on, not from the process's own; None: from that again.

    A process that distwatch is brought into has its own, which its children inherit: it stays as it is.
    """
    global _chosen
    _chosen = environ


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads DISTWATCH_* of an environment (default: this process's). Never raises."""
    chosen = os.environ if _chosen is None else _chosen
    env = chosen if environ is None else environ
    complaints: list[str] = []
    only, off = _integrations(env.get("DISTWATCH_INTEGRATIONS", "all"))
    on_hang = env.get("DISTWATCH_ON_HANG", "report")
    if on_hang not in ON_HANG:
        complaints.append(f"DISTWATCH_ON_HANG={on_hang!r} is not one of {', '.join(ON_HANG)}")
        on_hang = "report"
    _, complaint = read_keep(env)
    complaints += [complaint] if complaint else []
    return Settings(
        enabled={"1": True, "0": False}.get(env.get("DISTWATCH", "")),
        root=run_root(env),
        run_id=env.get("DISTWATCH_RUN_ID") or None,
        deadlines=_deadlines(env.get("DISTWATCH_DEADLINES", ""), complaints),
        on_hang=on_hang,
        integrations_only=only,
        integrations_off=off,
        observer=env.get("DISTWATCH_OBSERVER") or "auto",
        ring=_ring(env.get("DISTWATCH_RING", ""), complaints),
        complaints=tuple(complaints),
    )


def run_root(environ: Mapping[str, str]) -> str:
    """The folder that holds the run folders."""
    if explicit := environ.get("DISTWATCH_DIR"):
        return os.path.abspath(explicit)
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime, "distwatch")
    return default_root()


def default_root() -> str:
    """The folder for run folders if no variable names one."""
    return f"/tmp/distwatch-{os.getuid()}"


def read_keep(environ: Mapping[str, str]) -> tuple[Keep, str]:
    """DISTWATCH_KEEP, and what is wrong with it: the default holds then."""
    text = environ.get("DISTWATCH_KEEP") or KEEP
    if text.strip() == "all":
        return Keep(float("inf"), None), ""
    age_s: float | None = None
    size: int | None = None
    for part in text.split(","):
        if age_s is None and (age := seconds_of(part)) is not None:
            age_s = age
        elif size is None and (count := bytes_of(part)) is not None:
            size = count
        else:
            kept, _ = read_keep({})
            return kept, f"DISTWATCH_KEEP={text!r} is neither all nor AGE,SIZE as in {KEEP}"
    return Keep(float("inf") if age_s is None else age_s, size), ""


def _ring(text: str, complaints: list[str]) -> int:
    size = bytes_of(text) if text else RING
    if size is None:
        complaints.append(f"DISTWATCH_RING={text!r} is not a size such as 512KiB or 4MiB")
    elif not LEAST_RING <= size <= MOST_RING:
        complaints.append(f"DISTWATCH_RING={text!r} is not between 64KiB and 256MiB")
    else:
        return size
    return RING


def _deadlines(text: str, complaints: list[str]) -> dict[str, float]:
    deadlines = dict(DEADLINES)
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            complaints.append(f"DISTWATCH_DEADLINES: {part!r} is not kind=seconds")
        elif name.strip() not in DEADLINES:
            complaints.append(_no_such_kind(name.strip()))
        else:
            deadlines[name.strip()] = seconds
    return deadlines


def _no_such_kind(name: str) -> str:
    import difflib  # takes 3 ms, so only for an invalid setting

    near = difflib.get_close_matches(name, DEADLINES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DEADLINES)}"
    return f"DISTWATCH_DEADLINES: there is no deadline {name!r}; {hint}"


def _integrations(text: str) -> tuple[frozenset[str] | None, frozenset[str]]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    off = frozenset(name[1:] for name in names if name.startswith("-"))
    on = frozenset(name for name in names if not name.startswith("-") and name != "all")
    return (on or None), off
