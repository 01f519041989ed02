"""Doubles of SGLang and neuronx-distributed, initialized well, twice, too early, with wrong sizes."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from steps import RANK, gate, step

import distwatch

SIZES: dict[str, Any] = json.loads(os.environ.get("TEST_SIZES", "{}"))


def initialize() -> None:
    """By distwatch, twice with the same plan, taken down and built in another shape."""
    framework = os.environ["TEST_FRAMEWORK"]
    world = distwatch.initialize("gloo", framework=framework, **SIZES)
    assert distwatch.initialize("gloo", framework=framework, **SIZES) is world
    say("first", world.groups, world.roles[framework])
    step("initialized")
    gate("again").read(1)
    world.close()
    world = distwatch.initialize("gloo", framework=framework, tensor=world.size)
    say("second", world.groups, world.roles[framework])
    gate("end").read(1)


def say(when: str, groups: dict[str, Any], roles: dict[str, Any]) -> None:
    path = os.path.join(os.environ["TEST_WORK"], f"{when}-{RANK}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"groups": groups, "roles": roles}, file)


def by_itself() -> None:
    """The framework's own initializer, without distwatch.initialize."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    state = parallel_state()
    if os.environ["TEST_FRAMEWORK"] == "sglang":
        state.init_distributed_environment(dist.get_world_size(), dist.get_rank(), backend="gloo")
    state.initialize_model_parallel(**SIZES)
    gate("end").read(1)


def twice() -> None:
    """A second call, which SGLang refuses and neuronx-distributed does not."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    state = parallel_state()
    if os.environ["TEST_FRAMEWORK"] == "sglang":
        state.init_distributed_environment(dist.get_world_size(), dist.get_rank(), backend="gloo")
    state.initialize_model_parallel(**SIZES)
    state.initialize_model_parallel(**SIZES)
    gate("end").read(1)


def too_early() -> None:
    """Before torch itself is initialized."""
    parallel_state().initialize_model_parallel(**SIZES)


def layer_too_early() -> None:
    """A model's layer, before there are any groups."""
    if os.environ["TEST_FRAMEWORK"] == "neuron":
        parallel_state().NeuronAttention()
    else:
        parallel_state().get_tp_group()


def heads() -> None:
    """Key and value heads that tensor's size does not divide."""
    distwatch.initialize("gloo", framework="neuron", **SIZES)
    parallel_state().GQAQKVColumnParallelLinear(kv_output_dim=1)


def without_runtime() -> None:
    """A job that asks for it where it is not installed."""
    distwatch.initialize("gloo", framework=os.environ["TEST_FRAMEWORK"], **SIZES)


def a_model() -> str:
    """The folder of a model, as far as the doubles read it."""
    model = os.path.join(os.environ["TEST_WORK"], f"model-{RANK}")
    os.makedirs(model)
    with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"max_position_embeddings": 256}, file)
    return model


def runner() -> None:
    """In a world that it forms; after the groups, as docs/frameworks.md has it; with other sizes."""
    import torch.distributed as dist

    model = a_model()
    formed = distwatch.build_sglang_runner(model, tensor=2, batch_size=8, device="cpu")
    summed = [formed.forward()]
    world = distwatch.initialize("gloo", framework="sglang", tensor=2)
    dist.barrier()
    world.close()

    world = distwatch.initialize("gloo", framework="sglang", tensor=2, timeout=60)
    held = distwatch.build_sglang_runner(model, tensor=2, batch_size=8, device="cpu")
    summed.append(held.forward())
    try:
        distwatch.build_sglang_runner(model, pipeline=2, device="cpu")
    except distwatch.AlreadyInitialized as error:
        refused = [error.held, error.asked]
    found = {"requests": held.max_running_requests, "summed": summed, "refused": refused}
    path = os.path.join(os.environ["TEST_WORK"], f"runner-{RANK}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**found, "tp_rank": held.tp_rank, "closed": world.closed}, file)
    gate("end").read(1)


def runner_in_own_environment() -> None:
    """SGLang's own environment first, then a runner whose sizes do not fit, then one whose sizes do."""
    model = a_model()
    parallel_state().init_distributed_environment(2, RANK, backend="gloo")
    try:
        distwatch.build_sglang_runner(model, tensor=1, device="cpu")
    except distwatch.PlanInvalid as error:
        print(error)
    deadlines = {"framework": 50, "load": 40, "runner": 30}
    runner = distwatch.build_sglang_runner(model, tensor=2, device="cpu", deadlines=deadlines)
    assert runner.forward() == 2.0
    step("forward")
    gate("end").read(1)


def replicas() -> None:
    """Two instances of two ranks: groups of their own, a runner in each, again the same, and without the word."""
    import torch

    kept = {"framework": "sglang", "tensor": 2, "options": {"replicas": 2}}
    world = distwatch.initialize("gloo", **kept)
    state = parallel_state()
    held = {name: getattr(state, f"get_{name}_group")().ranks for name in ("world", "tp", "pp")}
    summed = float(state.get_tp_group().all_reduce(torch.ones(1) * RANK).item())
    tp_rank = state.get_tp_group().rank_in_group
    if hasattr(state, "get_parallel"):
        built = distwatch.build_sglang_runner(a_model(), tensor=2, replicas=2, device="cpu")
        tp_rank = built.tp_rank
        assert built.forward() == 2.0
    again = distwatch.initialize("gloo", **kept) is world
    world.release("sglang")
    try:
        distwatch.initialize("gloo", framework="sglang", tensor=2)
    except distwatch.PlanInvalid as error:
        found = {
            **held,
            "summed": summed,
            "tp_rank": tp_rank,
            "again": again,
            "refused": str(error),
        }
    with open(
        os.path.join(os.environ["TEST_WORK"], f"replicas-{RANK}.json"), "w", encoding="utf-8"
    ) as file:
        json.dump(found, file)
    gate("end").read(1)


def founding_arguments() -> None:
    """What the first MeZO trainer passed, on a version that has not all of it."""
    from sglang.srt import server_args

    made: list[Any] = []
    kind = server_args.ServerArgs

    class Kept(kind):  # type: ignore[misc,valid-type]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            made.append(self)

    server_args.ServerArgs = Kept  # type: ignore[misc]
    distwatch.build_sglang_runner(
        a_model(),
        device="cpu",
        batch_size=4,
        context_length=32,
        enable_nan_detection=True,
        model_override_args={"num_hidden_layers": 2},
    )
    found = {"tokens": made[0].max_total_tokens, "override": made[0].json_model_override_args}
    path = os.path.join(os.environ["TEST_WORK"], f"arguments-{RANK}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(found, file)
    step("built")
    gate("end").read(1)


def parallel_state() -> Any:
    """The framework's module."""
    if os.environ["TEST_FRAMEWORK"] == "neuron":
        from neuronx_distributed.parallel_layers import parallel_state as neuron

        return neuron
    from sglang.srt.distributed import parallel_state as sglang

    return sglang


globals()[sys.argv[1]]()
