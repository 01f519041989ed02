"""Where a model's parameters are, derived from the parameters themselves.

`model.hf_device_map` is missing for most single-device maps, and contains the plan, not the result.
A parameter on meta is offloaded if a hook of accelerate will fetch it; otherwise it has leaked.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from distwatch.state.loads import (
    MODULES_KEPT,
    NAMES_KEPT,
    DeviceBytes,
    ModuleDevice,
    Placement,
)

Nowhere = Literal["ram", "disk", "meta"]
"""For a parameter on meta: offloaded to RAM, to disk, or leaked."""
PLACES_KEPT = 8


class Tensor(NamedTuple):
    """One parameter or buffer of a model."""

    name: str
    device: str
    size: int
    dtype: str
    is_buffer: bool


def placement_of(model: Any, generation: str = "") -> Placement | None:
    """Where the parameters and buffers of a `torch.nn.Module` are; None for anything else.

    Args:
        generation: what happened to the checkpoint's generation config.
    """
    if not hasattr(model, "named_parameters"):
        return None
    # One pass: there may be 100,000 parameters, and the caller waits.
    modules_by_name = list(model.named_modules())
    offloaded = OffloadedWeights(modules_by_name)
    tensors, tied = _tensors(modules_by_name, offloaded)
    modules = shortest_map(tensors)
    parameters = [tensor for tensor in tensors if not tensor.is_buffer]
    leaked = [tensor.name for tensor in parameters if tensor.device == "meta"]
    return Placement(
        model_class=type(model).__name__,
        modules=tuple(modules[:MODULES_KEPT]),
        modules_left_out=max(0, len(modules) - MODULES_KEPT),
        devices=_by_device(tensors),
        dtypes=_by_dtype(parameters),
        tied=tied,
        leaked=tuple(leaked[:NAMES_KEPT]),
        leaked_count=len(leaked),
        offload_places=tuple(sorted(offloaded.places)[:PLACES_KEPT]),
        generation=generation,
        notes=tuple(_notes(model)),
    )


class OffloadedWeights:
    """The parameters on meta that a hook of accelerate will fetch, and where from.

    Attributes:
        places: folders on disk of the parameters located so far.
    """

    def __init__(self, modules: list[tuple[str, Any]]) -> None:
        self.places: set[str] = set()
        # A hook may be on any module above a parameter, and serves all parameters below.
        self._maps = {
            name: weights
            for name, module in modules
            if "_hf_hook" in vars(module) and (weights := _weights(module))
        }

    def locate(self, name: str) -> Nowhere:
        """Where a parameter on meta is fetched from; `meta` if nothing fetches it."""
        owner = name.rpartition(".")[0]
        while True:
            weights = self._maps.get(owner)
            found = self._locate_in(weights, name.removeprefix(f"{owner}.") if owner else name)
            if found is not None:
                return found
            if not owner:
                return "meta"
            owner = owner.rpartition(".")[0]

    def _locate_in(self, weights: Any, key: str) -> Nowhere | None:
        while hasattr(weights, "dataset") and hasattr(weights, "prefix"):
            weights, key = weights.dataset, f"{weights.prefix}{key}"
        if weights is None:
            return None
        in_memory = getattr(weights, "state_dict", None)
        index = getattr(weights, "index", None)
        if isinstance(in_memory, Mapping) and key in in_memory:
            return "ram"
        if isinstance(index, Mapping) and key in index:
            self._note_place(weights, index[key])
            return "disk"
        return "ram" if isinstance(weights, dict) and key in weights else None

    def _note_place(self, weights: Any, entry: Any) -> None:
        file = entry.get("safetensors_file") if isinstance(entry, Mapping) else None
        place = os.path.dirname(str(file)) if file else getattr(weights, "save_folder", None)
        if place and len(self.places) < PLACES_KEPT:
            self.places.add(str(place))


def _weights(module: Any) -> Any:
    """The map from which a module's hook fetches weights; None where it has none."""
    hook = getattr(module, "_hf_hook", None)
    for one in (*getattr(hook, "hooks", ()), hook):
        if one is not None and getattr(one, "weights_map", None) is not None:
            return one.weights_map
    return None


def _tensors(
    modules: list[tuple[str, Any]], offloaded: OffloadedWeights
) -> tuple[list[Tensor], int]:
    """Each parameter and buffer once, and the number of additional names of parameters."""
    found: list[Tensor] = []
    seen: set[int] = set()
    tied = 0
    for prefix, module in modules:
        for is_buffer, held in ((False, module._parameters), (True, module._buffers)):
            for name, tensor in held.items():
                if tensor is None:
                    continue
                if id(tensor) in seen:
                    tied += not is_buffer
                    continue
                seen.add(id(tensor))
                whole = f"{prefix}.{name}" if prefix else name
                found.append(_tensor(whole, tensor, offloaded, is_buffer=is_buffer))
    return found, tied


def _tensor(name: str, tensor: Any, offloaded: OffloadedWeights, *, is_buffer: bool) -> Tensor:
    # This rank holds only the local shard of a sharded parameter (DTensor).
    held = getattr(tensor, "_local_tensor", tensor)
    device = offloaded.locate(name) if held.is_meta else _named(held.device)
    return Tensor(name, device, int(held.nbytes), _named(held.dtype), is_buffer)


@functools.cache
def _named(kind: Any) -> str:
    """A device or a dtype by its name; there are few of them."""
    return str(kind).removeprefix("torch.")


def shortest_map(tensors: list[Tensor]) -> list[ModuleDevice]:
    """The shortest map that places every parameter, in the model's order; buffers follow their module."""
    parameters = [tensor for tensor in tensors if not tensor.is_buffer] or tensors
    if len({tensor.device for tensor in parameters}) == 1:
        # The usual model: the caller waits, so nothing is worked out for each of its modules.
        whole = sum(tensor.size for tensor in parameters)
        return [ModuleDevice(module="", device=parameters[0].device, bytes=whole)]
    above = {name: _modules_above(name) for name in {t.name.rpartition(".")[0] for t in parameters}}
    devices: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    for tensor in parameters:
        for module in above[tensor.name.rpartition(".")[0]]:
            devices.setdefault(module, set()).add(tensor.device)
            sizes[module] = sizes.get(module, 0) + tensor.size
    entries: dict[str, ModuleDevice] = {}
    for tensor in parameters:
        modules = above[tensor.name.rpartition(".")[0]]
        uniform = next((m for m in modules if len(devices[m]) == 1), tensor.name)
        if uniform not in entries:
            size = sizes.get(uniform, tensor.size)
            entries[uniform] = ModuleDevice(module=uniform, device=tensor.device, bytes=size)
    return list(entries.values())


def _modules_above(module: str) -> list[str]:
    """'' first, the module itself last."""
    parts = module.split(".") if module else []
    return ["", *(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))]


def _by_device(tensors: list[Tensor]) -> tuple[DeviceBytes, ...]:
    found: dict[str, list[int]] = {}
    for tensor in tensors:
        held = found.setdefault(tensor.device, [0, 0, 0])
        held[1 if tensor.is_buffer else 0] += tensor.size
        held[2] += 1
    return tuple(
        DeviceBytes(device=device, parameters=held[0], buffers=held[1], tensors=held[2])
        for device, held in sorted(found.items())
    )


def _by_dtype(parameters: list[Tensor]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in parameters:
        found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.size
    return found


def _notes(model: Any) -> Iterator[str]:
    generation = getattr(model, "generation_config", None)
    config = getattr(model, "config", None)
    if generation is None:
        return
    pads = [getattr(owner, "pad_token_id", None) for owner in (generation, config)]
    if all(pad is None for pad in pads):
        yield "no pad token: generate() on a batch of uneven lengths warns or pads with eos"
