"""An SGLang `ModelRunner` without a server, built step by step, each step under its deadline.

It is for two-sided perturbation (MeZO): the process that runs both sides of a batch also changes the
weights, so there is no server, scheduler or tokenizer around the runner.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import msgspec

from distwatch.agent.initialization.steps import positive_seconds
from distwatch.agent.initialization.supervision import Supervision
from distwatch.errors import InitTimeout, PlanInvalid
from distwatch.integrations.frameworks.framework import accepted, framework_of
from distwatch.integrations.frameworks.sglang import REPLICAS, InstancesPlan
from distwatch.integrations.load_deadlines import supervise_load
from distwatch.integrations.loads import current_load
from distwatch.integrations.registry import running_agent
from distwatch.integrations.required import import_required
from distwatch.integrations.sglang_arguments import mezo_defaults, server_args, sizes_of
from distwatch.integrations.sglang_model_runner import RUNNER, begin_part, end_part
from distwatch.integrations.sglang_models import cut_key_heads, require_logits, rotary_stand_in
from distwatch.integrations.world import World, add_framework, held_world, initialize
from distwatch.settings import read_settings
from distwatch.state.addresses import split_endpoint
from distwatch.state.steps import LOAD

_ROLE = "scheduler"
_POOLS = ("alloc_memory_pool", "init_attention_backends", "init_cuda_graphs")
"""Newer runners do this on request, older ones in their constructor."""


def build_sglang_runner(
    model_path: str,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    replicas: int = 1,
    batch_size: int = 8,
    context_length: int | None = None,
    device: str | None = None,
    deadlines: Mapping[str, float] | None = None,
    **arguments: Any,
) -> Any:
    """A `ModelRunner` of the installed SGLang, with weights, memory pools and groups in place.

    An existing world is used, with SGLang's groups if it has them. Otherwise a world is formed first
    (`distwatch.initialize`), so a missing rank is named, instead of a runner that never returns. Call
    it on every rank with the same arguments.

    Args:
        replicas: copies of the model in this world, each on tensor × pipeline ranks with groups of its
            own: rank r belongs to copy r // (tensor × pipeline).
        batch_size: sequences of one side; the runner is sized for twice as many.
        context_length: tokens of a sequence; default: the model's own, at most 2048.
        device: cuda, cpu, …; default: what torch finds.
        deadlines: as for `distwatch.initialize`; besides, seconds without progress: `load` for ServerArgs,
            ModelConfig and ModelRunner (default: `load` of DISTWATCH_DEADLINES, which raises with
            DISTWATCH_ON_HANG=raise alone) and `runner` for ModelRunner alone.
        arguments: further fields of SGLang's `ServerArgs`, which override the defaults;
            `model_override_args`, a dict, becomes their `json_model_override_args`.

    Raises:
        PlanInvalid: SGLang is not installed, has no such server argument, or cannot run that model.
        AlreadyInitialized: the existing world has SGLang groups of other sizes.
        InitTimeout: a step did not end in time; it names the step, and this rank's line.
    """
    if read_settings().enabled is not False:
        import distwatch.auto  # noqa: F401

        running_agent()
    place = device or _device()
    limits, ours = _limits(deadlines)
    with _Step("ServerArgs", model_path, ours.get("load")):
        wanted = mezo_defaults(model_path, batch_size, context_length, place)
        wanted |= {"tp_size": tensor, "pp_size": pipeline}
        kind = _import("sglang.srt.server_args").ServerArgs
        args = server_args(kind, model_path, wanted, arguments)
    backend = "gloo" if place == "cpu" else None
    world = held_world() or initialize(backend, deadlines=limits)
    groups = _Groups(args, replicas, backend, limits)
    groups.check(world)
    if importlib.util.find_spec("sglang.srt.distributed.bootstrap") is None:
        return _with_own_groups(model_path, args, groups, world, ours)
    if "sglang" in world.layouts:
        # Groups of other sizes are rejected before anything is published for them.
        groups.build(world)
    port = _port(world)
    with _Step("ServerArgs", model_path, ours.get("load"), port):
        # Here it reads the model's configuration, and decides what the arguments leave open.
        _publish(args, groups.place(world), world)
    groups.build(world)
    with _Step("attention backend", model_path, ours.get("load"), port):
        _initialize_attention(args)
    return _configured(model_path, args, groups.place(world), world, ours)


def _with_own_groups(
    model_path: str, args: Any, groups: _Groups, world: World, limits: Mapping[str, float]
) -> Any:
    """Up to 0.5.15 the runner builds the groups itself, and fails where there are some."""
    if groups.replicas > 1:
        raise PlanInvalid(
            "this version's ModelRunner builds its groups itself, over the whole world",
            advice="Use replicas with SGLang 0.5.23 or newer.",
        )
    if "sglang" in world.layouts:
        groups.build(world)  # rejects other sizes
        world.release("sglang")
    runner = _configured(model_path, args, groups.place(world), world, limits)
    groups.build(world)  # finds the runner's, which are used unchanged
    return runner


class _Groups:
    """SGLang's groups as the server arguments request them, once for each replica."""

    def __init__(
        self, args: Any, replicas: int, backend: str | None, deadlines: Mapping[str, float]
    ) -> None:
        self._sizes = sizes_of(args)
        self.replicas = replicas
        self._backend = backend
        self._deadlines = deadlines

    def place(self, world: World) -> int:
        """This rank's place within its replica."""
        return world.rank % (self._sizes["tensor"] * self._sizes["pipeline"])

    def check(self, world: World) -> None:
        """Before anything is published, which cannot be taken back.

        Raises:
            PlanInvalid: the sizes of the server arguments do not fit the world.
        """
        plan = InstancesPlan(framework="sglang", replicas=self.replicas)
        plan = msgspec.structs.replace(plan, **self._sizes)
        for finding in framework_of("sglang").validate(plan, world.size):
            if finding.blocks:
                raise PlanInvalid(finding.summary, finding=finding)

    def build(self, world: World) -> None:
        """A no-op where the world has them."""
        options = {REPLICAS: self.replicas} if self.replicas > 1 else None
        add_framework(world, self._backend, "sglang", self._sizes, self._deadlines, options)


def _configured(
    model_path: str, args: Any, place: int, world: World, limits: Mapping[str, float]
) -> Any:
    """The model's configuration, then the runner, each under its deadline."""
    port = _port(world)
    with _Step("ModelConfig", model_path, limits.get("load"), port):
        config = _import("sglang.srt.configs.model_config").ModelConfig.from_server_args(args)
    with _Step("architecture", model_path, limits.get("load"), port):
        require_logits(config)
    with _Step("runner", model_path, limits.get("runner", limits.get("load")), port):
        return _runner(args, config, place, world)


def _port(world: World) -> int | None:
    """The store's, in which ranks may wait for each other."""
    address = split_endpoint(world.plan.endpoint)
    return address[1] if address else None


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

    A deadline that the caller has given ends it, as in `distwatch.initialize`, and so does the default
    with DISTWATCH_ON_HANG=raise. The process itself says which phase is late, and its line.
    """

    # Not a generator: its frames in contextlib would be taken for the user's.
    def __init__(
        self, phase: str, model_path: str, deadline_s: float | None, port: int | None = None
    ) -> None:
        settings = read_settings()
        self._phase, self._model_path, self._deadline_s = phase, model_path, deadline_s
        self._port = port
        self._supervision: Supervision | None = None
        self._ends = deadline_s is not None or settings.on_hang == "raise"
        self._limit_s = deadline_s or settings.deadlines[LOAD.name]

    def __enter__(self) -> None:
        self._part = begin_part(self._model_path, self._phase, self._deadline_s, ends=False)
        if self._ends:
            self._supervision = supervise_load(
                f"{RUNNER}({self._model_path})",
                self._limit_s,
                _innermost(self._phase),
                port=self._port,
                asked=self._deadline_s is not None,
            )
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


def _innermost(phase: str) -> Callable[[], str]:
    load = current_load()
    return lambda: (load.phase if load is not None else "") or phase


def _import(name: str) -> Any:
    return import_required(name, "distwatch.build_sglang_runner", "sglang")


def _publish(args: Any, place: int, world: World) -> None:
    """Publishes the arguments once for the process, as a server's own entry point does."""
    context = _import("sglang.srt.runtime_context")
    ranks = context.SpawnRanks(world_rank=place, gpu_id=_gpu(world))
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


def _runner(args: Any, config: Any, place: int, world: World) -> Any:
    kind = _import("sglang.srt.model_executor.model_runner").ModelRunner
    if importlib.util.find_spec("sglang.srt.distributed.bootstrap") is not None:
        bootstrap = _import("sglang.srt.distributed.bootstrap")
        bootstrap.init_layer_runtime(model_config=config)
    tensor = int(getattr(args, "tp_size", 1) or 1)
    experts = int(getattr(args, "ep_size", 1) or 1)
    tensor_rank = place % tensor
    wanted = {
        "model_config": config,
        "mem_fraction_static": getattr(args, "mem_fraction_static", None) or 0.8,
        "gpu_id": _gpu(world),
        "tp_rank": tensor_rank,
        "tp_size": tensor,
        "moe_ep_rank": tensor_rank // (tensor // experts),
        "moe_ep_size": experts,
        "pp_rank": place // tensor,
        "pp_size": int(getattr(args, "pp_size", 1) or 1),
        "nccl_port": int(os.environ.get("MASTER_PORT") or 0),
        "server_args": args,
    }
    with rotary_stand_in(str(getattr(args, "device", ""))):
        runner = kind(**accepted(kind, wanted))
    if (model := getattr(runner, "model", None)) is not None:
        cut_key_heads(model)
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
