"""One rank that uses the real SGLang, on gloo and a CPU."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from steps import RANK, gate, silent_pipe, step

import distwatch


def say(**found: Any) -> None:
    path = os.path.join(os.environ["TEST_WORK"], f"said-{RANK}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(found, file)


def initialize() -> None:
    """Outside a server: every getter, a collective over a group, down, and up in another shape."""
    import torch

    world = distwatch.initialize("gloo", framework="sglang", tensor=2, pipeline=2)
    from sglang.srt.distributed import parallel_state as state
    from sglang.srt.runtime_context import get_parallel

    names = ("world", "tp", "pp", "attn_tp", "attn_cp", "moe_ep", "moe_tp", "moe_dp")
    held = {name: getattr(state, f"get_{name}_group")().ranks for name in names}
    summed = float(state.get_tp_group().all_reduce(torch.ones(1) * (RANK + 1)).item())
    ranks = {name: getattr(get_parallel(), name) for name in ("tp_rank", "pp_rank", "tp_size")}
    gate("held").read(1)
    world.close()
    again = distwatch.initialize("gloo", framework="sglang", tensor=4)
    say(held=held, summed=summed, ranks=ranks, again=again.groups["tp"])
    gate("end").read(1)


def by_itself() -> None:
    """As a program does it that knows SGLang and not distwatch."""
    import torch.distributed as dist
    from sglang.srt.distributed import parallel_state as state
    from sglang.srt.runtime_context import get_parallel

    dist.init_process_group("gloo")
    state.init_distributed_environment(dist.get_world_size(), RANK, local_rank=RANK, backend="gloo")
    sizes = {"tp_size": 2, "pp_size": 1, "moe_ep_size": 1, "attn_dp_size": 1, "attn_cp_size": 1}
    more = {"moe_dp_size": 1, "attn_dcp_size": 1, "shared_experts_tp_size": None}
    with get_parallel().override(**sizes, **more):
        state.initialize_model_parallel(backend="gloo")
    gate("end").read(1)


def too_early() -> None:
    """What the MeZO trainer met."""
    from sglang.srt.distributed.parallel_state import get_world_group

    get_world_group()


def weight_sync() -> None:
    """Its own group for weights; the last rank is elsewhere."""
    from datetime import timedelta

    import torch.distributed as dist
    from sglang.srt.utils.common import init_custom_process_group

    dist.init_process_group("gloo")
    if RANK == 2:
        step("elsewhere")
        with open(silent_pipe("data")) as data:
            data.read()
    init_custom_process_group(
        backend="gloo",
        init_method=f"tcp://127.0.0.1:{os.environ['TEST_SYNC_PORT']}",
        timeout=timedelta(seconds=300),
        world_size=3,
        rank=RANK,
        group_name="weight_update",
    )


def runner_after_the_groups() -> None:
    """As docs/frameworks.md has it, on two ranks; then with other sizes."""
    folder = gpt2("gpt2")  # later, rank 0 alone would write it
    distwatch.initialize("gloo", framework="sglang", tensor=2)
    runner = distwatch.build_sglang_runner(folder, tensor=2, batch_size=2, dtype="float32")
    try:
        distwatch.build_sglang_runner(folder, pipeline=2, dtype="float32")
    except distwatch.AlreadyInitialized as error:
        say(runs=runner.max_running_requests, refused=[error.held, error.asked])
    gate("end").read(1)


SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 128,
    "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
MORE = {
    "OPTForCausalLM": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "LlamaForCausalLM": {"intermediate_size": 128, "num_key_value_heads": 2},
    "RobertaForMaskedLM": {"intermediate_size": 128},
    "XLMRobertaModel": {"intermediate_size": 128},
}


def tiny(name: str, architecture: str = "GPT2LMHeadModel") -> tuple[str, Any]:
    """The folder of a tiny model of this rank's own, and transformers' own model in it."""
    import torch
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(**SIZES, **MORE.get(architecture, {})))
    folder = os.path.join(os.environ["TEST_WORK"], f"{name}-{RANK}")
    model.save_pretrained(folder)
    return folder, model.eval()


def gpt2(name: str) -> str:
    return tiny(name)[0]


def logits_of(runner: Any, inputs: list[list[int]]) -> Any:
    """The next token's, of each sequence."""
    from sglang.benchmark.one_batch import extend, prepare_synthetic_inputs_for_latency_test

    requests = prepare_synthetic_inputs_for_latency_test(len(inputs), len(inputs[0]), inputs)
    _, found, _ = extend(requests, runner)
    runner.req_to_token_pool.clear()
    runner.token_to_kv_pool_allocator.clear()
    return found.clone()


def architectures() -> None:
    """Each to a forward at tensor 2, beside transformers' own; those without logits are refused."""
    import torch

    inputs = torch.randint(3, 100, (4, 8), generator=torch.Generator().manual_seed(1))
    found: dict[str, Any] = {}
    # Beside others, rank 0 alone would write them.
    models = {name: tiny(name, name) for name in ("GPT2LMHeadModel", *MORE)}
    for name in ("GPT2LMHeadModel", "OPTForCausalLM", "LlamaForCausalLM"):
        folder, model = models[name]
        runner = distwatch.build_sglang_runner(folder, tensor=2, batch_size=2, dtype="float32")
        with torch.no_grad():
            expected = model(inputs).logits[:, -1]
        found[name] = float((logits_of(runner, inputs.tolist()) - expected).abs().max())
        assert float(expected.abs().max()) > 0.1
    for name in ("RobertaForMaskedLM", "XLMRobertaModel"):
        try:
            distwatch.build_sglang_runner(models[name][0], tensor=2, dtype="float32")
        except distwatch.PlanInvalid as error:
            found[name] = str(error)
    say(**found)
    gate("end").read(1)


def replicas() -> None:
    """Two replicas of tensor 2: each has its own half of the batch, and all share one number a step."""
    import torch
    import torch.distributed as dist
    from sglang.srt.distributed import parallel_state as state

    runner = distwatch.build_sglang_runner(
        gpt2("gpt2"), tensor=2, replicas=2, batch_size=2, dtype="float32"
    )
    mine = torch.randint(3, 100, (2, 4, 8), generator=torch.Generator().manual_seed(1))[RANK // 2]

    def shift(scale: float) -> None:
        # A direction of the whole model, of which each rank moves its part.
        for number, parameter in enumerate(runner.model.parameters()):
            chosen = torch.Generator().manual_seed(100 * number + RANK % 2)
            parameter.data.add_(torch.randn(parameter.shape, generator=chosen), alpha=scale)

    def loss() -> float:
        return float(logits_of(runner, mine.tolist()).logsumexp(-1).mean())

    shift(0.01)
    plus = loss()
    shift(-0.02)
    minus = loss()
    shift(0.01)
    slope = torch.tensor([(plus - minus) / 0.02])
    own = slope.item()
    dist.all_reduce(slope)
    shift(-0.001 * slope.item() / dist.get_world_size())
    names = ("world", "tp", "pp")
    held = {name: getattr(state, f"get_{name}_group")().ranks for name in names}
    say(**held, own=own, mean=slope.item() / 4, after=loss())
    gate("end").read(1)


STALLS = {
    "ServerArgs": ("sglang.srt.configs.model_config", "get_config"),
    "ModelConfig": ("sglang.srt.configs.model_config", "ModelConfig.from_server_args"),
    "architecture": ("sglang.srt.models.registry", "_ModelRegistry.resolve_model_cls"),
    "model": ("sglang.srt.model_loader.loader", "check_stage_producers"),
    "weights": ("sglang.srt.model_executor.model_runner", "build_load_config"),
    "KV cache": ("sglang.srt.model_executor.model_runner", "KVCacheConfigurator"),
    "memory pool": ("sglang.srt.mem_cache.kv_cache_configurator", "KVCacheConfigurator.configure"),
    "attention backend": ("sglang.srt.model_executor.model_runner", "configure_aux_hidden_state_capture"),
    "CUDA graphs": ("sglang.srt.model_executor.model_runner", "capture_cuda_graphs"),
}  # fmt: skip
"""By phase: what SGLang's own code calls in it, by module and name. ServerArgs read it when published."""


def stalls() -> None:
    """Each part stalls in turn in a read that never returns, and is ended by its deadline."""
    import importlib

    def stall() -> None:
        with open(silent_pipe("weights")) as pipe:
            pipe.read()

    folder, found = gpt2("gpt2"), {}
    distwatch.build_sglang_runner(folder, dtype="float32")  # imports whatever there is to import
    for phase, (place, name) in STALLS.items():
        owner: Any = importlib.import_module(place)
        *kind, attribute = name.split(".")
        owner = getattr(owner, kind[0]) if kind else owner
        kept = getattr(owner, attribute)

        def replaced(*args: Any, phase: str = phase, kept: Any = kept, **kwargs: Any) -> Any:
            # ServerArgs ask for the model's configuration, too.
            if phase == "ModelConfig" and sys._getframe(1).f_code.co_name != "_configured":
                return kept(*args, **kwargs)
            return stall()

        setattr(owner, attribute, replaced)
        try:
            distwatch.build_sglang_runner(folder, dtype="float32", deadlines={"load": 8})
        except distwatch.InitTimeout as error:
            found[phase] = [str(error), error.finding.summary if error.finding else ""]
        finally:
            setattr(owner, attribute, kept)
    say(**found)
    gate("end").read(1)


def mezo() -> None:
    """A ModelRunner outside a server; both sides of a perturbation, and back again."""
    import torch

    from distwatch.integrations.sglang_runner import missing_state

    folder = gpt2("gpt2")
    before = missing_state()
    runner = distwatch.build_sglang_runner(folder, batch_size=2, dtype="float32")
    inputs = torch.randint(0, 100, (4, 8)).tolist()

    def logits() -> Any:
        return logits_of(runner, inputs)

    def shift(scale: float) -> None:
        torch.manual_seed(1)
        for parameter in runner.model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=scale)

    base = logits()
    shift(0.01)
    plus = logits()
    shift(-0.02)
    minus = logits()
    shift(0.01)
    back = logits()
    say(
        before=before,
        after=missing_state(),
        shape=list(base.shape),
        sides=[float((side - base).abs().max()) for side in (plus, minus, back)],
        runs=runner.max_running_requests,
    )
    gate("end").read(1)


def runner_stalls() -> None:
    """Two ranks; the weights of the second never come."""
    from sglang.srt.model_executor import model_runner

    def stall(**_: Any) -> None:
        step("stalled")
        with open(silent_pipe("weights")) as pipe:
            pipe.read()

    if RANK == 1:
        model_runner.build_load_config = stall
    try:
        distwatch.build_sglang_runner(
            gpt2("gpt2"), tensor=2, dtype="float32", deadlines={"runner": 30}
        )
    except distwatch.InitTimeout as error:
        say(message=str(error), missing=error.missing, places=error.places)
    if RANK == 0:  # which waits in gloo until the other ends
        gate("end").read(1)


globals()[sys.argv[1]]()
