"""What a model load's arguments will cost on this machine, known before the load begins."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import msgspec

from distwatch.state.finding import Evidence, Finding
from distwatch.state.loads import LoadArguments
from distwatch.state.quantities import bytes_text, count_of

HEADROOM = 0.95
"""Of a device's memory: activations, the allocator and the driver need the rest."""
_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([KMG]I?)B\s*", re.IGNORECASE)


class LoadingMachine(msgspec.Struct, frozen=True, kw_only=True):
    """What this process sees of its job and its host. None: not known."""

    world_size: int = 1
    local_world_size: int = 1
    host_memory: int | None = None
    """What the ranks of this host may use together: the cgroup's limit, or the host's memory."""
    limited_by: str = "memory"
    device_memory: tuple[int, ...] = ()
    """Total bytes of each accelerator."""
    checkpoint_bytes: int | None = None
    safetensors: bool = True
    """Whether the checkpoint's files are safetensors, which need no offload folder."""
    beside: tuple[str, ...] | None = None
    """What the folder holds in which the checkpoint would be; None where it is there, or no such folder is."""


def load_advice(
    arguments: LoadArguments, machine: LoadingMachine, max_memory: Mapping[object, object]
) -> list[Finding]:
    """Findings for arguments that will cost more than the user may know; empty where all is well."""
    return [
        *_not_there(arguments, machine),
        *_state_dict_offload(arguments),
        *_disk_without_folder(arguments, machine),
        *_host_memory(arguments, machine, max_memory),
        *_no_headroom(machine, max_memory),
        *_model_parallel_map(arguments, machine),
    ]


def size_of(value: object) -> int | None:
    """Bytes of `60GiB`, `800KB` or a number, as accelerate reads them; None where it is no size."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value)
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    return int(float(match[1]) * _UNITS[match[2].upper()])


def rereads_offloaded(version: str) -> bool:
    """Whether this transformers reads all offloaded weights a second time (4.57 ignores the option)."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < (4, 57)


def _not_there(arguments: LoadArguments, machine: LoadingMachine) -> Iterable[Finding]:
    """A mistyped path looks like a hub id, and transformers asks the hub for it again and again."""
    if machine.beside is None:
        return
    folder, _, name = arguments.checkpoint.rstrip("/").rpartition("/")
    near = difflib.get_close_matches(name, machine.beside, n=1)
    otherwise = "Correct the path, unless it is the id of a model on the hub."
    yield _finding(
        "load.hub_unreachable",
        f"there is no {arguments.checkpoint} on this machine, though there is a folder {folder}: transformers takes "
        "it for a model of the hub, and asks for it until its attempts are used up",
        f"Did you mean {folder}/{near[0]}?" if near else otherwise,
    )


def _finding(code: str, summary: str, advice: str = "") -> Finding:
    evidence = (Evidence("plan", "from the arguments, before the load"),)
    return Finding(
        code=code,
        severity="warning",
        summary=summary,
        advice=advice,
        evidence=evidence,
        confidence=0.9,
    )


def _state_dict_offload(arguments: LoadArguments) -> Iterable[Finding]:
    version = arguments.versions.get("transformers", "")
    if arguments.offload_state_dict and rereads_offloaded(version):
        yield _finding(
            "load.offloaded",
            f"offload_state_dict=True with transformers {version}: after the last shard transformers reads all "
            "CPU weights again from TMPDIR, without a progress bar",
            "Leave offload_state_dict out: it saves no memory where the checkpoint is "
            "safetensors; else set TMPDIR to a fast local disk.",
        )


def _disk_without_folder(arguments: LoadArguments, machine: LoadingMachine) -> Iterable[Finding]:
    if "disk" in arguments.device_map and not arguments.offload_folder and not machine.safetensors:
        yield _finding(
            "load.offloaded",
            "the device map puts parts on disk, but offload_folder is not set: a checkpoint that is not "
            "safetensors cannot be read in place",
            "Pass offload_folder=… on a disk with room for it, or convert the checkpoint to safetensors.",
        )


def _host_memory(
    arguments: LoadArguments, machine: LoadingMachine, max_memory: Mapping[object, object]
) -> Iterable[Finding]:
    ranks, limit = machine.local_world_size, machine.host_memory
    if limit is None:
        return
    cpu = size_of(max_memory.get("cpu"))
    stays = arguments.device_map in ("", "cpu", "{'': 'cpu'}") and not arguments.parallel_plan
    each = machine.checkpoint_bytes if stays else None
    if each is not None and cpu is not None:
        each = min(each, cpu)
    told = f"{count_of(ranks, 'rank')} × {bytes_text(each)} of checkpoint"
    if each is None:
        each, told = cpu, f"{ranks} × max_memory['cpu'] = {bytes_text(cpu)}"
    if each is None or each * ranks <= limit:
        return
    yield _finding(
        "load.memory_exceeds",
        f"{told} = {bytes_text(each * ranks)} of host memory, but the {machine.limited_by} of this host is "
        f"{bytes_text(limit)}",
    )


def _no_headroom(machine: LoadingMachine, max_memory: Mapping[object, object]) -> Iterable[Finding]:
    for index, total in enumerate(machine.device_memory):
        asked = size_of(max_memory.get(index))
        if asked is not None and asked > HEADROOM * total:
            yield _finding(
                "load.memory_exceeds",
                f"max_memory gives weights {bytes_text(asked)} of the {bytes_text(total)} of device {index}: "
                "nothing is left for activations and the cache",
                f"Leave room: at most about {bytes_text(int(0.85 * total))} for device {index}.",
            )


def _model_parallel_map(arguments: LoadArguments, machine: LoadingMachine) -> Iterable[Finding]:
    several = len(machine.device_memory) > 1
    if (
        arguments.spreads
        and machine.local_world_size > 1
        and several
        and not arguments.parallel_plan
    ):
        yield _finding(
            "load.device_map_conflict",
            f"device_map={arguments.device_map!r} splits the model over the {len(machine.device_memory)} devices of "
            f"this host, but {machine.local_world_size} ranks of the job share them",
        )
