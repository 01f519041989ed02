"""`distwatch.load`: `from_pretrained` under the load deadline, with checks before and after it."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from distwatch.agent.guard import guard, guard_end
from distwatch.agent.initialization.environment import read_environment
from distwatch.errors import GIVE_SECONDS, PlanInvalid
from distwatch.foreign_files import read_named
from distwatch.integrations.load_arguments import read_arguments
from distwatch.integrations.load_hooks import in_phase
from distwatch.integrations.loads import Load, begin_load, end_load
from distwatch.integrations.placements import placement_of
from distwatch.integrations.registry import running_agent
from distwatch.integrations.required import import_required
from distwatch.preflight.model_load import LoadingMachine, load_advice
from distwatch.probes.cgroups import memory_group
from distwatch.settings import read_settings
from distwatch.state.events import FindingRaised
from distwatch.state.loads import LoadArguments, Placement
from distwatch.state.quantities import bytes_text

log = logging.getLogger("distwatch")
_SMOKE_TOKENS = 4
_NAMES_READ = 1000
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def load(
    checkpoint: str | os.PathLike[str],
    *,
    model_class: Any = "AutoModelForCausalLM",
    deadline: float | None = None,
    smoke_test: bool = False,
    **kwargs: Any,
) -> Any:
    """Loads a model as its class's `from_pretrained` does, and returns the same result.

    Before the load it reports what the arguments will cost on this machine; after it, what is wrong
    with the model: as findings of the run, and on stderr. The observer judges the deadline: it
    reports a load without progress for that long with its phase, file and reason;
    DISTWATCH_ON_HANG=raise ends the load with `InitTimeout` then, =abort the rank.

    Args:
        checkpoint: a folder, or the id of a model on the hub.
        model_class: a class with `from_pretrained`, or the name of one in transformers.
        deadline: seconds without progress; default: `load` of DISTWATCH_DEADLINES.
        smoke_test: generate a few tokens afterwards, step by step, each under the deadline.
        kwargs: of `from_pretrained`.

    Raises:
        PlanInvalid: there is no such class, or no transformers.
    """
    if deadline is not None and not deadline > 0:
        raise PlanInvalid(f"deadline={deadline!r}", advice=GIVE_SECONDS)
    chosen = _class_of(model_class)
    if read_settings().enabled is not False:
        import distwatch.auto  # noqa: F401

        running_agent()
    # A failure in looking at a load must not fail the load.
    arguments = guard("distwatch.load", read_arguments, checkpoint, kwargs) or LoadArguments(
        checkpoint=""
    )
    begin = functools.partial(begin_load, adopts=True, deadline_s=deadline)
    under_way = guard("distwatch.load", begin, "distwatch.load", arguments)
    try:
        _advise(under_way, os.fspath(checkpoint), arguments, kwargs.get("max_memory") or {})
        loaded = chosen.from_pretrained(checkpoint, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if smoke_test:
            _generate_shortly(under_way, model)
    except BaseException as error:
        if under_way is not None:
            guard_end("distwatch.load", end_load, under_way, None, error)
        raise
    if under_way is not None:
        guard_end("distwatch.load", _end, under_way, arguments, model)
    return loaded


def _end(under_way: Load, arguments: LoadArguments, model: Any) -> None:
    placement: Placement | None = None
    try:
        placement = placement_of(model, under_way.generation)
        _report_problems(arguments, placement)
    finally:
        end_load(under_way, placement, None)


def _class_of(model_class: Any) -> Any:
    if isinstance(model_class, str):
        transformers = import_required("transformers", "distwatch.load", "transformers")
        found = getattr(transformers, model_class, None)
        if found is None:
            raise PlanInvalid(
                f"transformers has no {model_class!r}", advice="Pass the class itself, or its name."
            )
        model_class = found
    if not callable(getattr(model_class, "from_pretrained", None)):
        raise PlanInvalid(
            f"{model_class!r} has no from_pretrained", advice="Pass a model class, or its name."
        )
    return model_class


def _advise(
    under_way: Load | None,
    checkpoint: str,
    arguments: LoadArguments,
    max_memory: Mapping[object, object],
) -> None:
    with in_phase(under_way, "advice"):
        try:
            findings = load_advice(arguments, _machine(checkpoint), max_memory)
        except Exception as error:
            log.warning("distwatch: no advice before the load: %s", error)
            return
    for finding in findings:
        log.warning("distwatch: %s: %s. %s", finding.code, finding.summary, finding.advice)
        if under_way is not None:
            under_way.agent.record(FindingRaised(finding=finding, step="distwatch.load"))


def _machine(checkpoint: str) -> LoadingMachine:
    launched = read_environment(os.environ)
    group = memory_group(os.getpid())
    limit, _ = group.limit if group else (None, None)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size, safetensors = _checkpoint_size(checkpoint)
    return LoadingMachine(
        world_size=launched.world_size or 1,
        local_world_size=launched.local_world_size or 1,
        host_memory=min(limit, total) if limit else total,
        limited_by="cgroup's limit" if limit and limit < total else "memory",
        device_memory=_device_memory(),
        checkpoint_bytes=size,
        safetensors=safetensors,
        beside=_beside(checkpoint),
    )


def _beside(checkpoint: str) -> tuple[str, ...] | None:
    """What is in the folder of a local path where nothing is; None for whatever else it may be."""
    folder = os.path.dirname(checkpoint.rstrip("/"))
    if not folder or os.path.exists(checkpoint) or not os.path.isdir(folder):
        return None
    return tuple(sorted(os.listdir(folder))[:_NAMES_READ])


def _checkpoint_size(checkpoint: str) -> tuple[int | None, bool]:
    """Bytes of a local checkpoint's files, and whether they are safetensors; None for a hub id."""
    if not os.path.isdir(checkpoint):
        return None, True
    files = [entry for entry in os.scandir(checkpoint) if entry.name.endswith(_WEIGHTS)]
    safetensors = [entry for entry in files if entry.name.endswith(".safetensors")]
    for entry in os.scandir(checkpoint):
        if entry.name.endswith("safetensors.index.json"):
            index = json.loads(read_named(entry.path, 256 << 20))
            size = index.get("metadata", {}).get("total_size")
            if isinstance(size, int):
                return size, True
    return sum(entry.stat().st_size for entry in safetensors or files) or None, bool(safetensors)


def _device_memory() -> tuple[int, ...]:
    """Total memory of each GPU, where this process already uses them."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ()
    count = torch.cuda.device_count()
    return tuple(int(torch.cuda.get_device_properties(n).total_memory) for n in range(count))


def _report_problems(arguments: LoadArguments, placement: Placement | None) -> None:
    """For readers of this process's output; the run's verdict reports it, too."""
    if placement is None:
        return
    if placement.leaked_count:
        names = ", ".join(placement.leaked[:4])
        log.warning(
            "distwatch: %d parameters of %s are still on `meta` and nothing will load them: %s",
            placement.leaked_count,
            arguments.checkpoint,
            names,
        )
    if placement.generation == "lost":
        log.warning(
            "distwatch: the generation config of %s could not be read", arguments.checkpoint
        )
    for note in placement.notes:
        log.info("distwatch: %s", note)
    held = ", ".join(
        f"{d.device} {bytes_text(d.parameters + d.buffers)}" for d in placement.devices
    )
    log.info("distwatch: %s is on %s", arguments.checkpoint, held)


def _generate_shortly(under_way: Load | None, model: Any) -> list[int]:
    """Generates a few tokens greedily from a prompt of one token; each forward is progress of one step.

    Raises:
        Exception: whatever the model's forward raises.
    """
    import torch

    config = getattr(model, "config", None)
    first = next((t for t in _starts(config) if isinstance(t, int) and t >= 0), 0)
    device = _input_device(model)
    tokens = torch.tensor([[first]], device=device)
    with in_phase(under_way, "smoke test", total=_SMOKE_TOKENS) as step, torch.no_grad():
        for number in range(1, _SMOKE_TOKENS + 1):
            if under_way is not None:
                label = f"forward of {tokens.shape[1]} tokens"
                under_way.agent.progress_step(step, number, total=_SMOKE_TOKENS, label=label)
            logits = model(input_ids=tokens).logits
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1).to(device)], dim=1)
    return [int(token) for token in tokens[0, 1:].tolist()]


def _starts(config: Any) -> tuple[Any, ...]:
    return (getattr(config, "bos_token_id", None), getattr(config, "eos_token_id", None))


def _input_device(model: Any) -> Any:
    """The device for inputs: the embedding's, or the one from which accelerate moves them."""
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    parameters = list(embedding.parameters()) if embedding is not None else []
    devices = [p.device for p in (*parameters, *model.parameters()) if p.device.type != "meta"]
    return devices[0] if devices else "cpu"
