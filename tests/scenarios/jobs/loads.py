"""Loads of a checkpoint that stop, each in its way. Usage: loads.py CASE CHECKPOINT

The checkpoint comes from the test: a folder, a folder on a disk that stalls, or the name of a
model on a hub of the test's.
"""

import distwatch.auto  # noqa: F401, I001
import errno
import os
import sys

import torch.distributed as dist
from steps import RANK, silent_pipe, step

CASE, CHECKPOINT = sys.argv[1:3]
WORLD = int(os.environ["WORLD_SIZE"])


def load(**kwargs: object) -> object:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, **kwargs)


def load_on_one_rank() -> None:
    """The others wait for it in a barrier."""
    dist.init_process_group("gloo")
    step("loading")
    if RANK == 1:
        load()
    dist.barrier()


def load_without_flock() -> None:
    """As on a file system that has no flock: the lock file itself is the lock then."""
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    fcntl.flock = refuse
    load()


def read_back_from_a_stalled_disk() -> None:
    """accelerate reads back what it has written to TMPDIR; from the third file on it stalls.

    The disk is a double: a pipe stands in for the file whose read never returns.
    """
    import accelerate.utils.modeling as modeling
    from accelerate import init_empty_weights, load_checkpoint_and_dispatch
    from transformers import AutoConfig, AutoModelForCausalLM

    read, seen = modeling.load_offloaded_weight, []

    def stall(file: str, info: dict) -> object:
        seen.append(file)
        if len(seen) == 3:
            with open(silent_pipe("tmpdir"), "rb") as pipe:
                pipe.read(1)
        return read(file, info)

    modeling.load_offloaded_weight = stall
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(CHECKPOINT))
    load_checkpoint_and_dispatch(model, CHECKPOINT, device_map={"": "cpu"}, offload_state_dict=True)


def load_in_different_places() -> None:
    """Rank 1 has little memory for it: most of its model stays on disk."""
    dist.init_process_group("gloo")
    memory = {"cpu": "400KB" if RANK == 1 else "1GB"}
    load(device_map="auto", max_memory=memory, offload_folder=os.environ["TEST_WORK"])


def load_without_all_parameters() -> None:
    """What the checkpoint lacks stays on meta where accelerate loads it."""
    from accelerate import init_empty_weights, load_checkpoint_in_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(CHECKPOINT)
    config.num_hidden_layers += 1
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    load_checkpoint_in_model(model, CHECKPOINT, device_map={"": "cpu"})


if CASE == "on_one_rank":
    load_on_one_rank()
elif CASE == "on_all":
    step("loading")
    load()
elif CASE == "without_flock":
    step("loading")
    load_without_flock()
elif CASE == "tensor_parallel":
    step("loading")
    load(tp_plan="auto")
elif CASE == "offload_reread":
    step("loading")
    read_back_from_a_stalled_disk()
elif CASE == "different_places":
    load_in_different_places()
elif CASE == "missing_parameters":
    load_without_all_parameters()
step("loaded")
if CASE in ("different_places", "missing_parameters"):
    with open(silent_pipe(f"end-{RANK}")) as pipe:  # until the test ends it
        pipe.read()
