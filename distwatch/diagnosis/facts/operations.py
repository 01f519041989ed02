"""One name per collective, whichever source it was read from."""

from __future__ import annotations

from functools import lru_cache

_NAMES = {
    "allreduce": "all_reduce",
    "allreducecoalesced": "all_reduce_coalesced",
    "allgather": "all_gather",
    "allgatherbase": "all_gather_into_tensor",
    "allgathersingle": "all_gather_into_tensor",
    "allgathercoalesced": "all_gather_coalesced",
    "allgatherintotensorcoalesced": "all_gather_into_tensor_coalesced",
    "reducescatter": "reduce_scatter",
    "reducescatterbase": "reduce_scatter_tensor",
    "reducescattersingle": "reduce_scatter_tensor",
    "alltoall": "all_to_all",
    "alltoallbase": "all_to_all_single",
    "alltoallsingle": "all_to_all_single",
    "monitoredbarrier": "monitored_barrier",
    "recvanysource": "recv (any source)",
}
P2P = frozenset({"send", "recv", "recv (any source)"})


@lru_cache(maxsize=1024)
def operation_name(raw: str) -> str:
    """torch's public name of an operation: `gloo:all_reduce`, `allreduce` → `all_reduce`."""
    name = raw.rpartition(":")[2]
    return _NAMES.get(name.replace("_", "").lower(), name)
