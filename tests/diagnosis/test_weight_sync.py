"""Which part of a weight sync a process is in, by the stacks of the frameworks that do it."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.facts.training import phase_of
from distwatch.state import events as ev
from tests.diagnosis.recorded import RecordedJob, frame

TORCH = "/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"
SGLANG = "/venv/lib/python3.11/site-packages/sglang/srt/model_executor/model_runner.py"
LLAMA = "/venv/lib/python3.11/site-packages/sglang/srt/models/llama.py"
RLINF = "/job/rlinf/workers/actor/megatron_actor_worker.py"
RESHARD = "/job/rlinf/utils/resharding/mcore_weight_reshard.py"
VERL = "/job/verl/workers/rollout/sglang_rollout/sglang_rollout.py"
SYNC = ("sync_model_to_rollout", RLINF)

STACKS = {
    "weight sync, gather (training)": [
        SYNC, ("gather_and_reshard_model", RESHARD), ("all_gather", TORCH),
    ],
    "weight sync, convert (training)": [SYNC, ("convert", "/job/rlinf/utils/convertor.py")],
    "weight sync, broadcast (training)": [SYNC, ("send", "/job/rlinf/scheduler/worker.py")],
    "weight sync, broadcast (engine)": [
        ("update_weights_from_distributed", SGLANG), ("broadcast", TORCH),
    ],
    "weight sync, load (engine)": [
        ("update_weights_from_distributed", SGLANG), ("load_weights", LLAMA), ("weight_loader", LLAMA),
    ],
    "weight sync, convert": [
        ("update_weights", "/job/verl/utils.py"), ("convert_weight_keys", "/job/verl/model.py"),
    ],
    "weight sync, gather (training)#verl": [
        ("rollout_mode", "/job/verl/workers/fsdp_workers.py"), ("update_weights", VERL),
        ("full_tensor", "/venv/lib/python3.11/site-packages/torch/distributed/tensor/_api.py"),
    ],
    # A model that is loaded at the start is none, and neither is a checkpoint's gather.
    "": [("load_model", SGLANG), ("load_weights", LLAMA)],
    "save": [("save_checkpoint", "/job/train.py"), ("all_gather", TORCH)],
}  # fmt: skip


@pytest.mark.parametrize(("told", "calls"), STACKS.items())
def test_the_part_is_the_innermost_function_that_says_so(
    told: str, calls: list[tuple[str, str]]
) -> None:
    job = RecordedJob(1)
    job.initialize(0)
    frames = tuple(frame(*call) for call in [("main", "/job/main.py"), *calls])
    job.stack(0, 5.0, frames)
    (process,) = job.state.processes.values()
    assert isinstance(process.outside.stack, ev.StackTaken)
    assert phase_of(process) == told.partition("#")[0]
