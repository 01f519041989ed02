"""A group whose calls are recorded, in a process without torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from distwatch.agent.pulse import PulsePage
from distwatch.hooks.patch import PatchSet
from distwatch.integrations import torch_collectives
from distwatch.state.events import GroupProgress, Operation
from distwatch.state.pulse import decode_operations


def instance_method(function: Callable[..., Any]) -> Any:
    """The descriptor that pybind11 puts around its methods."""
    new = ctypes.pythonapi.PyInstanceMethod_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.py_object]
    return new(function)


class Tensor:
    def __init__(self, numel: int, dtype: object = "torch.float32") -> None:
        self.dtype = dtype
        self._numel = numel

    def numel(self) -> int:
        return self._numel


class Options:
    rootRank = 3


class Group:
    """What the hooks use of torch's ProcessGroup."""

    def __init__(self, name: str = "0") -> None:
        self.group_name = name
        self.number = 0
        self.asked = 0
        self.calls: list[tuple[Any, ...]] = []

    def _count(self) -> int:
        self.asked += 1
        return self.number

    def _collective(self, *args: Any, **kwargs: Any) -> object:
        if args and args[0] == "refused":
            raise TypeError("torch counts no such call")
        self.number += 1
        if args and callable(args[0]):
            args[0]()
        self.calls.append((args, kwargs))
        if args and args[0] == "fails":
            raise ValueError("no such tensor")
        return ("result", self.number)

    _get_sequence_number_for_group = instance_method(_count)
    allreduce = instance_method(_collective)
    broadcast = instance_method(_collective)
    barrier = instance_method(_collective)
    send = instance_method(_collective)


class Job:
    """A rank with one patched class, whose ring is read as an observer reads it."""

    def __init__(self, page: PulsePage) -> None:
        self.page = page
        self.sites: dict[tuple[str, int, int], int] = {}
        self.agent = SimpleNamespace(operations=page.operations, site_number=self._site)
        self.patches = PatchSet()
        self.group_type: type[Group] = type("ProcessGroup", (Group,), dict(vars(Group)))
        module = ModuleType("fake_c10d")
        module.ProcessGroup = self.group_type  # type: ignore[attr-defined]
        known: Any = SimpleNamespace(read=lambda agent: None)
        self.counts = torch_collectives.apply(module, self.patches, known)

    def _site(self, code: Any, line: int, who: str, called_from: int) -> int:
        return self.sites.setdefault((code.co_name, line, called_from), len(self.sites) + 1)

    def operations(self) -> tuple[Operation, ...]:
        return decode_operations(Path(self.page.path).read_bytes())

    def beat(self, group: Group, enqueued: int | None = None) -> None:
        """The agent's thread compares with torch's flight recorder."""
        number = group.number if enqueued is None else enqueued
        seen = GroupProgress(pg_name=group.group_name, enqueued=number)
        self.counts.agree(self.counts.counted(), seen)

    def function_of(self, operation: Operation) -> str:
        return next(key[0] for key, number in self.sites.items() if number == operation.site)
