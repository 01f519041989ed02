"""Calls that a process itself made wrongly, or could not make: recognized by torch's messages."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from distwatch.diagnosis.facts.communication import is_communication_error
from distwatch.diagnosis.facts.initializations import TWICE, holds_world, newest_init
from distwatch.state.codes import code_of
from distwatch.state.events import Site
from distwatch.state.finding import Evidence
from distwatch.state.model import Process, Step
from distwatch.state.steps import GROUP, PARALLEL_STATE, base_name
from distwatch.visible_text import shorten

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_VARIABLE_NAMES = (*VARIABLES, "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
MISSING_VARIABLE = re.compile(
    r"environment variable (\w+) expected, but not set"
    rf"|^KeyError: ['\"]?({'|'.join(_VARIABLE_NAMES)})['\"]?$"
)
INTERFACE = re.compile(
    r"(?i)unable to find (?:interface|address) for: ?(\S+)|no (?:usable )?socket interface found"
)
OUT_OF_RANGE = re.compile(r"rank < size\. (\d+) vs (\d+)")
PORT_TAKEN = re.compile(r"(?i)EADDRINUSE|address already in use")
_BACKEND = re.compile(
    r"(?i)^KeyError: ['\"]?(xla|nccl|gloo|mpi|ucc|xccl|hccl)['\"]?$|invalid backend|unknown (?:c10d )?backend"
    r"|distributed package doesn't have \w+ built in|only supported with gpus, no gpus found"
    r"|invalid device ordinal|duplicate gpu detected|no module named ['\"]?torch_xla"
    r"|no (?:nvidia|cuda) gpus are available|not compiled with cuda enabled"
)
_ALREADY = re.compile(r"(?i)(?:parallel|process|world)[\w\s-]*\balready (?:been )?initialized")
_NOT_INITIALIZED = re.compile(
    r"(?i)(?:group|parallel state|parallel)s? (?:has |have |is |are |was )?not (?:been )?initialized"
    r"|has to be initialized in a distributed env"
    r"|parallel name '\w+' has not been written in this process|config not published for role"
    r"|config namespace 'parallel' not published"
)
_BARE_ASSERT = re.compile(r"^\s*assert (?:torch\.distributed|dist|c10d)\.is_initialized\(\)\s*$")
_WORDS_OF_BARE_ASSERT = (
    "AssertionError: torch.distributed's default group is not initialized (asserted without a word)"
)
_SIZE = re.compile(
    r"(?i)mesh should not be bigger than|world.?size.{0,80}(?:divisible|multiple of|divided)"
    r"|world of \d+ cannot be divided|ranks, (?:and|but) the world has \d+|is \d+, (?:and|but) the world has \d+"
    r"|group's world size should be less|group's rank should be within"
    r"|(?:does|do) not divide tensor \d|world_size \(\d+\) is not equal to|kv_size_multiplier should be divisible"
    r"|kv_shared_group_size: \d+, should divide|^AssertionError: \d+ is not divisible by \d+"
    r"|^ValueError: Rank \d+ is out of range\. Valid ranks"
)
_NOT_MEMBER = re.compile(
    r"(?i)is not part of (?:the )?(?:parent )?group|invalid process group spec"
)
_STORE_SAYS = re.compile(r"(?i)server socket|DistNetworkError|TCPStore")


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failed call whose message says what was wrong, and that the process itself caused it."""

    code: str
    process: Process
    text: str
    """`TypeName: message`."""
    uncaught: bool = False
    site: Site | None = None
    traceback: tuple[str, ...] = ()
    step: Step | None = None

    @property
    def global_rank(self) -> int | None:
        """The rank, where the process knows it; a process without variables has none."""
        return self.process.global_rank

    def evidence(self) -> Evidence:
        """The message, and where it was raised."""
        who = f"rank {self.global_rank}" if self.global_rank is not None else "a process"
        where = f" (called at {self.site})" if self.site else ""
        place = f"{who}, pid {self.process.pid} on {self.process.host}: "
        text = place + shorten(self.text.strip(), 300) + where
        return Evidence("journal", text, self.global_rank)


def failures_of(processes: Iterable[Process]) -> list[Failure]:
    """The failures that still count: an initialization that succeeded later does not."""
    return [failure for process in processes for failure in _of_process(process)]


def classify(text: str, *, in_init: bool) -> str:
    """The code of the finding that explains an error, '' where the process did not cause the error.

    Args:
        text: `TypeName: message`.
        in_init: raised by an initialization, or by a process that never had one.
    """
    if MISSING_VARIABLE.search(text):
        return "rendezvous.env_missing"
    if TWICE.search(text) or text.startswith("AlreadyInitialized") or _ALREADY.search(text):
        return "group.already_initialized"
    if _NOT_INITIALIZED.search(text):
        return "group.not_initialized"
    if INTERFACE.search(text):
        return "rendezvous.interface_invalid"
    if _SIZE.search(text):
        return "group.size_invalid"
    if _NOT_MEMBER.search(text):
        return "group.not_member"
    if PORT_TAKEN.search(text) and (in_init or _STORE_SAYS.search(text)):
        return "rendezvous.port_taken"
    if in_init and _BACKEND.search(text):
        return "rendezvous.backend_unavailable"
    if in_init and OUT_OF_RANGE.search(text):
        return "rendezvous.rank_out_of_range"
    return ""


def is_own_failure(process: Process, step: Step) -> bool:
    """Whether an initialization failed because of its own process."""
    if not step.error:
        return False
    if step.error.startswith("InitFailed") and process.raised:
        return code_of(process.raised[-1].finding.code).own_call
    return bool(classify(step.error, in_init=True))


def error_line(process: Process) -> str:
    """Its uncaught exception as a step would report it; '' where there is none."""
    error = process.exception
    if error is None:
        return ""
    bare = error.type_name == "AssertionError" and not error.message.strip()
    if bare and any(_BARE_ASSERT.match(line) for line in error.traceback[-3:]):
        return _WORDS_OF_BARE_ASSERT
    return f"{error.type_name.rpartition('.')[2]}: {error.message.strip()}"


def _of_process(process: Process) -> Iterable[Failure]:
    failed = _failed_step(process)
    text = error_line(process)
    uncaught = bool(text) and failed is not None and _same(text, failed.error or "")
    if failed is not None:
        is_init = not _builds_groups(failed)
        said = text if uncaught else _said(process, failed)
        if code := classify(said, in_init=is_init):
            yield Failure(
                code=code,
                process=process,
                text=said,
                uncaught=uncaught,
                site=failed.site,
                traceback=process.exception.traceback if uncaught and process.exception else (),
                step=failed,
            )
    never = process.confirmed is None
    if text and not uncaught and (code := classify(text, in_init=never)):
        if _while_handling_a_lost_peer(process):
            return  # raised during cleanup
        error = process.exception
        yield Failure(
            code=code,
            process=process,
            text=text,
            uncaught=True,
            site=error.site if error else None,
            traceback=error.traceback if error else (),
        )


def _while_handling_a_lost_peer(process: Process) -> bool:
    """Whether the traceback shows another exception before the last."""
    lines = process.exception.traceback[:-1] if process.exception else ()
    told = (re.match(r"([A-Za-z_][\w.]*(?:Error|Timeout)): (.*)", line) for line in lines)
    return any(found and is_communication_error(found[1], found[2]) for found in told)


def _failed_step(process: Process) -> Step | None:
    """The newest failed call: an initialization that did not succeed later, or a group's creation."""
    if not any(step.error for step in process.steps.values()):
        return None
    init = newest_init(process)
    if init is not None and init.error and (TWICE.search(init.error) or not process.initialized):
        return init
    if not holds_world(process):
        return _refused_without_world(process)
    groups = [
        step
        for step in process.steps.values()
        if _builds_groups(step) and step.ended_ns is not None
    ]
    newest = max(groups, key=lambda step: step.step, default=None)
    if newest is None or not newest.error:
        return None
    # A mesh fails with the group inside it: the mesh's own site is the user's line.
    parent = process.steps.get(newest.parent) if newest.parent is not None else None
    while parent is not None and _builds_groups(parent) and parent.error:
        newest = parent
        parent = process.steps.get(newest.parent) if newest.parent is not None else None
    return newest


def _builds_groups(step: Step) -> bool:
    return base_name(step.name) in GROUP.calls


def _refused_without_world(process: Process) -> Step | None:
    """The newest attempt to build a framework's groups where torch has no group at all."""
    tries = [s for s in process.steps.values() if s.name.startswith(PARALLEL_STATE) and s.error]
    return max(tries, key=lambda step: step.step, default=None)


def _said(process: Process, failed: Step) -> str:
    """The message of a failed step; frameworks assert without a message that torch is initialized."""
    bare = (failed.error or "").strip() == "AssertionError:"
    without = failed.name.startswith(PARALLEL_STATE) and not holds_world(process)
    return _WORDS_OF_BARE_ASSERT if bare and without else failed.error or ""


def _same(text: str, step_error: str) -> bool:
    """Whether an exception is the one that ended a step (its first line, cut)."""
    first = text.splitlines()[0] if text else ""
    return bool(step_error) and first.startswith(step_error[:200])
