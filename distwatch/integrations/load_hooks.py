"""Hooks that the loads of several libraries share: phases, files, tensors."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from distwatch.hooks.call_hook import CallHook, argument
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.load_waits import Wait
from distwatch.integrations.loads import Load, current_load, end_load
from distwatch.integrations.placements import placement_of

PARTLY_HOOKED = "some functions are missing in this version, so parts of a load are not seen"


def end_with(load: Load, model: Any, error: BaseException | None) -> None:
    """Ends a load, with its model's placement where that can be determined."""
    placement = None
    try:
        if error is None and model is not None:
            placement = placement_of(model, load.generation)
    finally:
        end_load(load, placement, error)


@contextlib.contextmanager
def in_phase(load: Load | None, name: str, *, total: int | None = None) -> Iterator[int]:
    """A part of a load that distwatch performs itself, as a step. Does nothing without a load."""
    step = load.begin_phase(name, total=total) if load is not None else 0
    error: BaseException | None = None
    try:
        yield step
    except BaseException as failure:
        error = failure
        raise
    finally:
        if load is not None:
            load.end_phase(step, error)


class Phase(CallHook):
    """A function that is part of a load, as a separate step. Does nothing outside a load."""

    def __init__(self, name: str) -> None:
        self._name = name

    def files(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        """How many files it will read, where the arguments say so."""
        return None

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None or not load.is_mine:
            return None
        # Weights are also tied while a model is built; and one function may be hooked under names of
        # two libraries.
        if (self._name == "tie" and load.is_building) or load.phase == self._name:
            return None
        return load, load.begin_phase(self._name, total=self.files(args, kwargs))

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        load, step = token
        load.end_phase(step, error)


class Counted(Phase):
    """A phase in which files are read and tensors are placed."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        token = super().before(args, kwargs)
        if token is not None:
            load, step = token
            load.begin_counting(step, self.files(args, kwargs))
        return token


class WaitHook(CallHook):
    """A call in which a thread of a load waits. Does nothing outside a load."""

    def wait(self, load: Load, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Wait | None:
        """What the call waits for; None where that is not to be recorded."""
        raise NotImplementedError

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        wait = self.wait(load, args, kwargs) if load is not None else None
        return (load, load.waits.begin(wait)) if load is not None and wait is not None else None

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        load, wait = token
        load.end_wait(wait, error)


class FileOpened(CallHook):
    """A function that reads a checkpoint file: its first argument, or `filename`."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None or load.counting is None:
            return None
        path: Any = args[0] if args else next(iter(kwargs.values()), "")
        while isinstance(path, (list, tuple)) and path:
            path = path[0]
        if not str(path):
            return None  # 4.x: a state dict that is already in memory
        load.open_file(str(path))
        return load, str(path), load.waits.begin(Wait("file", str(path)))

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        load, path, wait = token
        load.end_wait(wait, error)
        if load.files == 1 and load.bytes_total is None and error is None:
            with contextlib.suppress(OSError):
                load.bytes_total = os.stat(path).st_size


class TensorRead(CallHook):
    """A function that reads a tensor of a checkpoint file: its first argument."""

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None or load.counting is None or not args:
            return None
        load.read_tensor(args[0])
        return load

    def after(self, token: Load, result: Any, error: BaseException | None) -> None:
        token.reading.pop(threading.get_ident(), None)


class TensorPlaced(CallHook):
    """A function that places a tensor; counts it."""

    def __init__(self, position: int, name: str) -> None:
        """
        Args:
            position: of the tensor among the arguments.
            name: of that argument.
        """
        self._position = position
        self._name = name

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        load = current_load()
        if load is None or load.counting is None:
            return None
        tensor = argument(args, kwargs, self._position, self._name)
        return None if tensor is None else (load, int(getattr(tensor, "nbytes", 0) or 0))

    def after(self, token: Any, result: Any, error: BaseException | None) -> None:
        if error is None:
            load, size = token
            load.place(size)


def hook_function(
    patches: PatchSet,
    module: ModuleType | None,
    name: str,
    hook: CallHook,
    *,
    rebinds: bool = False,
) -> bool:
    """Hooks a function of a module; False where the module has no such function.

    Args:
        rebinds: also replaces names in other modules that were bound to it before.
    """
    if module is None or not callable(vars(module).get(name)):
        return False
    title = f"load: {module.__name__}.{name}"
    patches.observe(title, module, name, hook, rebinds=rebinds)
    return True


def hook_method(patches: PatchSet, owner: type, name: str, hook: CallHook) -> bool:
    """Hooks a method where its class or a base class defines it; False where none does."""
    defining = next((c for c in owner.__mro__ if name in vars(c)), None)
    if defining is None or defining is object:
        return False
    patches.observe(f"load: {defining.__name__}.{name}", defining, name, hook)
    return True
