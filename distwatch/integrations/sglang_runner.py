"""An SGLang `ModelRunner` without a server, built step by step, each step under its deadline.

It is for two-sided perturbation (MeZO): the process that runs both sides of a batch also changes the
weights, so there is no server, scheduler or tokenizer around the runner.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import os
import sys
import threading
from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any

import msgspec

from distwatch.agent.initialization.steps import positive_seconds
from distwatch.agent.initialization.supervision import Supervision
from distwatch.errors import InitTimeout, PlanInvalid, not_done
from distwatch.foreign_files import read_named
from distwatch.integrations.frameworks.framework import accepted, framework_of
from distwatch.integrations.loads import loads_under_way
from distwatch.integrations.required import import_required
from distwatch.integrations.sglang_model_runner import RUNNER, begin_part, end_part
from distwatch.integrations.world import World, add_framework, held_world, initialize
from distwatch.preflight.plan import Plan
from distwatch.state.addresses import split_endpoint
from distwatch.visible_text import say

_CONTEXT_LENGTH = 2048
_ROLE = "scheduler"
_GONE = {
    "enable_nan_detection": "check the logits of each forward with torch.isfinite(logits).all()",
}
"""Server arguments of earlier versions that a caller may still pass, and what does the same."""
_POOLS = ("alloc_memory_pool", "init_attention_backends", "init_cuda_graphs")
"""Newer runners do this on request, older ones in their constructor."""


def build_sglang_runner(
    model_path: str,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    batch_size: int = 8,
    context_length: int | None = None,
    device: str | None = None,
    deadlines: Mapping[str, float] | None = None,
    **server_args: Any,
) -> Any:
    """A `ModelRunner` of the installed SGLang, with weights, memory pools and groups in place.

    An existing world is used, with SGLang's groups if it has them. Otherwise a world is formed first
    (`distwatch.initialize`), so a missing rank is named, instead of a runner that never returns. Call
    it on every rank with the same arguments.

    Args:
        batch_size: sequences of one side; the runner is sized for twice as many.
        context_length: tokens of a sequence; default: the model's own, at most 2048.
        device: cuda, cpu, …; default: what torch finds.
        deadlines: as for `distwatch.initialize`; besides, `load` for ServerArgs, ModelConfig and ModelRunner
            (default: `load` of DISTWATCH_DEADLINES) and `runner` for ModelRunner alone.
        server_args: further fields of SGLang's `ServerArgs`, which override the defaults;
            `model_override_args`, a dict, becomes their `json_model_override_args`.

    Raises:
        PlanInvalid: SGLang is not installed, or this version has no such server argument.
        AlreadyInitialized: the existing world has SGLang groups of other sizes.
    """
    framework_of("sglang")
    server = _import("sglang.srt.server_args")
    place = device or _device()
    limits, ours = _limits(deadlines)
    with _Step("ServerArgs", model_path, ours.get("load")):
        wanted = mezo_defaults(model_path, batch_size, context_length, place)
        wanted |= {"tp_size": tensor, "pp_size": pipeline}
        args = _server_args(server.ServerArgs, model_path, wanted, server_args)
    backend = "gloo" if place == "cpu" else None
    world = held_world() or initialize(backend, deadlines=limits)
    _check_sizes(args, world)
    outside = importlib.util.find_spec("sglang.srt.distributed.bootstrap") is not None
    if "sglang" in world.layouts:
        # Groups of other sizes are rejected before anything is published for them.
        _build_groups(world, backend, args, limits)
        if not outside:
            world.release("sglang")
    if outside:
        _publish(args, world)
        _build_groups(world, backend, args, limits)
        _initialize_attention(args)
    runner = _configured(model_path, args, world, ours)
    if not outside:
        # This version's runner has built the groups itself: they are used unchanged.
        _build_groups(world, backend, args, limits)
    return runner


def _configured(model_path: str, args: Any, world: World, limits: Mapping[str, float]) -> Any:
    """The model's configuration, then the runner, each under its deadline."""
    address = split_endpoint(world.plan.endpoint)
    port = address[1] if address else None
    with _Step("ModelConfig", model_path, limits.get("load"), port):
        config = _import("sglang.srt.configs.model_config").ModelConfig.from_server_args(args)
    with _Step("runner", model_path, limits.get("runner", limits.get("load")), port):
        return _runner(args, config, world)


def mezo_defaults(
    model_path: str, batch_size: int, context_length: int | None, device: str
) -> dict[str, Any]:
    """Server arguments for two-sided perturbation: both sides of a batch forward in one step.

    No CUDA graph, since it would replay with the shapes of its capture. Prefixes share the radix
    cache, which must be flushed whenever the weights change: its keys and values belong to the
    weights that computed them.
    """
    sides, length = 2 * batch_size, context_length or _context_length(model_path)
    defaults: dict[str, Any] = {
        "device": device,
        "max_running_requests": sides,
        "context_length": length,
        "disable_cuda_graph": True,
        "disable_radix_cache": False,
        "disable_overlap_schedule": True,
        "skip_tokenizer_init": True,
        # A share of all memory suits a server that has the machine to itself.
        "max_total_tokens": sides * length,
    }
    if device == "cpu":
        defaults |= {
            "attention_backend": "torch_native",
            "sampling_backend": "pytorch",
            "grammar_backend": "none",
        }
    return defaults


def missing_state() -> list[str]:
    """What a `ModelRunner` would lack in this process now, in plain words; empty: nothing."""
    import torch.distributed as dist

    fix = "call distwatch.initialize(framework='sglang', tensor=…)"
    if importlib.util.find_spec("sglang") is None:
        return ["SGLang is not installed: pip install sglang, in the environment of this job"]
    missing = []
    if not dist.is_initialized():
        missing.append(f"torch.distributed is not initialized: {fix}, which initializes it, too")
    framework = framework_of("sglang")
    module = framework.module()
    held = {group.role for group in framework.read(module)} if dist.is_initialized() else set()
    for role, getter in (
        ("world", "get_world_group"),
        ("tp", "get_tp_group"),
        ("pp", "get_pp_group"),
    ):
        if role not in held:
            missing.append(f"SGLang's {role} group ({getter}) does not exist: {fix}")
    context = importlib.util.find_spec("sglang.srt.runtime_context")
    if context is not None and not _is_published():
        missing.append(
            "no server arguments are published in this process: "
            "call sglang.srt.runtime_context.publish(server_args, role='scheduler', ranks=…), or use "
            "distwatch.build_sglang_runner, which does all of this"
        )
    return missing


# ---- the steps ---------------------------------------------------------------------------------


def _limits(deadlines: Mapping[str, float] | None) -> tuple[dict[str, float], dict[str, float]]:
    """The deadlines of `initialize`, and those of the steps here."""
    limits = dict(deadlines or {})
    return limits, {
        n: positive_seconds(n, limits.pop(n)) for n in ("load", "runner") if n in limits
    }


class _Step:
    """A part of the runner's start, under that deadline, else under the one for loads.

    A deadline that the caller has given also speaks here: it says which phase is late and where this
    rank stands, and ends a wait for other ranks in torch's store, as `distwatch.initialize` does.
    """

    # Not a generator: its frames in contextlib would be taken for the user's.
    def __init__(
        self, phase: str, model_path: str, deadline_s: float | None, port: int | None = None
    ) -> None:
        self._phase, self._model_path, self._deadline_s = phase, model_path, deadline_s
        self._supervision: Supervision | None = None
        if deadline_s is not None:
            late = partial(_late, phase, model_path, deadline_s, threading.get_ident())
            self._supervision = Supervision(deadline_s=deadline_s, port=port, late=late)

    def __enter__(self) -> None:
        self._part = begin_part(self._model_path, self._phase, self._deadline_s)
        if self._supervision is not None:
            self._supervision.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        told = error
        try:
            if self._supervision is not None:
                self._supervision.__exit__(kind, error, trace)
        except InitTimeout as late:
            told = late
            raise
        finally:
            if self._part is not None:
                end_part(self._part, told)


def _late(phase: str, model_path: str, deadline_s: float, thread: int) -> InitTimeout:
    load = next((one for one in loads_under_way() if one.thread == thread), None)
    innermost = (load.phase if load is not None else "") or phase
    frame = sys._current_frames().get(thread)
    place = ""
    if frame is not None:
        code = frame.f_code
        place = f", at {os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}"
    what = f"{RUNNER}({model_path}): {not_done(innermost, deadline_s)}{place}"
    say(what)
    return InitTimeout(what, step=innermost, deadline_s=deadline_s)


def _import(name: str) -> Any:
    return import_required(name, "distwatch.build_sglang_runner", "sglang")


def _server_args(
    kind: Any, model_path: str, defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> Any:
    """The defaults that this version knows, and all of the user's arguments."""
    given = dict(given)
    if (override := given.pop("model_override_args", None)) is not None:
        given["json_model_override_args"] = json.dumps(override)
    known = {f.name for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    known |= set(inspect.signature(kind).parameters)
    for name in set(given) & set(_GONE) - known:
        if given.pop(name):
            say(f"this SGLang's ServerArgs have no {name}: {_GONE[name]}")
    if unknown := sorted(set(given) - known):
        raise PlanInvalid(
            f"this SGLang's ServerArgs have no {', '.join(unknown)}",
            advice="Look at `python -m sglang.launch_server --help` of the installed version.",
        )
    chosen = {name: value for name, value in defaults.items() if name in known}
    return kind(model_path=model_path, **{**chosen, **given})


def _check_sizes(args: Any, world: World) -> None:
    """Before anything is published, which cannot be taken back.

    Raises:
        PlanInvalid: the sizes of the server arguments do not fit the world.
    """
    plan = msgspec.structs.replace(Plan(framework="sglang"), **_sizes(args))
    for finding in framework_of("sglang").validate(plan, world.size):
        if finding.blocks:
            raise PlanInvalid(finding.summary, finding=finding)


def _build_groups(
    world: World, backend: str | None, args: Any, deadlines: Mapping[str, float] | None
) -> None:
    """The groups that the server arguments request; a no-op where the world has them."""
    add_framework(world, backend, "sglang", _sizes(args), deadlines)


def _sizes(args: Any) -> dict[str, int]:
    return {
        size: int(getattr(args, field, 1) or 1)
        for size, field in (
            ("tensor", "tp_size"),
            ("pipeline", "pp_size"),
            ("expert", "ep_size"),
            ("context", "attn_cp_size"),
        )
    }


def _publish(args: Any, world: World) -> None:
    """Publishes the arguments once for the process, as a server's own entry point does."""
    context = _import("sglang.srt.runtime_context")
    ranks = context.SpawnRanks(world_rank=world.rank, gpu_id=_gpu(world))
    context.publish(args, role=_ROLE, ranks=ranks)


def _is_published() -> bool:
    context = _import("sglang.srt.runtime_context")
    if not hasattr(context, "assert_published"):
        return True  # up to 0.5.15 the runner publishes them itself
    try:
        return bool(context.get_parallel().tp_size) and context.get_parallel().tp_rank is not None
    except (AttributeError, RuntimeError, ValueError):
        return False


def _initialize_attention(args: Any) -> None:
    """The attention's own setup besides the groups, if this version has it."""
    attention = importlib.util.find_spec("sglang.srt.layers.dp_attention")
    if attention is not None:
        call = _import("sglang.srt.layers.dp_attention").initialize_dp_attention
        call(**accepted(call, {"server_args": args}))


def _runner(args: Any, config: Any, world: World) -> Any:
    kind = _import("sglang.srt.model_executor.model_runner").ModelRunner
    if importlib.util.find_spec("sglang.srt.distributed.bootstrap") is not None:
        bootstrap = _import("sglang.srt.distributed.bootstrap")
        bootstrap.init_layer_runtime(model_config=config)
    tensor = int(getattr(args, "tp_size", 1) or 1)
    experts = int(getattr(args, "ep_size", 1) or 1)
    tensor_rank = world.rank % tensor
    wanted = {
        "model_config": config,
        "mem_fraction_static": getattr(args, "mem_fraction_static", None) or 0.8,
        "gpu_id": _gpu(world),
        "tp_rank": tensor_rank,
        "tp_size": tensor,
        "moe_ep_rank": tensor_rank // (tensor // experts),
        "moe_ep_size": experts,
        "pp_rank": world.rank // tensor,
        "pp_size": int(getattr(args, "pp_size", 1) or 1),
        "nccl_port": int(os.environ.get("MASTER_PORT") or 0),
        "server_args": args,
    }
    runner = kind(**accepted(kind, wanted))
    for name in _POOLS:
        if hasattr(runner, name):
            getattr(runner, name)()
    return runner


def _gpu(world: World) -> int:
    import torch

    count = torch.cuda.device_count()
    return world.local_rank % count if count else 0


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _context_length(model_path: str) -> int:
    """The model's own length if its configuration is on this machine, at most the default."""
    try:
        config = json.loads(read_named(os.path.join(model_path, "config.json"), 4 << 20))
    except (OSError, ValueError):
        return _CONTEXT_LENGTH
    own = [config.get(name) for name in ("max_position_embeddings", "n_positions")]
    return min([_CONTEXT_LENGTH, *(length for length in own if isinstance(length, int))])
