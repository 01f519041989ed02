"""Calls of `ProcessGroup` methods: their call sites, and what the flight recorder omits.

torch's flight recorder counts the collectives themselves, including those of DDP and compiled code.
The hooks are plain closures that cost about 3 µs a call in a hot loop. Where the compiled module was
built, it records the calls that are like an earlier one, for a tenth of that; what is new to it takes
the way through Python. With `DISTWATCH_INTEGRATIONS=-torch_calls` collectives are not hooked: operations
and sizes then come from the recorder, and call sites from stacks.
"""

from __future__ import annotations

import contextlib
import functools
import struct
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType, GetSetDescriptorType, MethodDescriptorType, ModuleType
from typing import TYPE_CHECKING, Any

from distwatch.agent import core
from distwatch.agent.guard import guard, is_users, switch_off
from distwatch.agent.pulse import OperationsRing
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.call_counts import Counts
from distwatch.integrations.calling_threads import caller_of
from distwatch.integrations.registry import CALLS, folders_of, running_agent
from distwatch.integrations.torch_groups import KnownGroups
from distwatch.settings import read_settings
from distwatch.state.pulse import COUNTED_TAG, OTHER_TAG
from distwatch.state.splits import Rows

if TYPE_CHECKING:
    from distwatch.agent._calls import Observed
try:
    from distwatch.agent._calls import INTERFACE, CallRecord

    if INTERFACE != 3:
        raise ImportError("compiled from an older source")
except ImportError:  # also where there was no compiler, or a Python without the stable ABI
    CallRecord = None  # type: ignore[assignment,misc]

COLLECTIVES = (
    "allreduce allreduce_coalesced reduce broadcast allgather _allgather_base all_gather_single "
    "all_gather_single_coalesced allgather_coalesced allgather_into_tensor_coalesced gather scatter "
    "reduce_scatter _reduce_scatter_base reduce_scatter_single reduce_scatter_single_coalesced "
    "reduce_scatter_tensor_coalesced alltoall alltoall_base all_to_all_single barrier"
).split()
P2P = ("send", "recv", "recv_anysource", "monitored_barrier")
_ROOTED = frozenset(("broadcast", "reduce", "gather", "scatter"))
"""Their last argument names one member, by its rank in the group."""
_SPLIT = frozenset(("alltoall", "alltoall_base", "all_to_all_single"))
"""What they give to each member is theirs to choose, so that no call is like an earlier one, and each goes
through Python."""
_PLAIN_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter")
"""Classes whose tensors may be viewed by DLPack: another one may have no memory, and torch would warn of it."""
_HOOK = "ProcessGroup methods"
SITES_KEPT = 4096
"""A program may start a new thread for each call."""
CALLERS_KEPT = 24


def apply(
    module: ModuleType, patches: PatchSet, known: KnownGroups, *, unrecorded: bool = False
) -> Counts:
    """Patches the class; methods that this torch does not have are skipped.

    Args:
        unrecorded: torch's recorder does not see gloo: also watch what calls return.
    """
    counts = Counts()
    calls = Calls(counts, known, unrecorded=unrecorded)
    owner = module.ProcessGroup
    # A base class may define the methods of the class that Python code calls.
    definer = next((c for c in owner.__mro__ if "allreduce" in vars(c)), owner)
    names = (*COLLECTIVES, *P2P) if read_settings().wants(CALLS) else P2P
    for name in names:
        if name in vars(definer):
            patches.replace(definer, name, calls.observe(name, vars(definer)[name]))
    patches.when_undone(calls.stop)
    return counts


def _tag(args: tuple[Any, ...]) -> int:
    tag = args[0] if args else 0
    return tag if isinstance(tag, int) and 0 <= tag < COUNTED_TAG else OTHER_TAG


def _splits_of(
    args: tuple[Any, ...],
) -> tuple[tuple[Rows, Rows], tuple[int, int], tuple[int, int]]:
    """The lists of an all_to_all, given and taken; how many elements that is, and how many a row has.

    Of lists of tensors their sizes, else the lists of rows; no list: equal parts.
    """
    taken, given = args[:2]
    if isinstance(taken, (list, tuple)):
        sizes = [tensor.numel() for tensor in given], [tensor.numel() for tensor in taken]
        return sizes, (sum(sizes[0]), sum(sizes[1])), (1, 1)
    totals = given.numel(), taken.numel()
    takes, gives = args[2:4] if len(args) > 3 else ((), ())
    rows = totals[0] // max(1, sum(gives)), totals[1] // max(1, sum(takes))
    return (gives, takes), totals, rows


def _nowhere(*_: int) -> int:
    return 0


class Calls:
    """Writes each call to the operations ring."""

    def __init__(self, counts: Counts, known: KnownGroups, *, unrecorded: bool = False) -> None:
        self._unrecorded = unrecorded
        self._counts = counts
        self._known = known
        self._on = True
        self._agent: core.Agent | None = None
        self._skip = folders_of("torch")
        self._main = threading.main_thread().ident
        self._sites: dict[tuple[int, ...], int] = {}
        self._library: dict[int, tuple[CodeType, bool]] = {}
        self._dtypes: dict[Any, int] = {}
        self._names: dict[str, int] = {}
        self._ring: OperationsRing | None = None
        self._ring_enter: Callable[..., int] = _nowhere
        self._leave: Callable[[int, int], object] = _nowhere
        self._compiled: CallRecord | None = None
        self._observed: dict[str, Observed] = {}
        if CallRecord is not None:
            self._compiled = CallRecord(
                self._begin_collective, self._end, self._fail, self._main or 0
            )
            counts.compiled = self._compiled

    def observe(self, name: str, original: Any) -> Any:
        """A wrapper for one method; the original runs exactly once."""
        p2p = name in P2P
        if self._unrecorded and not p2p:
            original = self._watched(original)
        # pybind11's methods: a descriptor of this type around the function itself.
        if self._compiled and not p2p and type(original).__name__ == "instancemethod":
            function, observed_function = self._compiled.observe(
                name, original.__func__, name in _ROOTED, name != "barrier"
            )
            if name not in _SPLIT:
                self._observed[name] = observed_function
            return type(original)(function)
        begin, end = (
            (self._begin_p2p, self._end_p2p) if p2p else (self._begin_collective, self._end)
        )

        @functools.wraps(original)
        def observed(group: Any, *args: Any, **kwargs: Any) -> Any:
            token = None
            if self._on:
                try:
                    token = begin(name, group, args)
                except Exception as error:
                    self._fail(error)
            try:
                return original(group, *args, **kwargs)
            finally:
                if token is not None:
                    try:
                        end(token, group)
                    except Exception as error:
                        self._fail(error)

        return observed

    def _watched(self, original: Any) -> Callable[..., Any]:
        def called(group: Any, *args: Any, **kwargs: Any) -> Any:
            work = original(group, *args, **kwargs)
            if self._on:
                try:
                    self._counts.keep_work(group.group_name, work)
                except Exception as error:
                    self._fail(error)
            return work

        return functools.wraps(original)(called)

    def stop(self) -> None:
        """Passes calls through, also where someone has wrapped the hooks."""
        self._on = False
        if self._compiled is not None:
            self._compiled.stop()

    def _begin_collective(self, name: str, group: Any, args: tuple[Any, ...]) -> Any:
        pg_name = group.group_name
        counts = self._counts
        if pg_name not in counts.collectives:
            self._first_use(pg_name, group)
        if pg_name in counts.unnumbered:
            seq = counts.collectives.get(pg_name, 0) + 1
        else:
            seq = group._get_sequence_number_for_group() + 1
            if pg_name in counts.taken:
                seq = counts.without_p2p(pg_name, seq)
        counts.collectives[pg_name] = seq
        root = getattr(args[-1], "rootRank", -1) if name in _ROOTED and args else -1
        token = self._enter(name, pg_name, seq, args, root)
        if name in _SPLIT and token and self._ring is not None and len(args) > 1:
            # Of lists that torch refuses nothing is noted; torch says so itself.
            with contextlib.suppress(
                ArithmeticError, AttributeError, TypeError, ValueError, struct.error
            ):
                self._ring.note_splits(token, *_splits_of(args))
        if self._ring is not None:
            if name in self._observed:
                self._observed[name].know_op(self._names[name])
            self._teach_group(group, pg_name)
        return token

    def _teach_group(self, group: Any, pg_name: str) -> None:
        counts, number = self._counts, self._names.get(pg_name, 0)
        if self._compiled is not None and pg_name in counts.collectives and number:
            if pg_name in counts.unnumbered:
                return
            sequence = type(group)._get_sequence_number_for_group
            taken, last = counts.taken_by_p2p(pg_name), counts.last_collectives()[pg_name]
            self._compiled.know_group(group, pg_name, number, sequence, taken, last)

    def _teach_tensor(self, compiled: CallRecord, of: Any) -> None:
        attribute, numel = getattr(of, "dtype", None), getattr(of, "numel", None)
        if (
            of.__getattribute__ is object.__getattribute__
            and isinstance(attribute, GetSetDescriptorType)
            and isinstance(numel, MethodDescriptorType)
        ):
            exchange = getattr(of, "__dlpack_c_exchange_api__", None)
            is_plain = f"{of.__module__}.{of.__qualname__}" in _PLAIN_TENSORS
            compiled.know_tensors(of, attribute, numel, exchange if is_plain else None)

    def _first_use(self, pg_name: str, group: Any) -> None:
        try:
            group._get_sequence_number_for_group()
        except RuntimeError:
            self._counts.unnumbered.add(pg_name)
        if agent := running_agent():
            # By now a group that torch's functions did not create is complete, too.
            guard("process groups", self._known.read, agent)

    def _begin_p2p(self, name: str, group: Any, args: tuple[Any, ...]) -> Any:
        pg_name = group.group_name
        if pg_name not in self._counts.p2p and pg_name not in self._counts.collectives:
            self._first_use(pg_name, group)
        peer, tag, posted = -1, 0, -1
        if name != "monitored_barrier":
            self._counts.p2p[pg_name] = self._counts.p2p.get(pg_name, 0) + 1
            any_source = name == "recv_anysource"
            peer = -1 if any_source or len(args) < 2 else int(args[1])
            tag = _tag(args[1 if any_source else 2 :])
            posted = self._counts.post(pg_name, "send" if name == "send" else "recv", peer, tag)
        token = self._enter(name, pg_name, posted, args, peer, tag)
        if token is None or pg_name in self._counts.unnumbered:
            return token
        return token, pg_name, group._get_sequence_number_for_group()

    def _end_p2p(self, token: Any, group: Any) -> None:
        if not isinstance(token, tuple):
            self._end(token, group)
        else:
            number, pg_name, before = token
            self._end(number, group)
            # gloo takes one number for a send, NCCL none, a monitored barrier as many as there are ranks.
            taken = group._get_sequence_number_for_group() - before
            self._counts.take(pg_name, before, taken)
            self._teach_group(group, pg_name)

    def _end(self, token: int, group: Any) -> None:
        self._leave(token, time.monotonic_ns())

    def _enter(
        self, name: str, pg_name: str, seq: int, args: tuple[Any, ...], peer: int, tag: int = 0
    ) -> Any:
        agent = core.current()
        if agent is not self._agent or agent is None:
            agent = self._change_agent()
            if agent is None:
                return None
        numel, dtype = -1, 0
        for tensor in args[:1]:
            while isinstance(tensor, (list, tuple)):
                tensor = tensor[0] if tensor else None
            kind = getattr(tensor, "dtype", None)
            if kind is not None:
                numel = tensor.numel()
                dtype = self._dtypes.get(kind, -1)
                if dtype < 0:
                    dtype = self._dtypes[kind] = self._name(str(kind).removeprefix("torch."))
                if self._compiled is not None:
                    self._compiled.know_dtype(kind, dtype)
                    self._teach_tensor(self._compiled, type(tensor))
        names = self._names
        op, number = names.get(name) or self._name(name), names.get(pg_name) or self._name(pg_name)
        return self._ring_enter(
            time.monotonic_ns(), op, number, seq, self._site(agent), numel, dtype, peer, tag
        )

    def _name(self, text: str) -> int:
        number = self._names[text] = self._ring.name(text) if self._ring is not None else 0
        return number

    def _change_agent(self) -> core.Agent | None:
        """A forked process has its own ring and sites, so the parent's numbers are dropped."""
        agent = running_agent()
        if agent is None or agent.operations is None:
            return None
        self._agent = agent
        self._ring = agent.operations
        if self._compiled is not None and self._on:
            agent.operations.share(self._compiled)
        self._ring_enter = agent.operations.enter
        self._leave = agent.operations.leave
        for table in (self._sites, self._dtypes, self._names):
            table.clear()
        return agent

    def _site(self, agent: core.Agent) -> int:
        """The number of the user's line, told apart by the line that called its function.

        Places are compared by their instructions, which is faster: lines are looked up for a new one only.
        """
        frame: FrameType | None = sys._getframe(3)
        library = self._library
        found: FrameType | None = None
        called: CodeType | None = None
        instruction = 0
        while frame is not None:
            code = frame.f_code
            seen = library.get(id(code))
            if seen is None:
                seen = self._look_at(code)
            if self._compiled is not None:
                self._compiled.know_code(*seen)
            if not seen[1]:
                if found is not None:
                    called, instruction = code, frame.f_lasti
                    break
                found = frame
            frame = frame.f_back
        if found is None:
            return 0
        ident = threading.get_ident()
        thread = 0 if ident == self._main else ident
        key = (id(found.f_code), found.f_lasti, id(called), instruction, thread)
        number = self._sites.get(key)
        if number is None:
            number = self._number(agent, found, caller_of(found, thread))
            if len(self._sites) < SITES_KEPT:
                self._sites[key] = number
        if self._compiled is not None:
            self._compiled.know_site(
                found.f_code, found.f_lasti, called, instruction, thread, number
            )
        return number

    def _look_at(self, code: CodeType) -> tuple[CodeType, bool]:
        # The code object is kept alive, or another one could get its id.
        library = not is_users(code.co_filename, self._skip)
        seen = self._library[id(code)] = (code, library)
        return seen

    def _number(self, agent: core.Agent, frame: FrameType, who: str) -> int:
        chain: list[FrameType] = []
        above: FrameType | None = frame
        while above is not None and len(chain) < CALLERS_KEPT:
            if not self._look_at(above.f_code)[1]:
                chain.append(above)
            above = above.f_back
        number = 0
        for one in reversed(chain):
            number = agent.site_number(one.f_code, one.f_lineno, who, number)
        return number

    def _fail(self, error: Exception) -> None:
        from distwatch.agent import guard

        if guard.transparent:
            raise error
        self.stop()
        switch_off(_HOOK, error)
