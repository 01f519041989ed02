"""Megatron-core's parallel state, called wrongly in the way that the argument names."""

import distwatch.auto  # noqa: I001
import sys

import distwatch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from steps import RANK, gate, step


def get_too_early() -> None:
    mpu.get_tensor_model_parallel_group()


def get_after_destroying() -> None:
    mpu.initialize_model_parallel(tensor_model_parallel_size=2)
    mpu.destroy_model_parallel()
    mpu.get_tensor_model_parallel_world_size()
    mpu.get_tensor_model_parallel_group()


def build_model() -> None:
    mpu.initialize_model_parallel(tensor_model_parallel_size=2)


def initialize_twice() -> None:
    build_model()
    mpu.initialize_model_parallel(pipeline_model_parallel_size=2)


def initialize_again_by_distwatch() -> None:
    build_model()
    assert distwatch.initialize("gloo", "megatron", tensor=2).groups["tp"] == (0, 1)
    distwatch.initialize("gloo", "megatron", pipeline=2)


def divide_badly() -> None:
    mpu.initialize_model_parallel(tensor_model_parallel_size=3)


def differ_in_sizes() -> None:
    odd = RANK == 3
    mpu.initialize_model_parallel(
        tensor_model_parallel_size=4 if odd else 2,
        pipeline_model_parallel_size=1 if odd else 2,
    )
    dist.barrier()


dist.init_process_group("gloo")
step("formed")
globals()[sys.argv[1]]()
gate("end").read(1)
