"""Several instances of SGLang in one world: its own initializers build each group once for every instance.

They lay out tensor × pipeline ranks from rank 0 and refuse a larger world. Here they see a world of one
instance, and every list of members is repeated for the other instances, so that all ranks of the job create
all groups in the same order, as torch needs it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from distwatch.errors import PlanInvalid


@contextlib.contextmanager
def instances(module: ModuleType, size: int, number: int) -> Iterator[None]:
    """While this lasts, the parallel state's module builds `number` instances of `size` ranks.

    Raises:
        PlanInvalid: its world group exists already, over all ranks.
    """
    if number == 1:
        yield
        return
    held = vars(module).get("_WORLD")
    if held is not None and len(held.ranks) != size:
        raise PlanInvalid(
            f"SGLang's world group has {len(held.ranks)} ranks already, and an instance has {size}",
            advice="Leave init_distributed_environment to distwatch.initialize.",
        )
    coordinator, torch = vars(module)["GroupCoordinator"], vars(module)["torch"]

    def repeated(*args: Any, **kwargs: Any) -> Any:
        if args:
            args = (_repeat(args[0], size, number), *args[1:])
        else:
            kwargs["group_ranks"] = _repeat(kwargs["group_ranks"], size, number)
        return coordinator(*args, **kwargs)

    distributed = _Seen(torch.distributed, get_world_size=_world_size(torch.distributed, size))
    changed = {"GroupCoordinator": repeated, "torch": _Seen(torch, distributed=distributed)}
    vars(module).update(changed)
    try:
        yield
    finally:
        vars(module).update(GroupCoordinator=coordinator, torch=torch)


def _repeat(groups: list[list[int]], size: int, number: int) -> list[list[int]]:
    return [[rank + size * one for rank in group] for one in range(number) for group in groups]


def _world_size(distributed: Any, size: int) -> Any:
    def get_world_size(group: Any = None) -> int:
        return size if group is None else int(distributed.get_world_size(group))

    return get_world_size


class _Seen:
    """A module as that code sees it: with a few names of ours."""

    def __init__(self, module: Any, **ours: Any) -> None:
        vars(self).update(ours)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
