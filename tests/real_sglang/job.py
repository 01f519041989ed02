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
    folder = gpt2(f"gpt2-{RANK}")  # later, rank 0 alone would write it
    distwatch.initialize("gloo", framework="sglang", tensor=2)
    runner = distwatch.build_sglang_runner(folder, tensor=2, batch_size=2, dtype="float32")
    try:
        distwatch.build_sglang_runner(folder, pipeline=2, dtype="float32")
    except distwatch.AlreadyInitialized as error:
        say(runs=runner.max_running_requests, refused=[error.held, error.asked])
    gate("end").read(1)


def gpt2(name: str) -> str:
    """The folder of a tiny one. Positions are learned: rotary ones need kernels that no package has."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=64, n_layer=2, n_head=4, vocab_size=128, n_positions=256, bos_token_id=0, eos_token_id=1
    )  # fmt: skip
    folder = os.path.join(os.environ["TEST_WORK"], name)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def mezo() -> None:
    """A ModelRunner outside a server; both sides of a perturbation, and back again."""
    import torch
    from sglang.benchmark.one_batch import extend, prepare_synthetic_inputs_for_latency_test

    from distwatch.integrations.sglang_runner import missing_state

    folder = gpt2("gpt2")
    before = missing_state()
    runner = distwatch.build_sglang_runner(folder, batch_size=2, dtype="float32")
    inputs = torch.randint(0, 100, (4, 8)).tolist()

    def logits() -> Any:
        _, found, _ = extend(prepare_synthetic_inputs_for_latency_test(4, 8, inputs), runner)
        runner.req_to_token_pool.clear()
        runner.token_to_kv_pool_allocator.clear()
        return found.clone()

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
    distwatch.build_sglang_runner(
        gpt2(f"gpt2-{RANK}"), tensor=2, dtype="float32", deadlines={"runner": 20}
    )


globals()[sys.argv[1]]()
