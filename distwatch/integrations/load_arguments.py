"""The arguments of a model load that decide where parameters go and what the load costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distwatch.integrations.loads import versions
from distwatch.redaction import redact_text
from distwatch.state.loads import LoadArguments

SPREADING = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})
"""Device maps that split a model over the available devices."""
_MAP_ENTRIES_SHOWN = 4


def read_arguments(checkpoint: object, kwargs: Mapping[str, Any]) -> LoadArguments:
    """The arguments in a form that may be recorded; reads no file and no tensor."""
    device_map = kwargs.get("device_map")
    parallel = kwargs.get("distributed_config") or kwargs.get("tp_plan")
    quantization = kwargs.get("quantization_config")
    return LoadArguments(
        checkpoint="" if checkpoint is None else redact_text(str(checkpoint))[:300],
        device_map=_map_text(device_map),
        spreads=spreads(device_map),
        parallel_plan=_text(parallel) if parallel is not None else "",
        offload_folder=_text(kwargs.get("offload_folder") or ""),
        offload_state_dict=bool(kwargs.get("offload_state_dict")),
        max_memory=_text(kwargs.get("max_memory") or ""),
        dtype=str(kwargs.get("dtype") or kwargs.get("torch_dtype") or "").removeprefix("torch."),
        quantization=type(quantization).__name__ if quantization is not None else "",
        versions=versions(),
    )


def spreads(device_map: object) -> bool:
    """Whether a device map may put parts of one model on several devices."""
    if isinstance(device_map, str):
        return device_map in SPREADING
    return isinstance(device_map, Mapping) and len({str(d) for d in device_map.values()}) > 1


def _map_text(device_map: object) -> str:
    if device_map is None:
        return ""
    if isinstance(device_map, Mapping) and len(device_map) > _MAP_ENTRIES_SHOWN:
        devices = sorted({str(device) for device in device_map.values()})
        return f"{len(device_map)} entries over {', '.join(devices)}"[:200]
    return _text(device_map)


def _text(value: object) -> str:
    return redact_text(str(value))[:200]
