"""Errors that only show that a peer or the store was gone or late."""

from __future__ import annotations

import re

from distwatch.state.events import ExceptionUncaught
from distwatch.state.limits import first_limit, limit_in

_SOCKET_TYPES = ("ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError")
_COMMUNICATION_TYPES = (
    *_SOCKET_TYPES,
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "DistError",
    "DistQueueEmptyError",
    "RendezvousTimeoutError",
    "RendezvousConnectionError",
    "InitTimeout",
    "InitFailed",
)
_COMMUNICATION_WORDS = re.compile(
    r"(?i)connection (was )?(reset|closed|refused|aborted)|closed by peer|broken pipe|timed out"
    r"|socket timeout|wait timeout|watchdog caught collective|ncclremoteerror|ncclsystemerror"
    r"|failed to recv|failed to connect|connectfullmesh|nccl communicator was aborted"
    r"|failed to pass monitoredBarrier|reached monitoredBarrier|gloo/transport|application timeout caused pair closure"
)
CLOSED_BY_PEER = re.compile(r"(?i)connection (closed|reset) by peer")
"""The other side has ended, or has destroyed the group; a timeout does not say so."""
CUT = re.compile(
    r"(?i)connection (?:closed|reset) by peer|broken pipe|failed to recv, got 0 bytes|remote process exited"
)
"""The same, of a peer or of the store."""
_TORCH_DISTRIBUTED = re.compile(
    r"torch/distributed|c10d|gloo|nccl|ProcessGroup|TCPStore|SocketImpl|monitoredBarrier", re.I
)
_TIME_OVER = re.compile(r"(?i)timed out|time-?out")
_STORE_LOST = re.compile(
    r"(?i)failed to recv|got 0 bytes|recvvalue|sendbytes|connection reset|broken pipe"
    r"|connection was likely closed|remote server shutdown"
)


def is_communication_error(type_name: str, message: str) -> bool:
    """Whether an exception only shows that a peer or the store was gone or late."""
    if type_name.rpartition(".")[2] in _COMMUNICATION_TYPES:
        return True
    return bool(_COMMUNICATION_WORDS.search(message) and _TORCH_DISTRIBUTED.search(message))


def tells_of_lost_peer(error: ExceptionUncaught) -> bool:
    """Whether an uncaught exception, or the first one of its chain, only shows that a peer or the store was gone."""
    if limit_in(f"{error.type_name}: {error.message}"):
        return False  # gloo says where in its transport it came to the limit
    if is_communication_error(error.type_name, error.message):
        return True
    if first_limit("", error.cause):
        return False
    first_type, _, first_message = error.cause.partition(": ")
    # A socket may be one of the program's own, to its storage or its tracker.
    return first_type not in _SOCKET_TYPES and is_communication_error(first_type, first_message)


def is_init_symptom(step_error: str) -> bool:
    """The same for an initialization's `TypeName: message`, where fewer words are enough."""
    type_name, _, message = step_error.partition(": ")
    words = _COMMUNICATION_WORDS.search(message)
    return bool(words) or is_communication_error(type_name, message)


def has_timed_out(step_error: str) -> bool:
    """Whether an initialization ended because its timeout passed.

    Gloo also says so after a few refusals: then it had an address, and waited for nobody.
    """
    return bool(_TIME_OVER.search(step_error)) and "SO_ERROR: Connection refused" not in step_error


def lost_the_store(step_error: str) -> bool:
    """Whether an initialization ended because the connected store went away."""
    type_name, _, message = step_error.partition(": ")
    ours = type_name in ("DistNetworkError", "DistStoreError", "DistError", "ConnectionResetError")
    return ours and bool(_STORE_LOST.search(message))
