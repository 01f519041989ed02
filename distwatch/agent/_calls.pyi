"""Compiled from `_calls.c`, where there was a compiler."""

from collections.abc import Callable
from types import CodeType
from typing import Any

INTERFACE: int
"""Another number where the binary is older than the Python that would use it."""

class Observed:
    """One observed function."""

    def know_op(self, number: int, /) -> None:
        """The ring's number of its name; 0: unknown, each call goes through Python."""

class CallRecord:
    """Records calls that are like one which the Python path has recorded."""

    def __init__(
        self,
        begin: Callable[[str, Any, tuple[Any, ...]], Any],
        end: Callable[[Any, Any], None],
        fail: Callable[[Exception], None],
        main_thread: int,
        /,
    ) -> None:
        """`begin` records a call and returns the token for `end`, or None; `fail` is told an exception of them."""

    def observe(
        self, name: str, original: Callable[..., Any], rooted: bool, sized: bool, /
    ) -> tuple[Callable[..., Any], Observed]:
        """A function that records each call, and calls `original` exactly once.

        Args:
            rooted: whether the last argument has a `rootRank`.
            sized: whether the first argument holds tensors.
        """

    def attach(self, memory: Any, offset: int, slots: int, number: int, /) -> None:
        """Writes into these slots, and counts on from `number`; forgets all that it knew.

        Raises:
            ValueError: the slots do not fit into that memory.
        """

    def detach(self) -> None:
        """Lets go of the memory: each call goes through Python."""

    def stop(self) -> None:
        """Passes calls through for good, unrecorded."""

    def next_number(self) -> int:
        """The number of a call that Python writes."""

    def know_group(
        self,
        group: Any,
        name: str,
        number: int,
        sequence: Callable[[Any], int],
        taken: int,
        last: int,
        /,
    ) -> None:
        """A group whose collectives have numbers.

        Args:
            sequence: called with the group, returns its number so far.
            taken: how many of those went to p2p.
            last: the number of its last collective.
        """

    def know_tensors(
        self, of: type, dtype: Any, numel: Callable[[Any], int], exchange: Any, /
    ) -> None:
        """A class of tensors; `dtype` is its descriptor, and like `numel` C's.

        Args:
            exchange: its capsule of DLPack's C functions, which tell the same in less time; else None.
        """

    def know_dtype(self, dtype: Any, number: int, /) -> None: ...
    def know_code(self, code: CodeType, library: bool, /) -> None: ...
    def know_site(
        self,
        code: CodeType,
        lasti: int,
        caller: CodeType | None,
        caller_lasti: int,
        thread: int,
        number: int,
        /,
    ) -> None: ...
    def forget_groups(self) -> None: ...
    def agree(self, name: str, before: int, enqueued: int, /) -> None:
        """Takes how many collectives a group has made by its flight recorder: by that its next calls are counted.

        Args:
            before: the group's number of `numbers`, taken before the recorder was asked.
        """

    def numbers(self) -> dict[str, int]:
        """For each known group's name, the number of its last collective."""
