"""Forms a world as the test's environment says, directly or through distwatch.initialize, and then
does what the argument names. What `initialize` raises is written down for the test."""

import distwatch.auto  # noqa: I001
import json
import os
import sys
from datetime import timedelta

import distwatch
import torch
import torch.distributed as dist
from outcome import write_down
from steps import RANK, gate, silent_pipe, step
from torch.distributed.device_mesh import init_device_mesh

PLAIN = str(RANK) in os.environ.get("TEST_PLAIN", "").split(",")
HOW = "torch" if PLAIN else os.environ.get("TEST_HOW", "torch")
BACKEND = os.environ.get("TEST_BACKEND", "gloo")
TIMEOUT_S = float(os.environ.get("TEST_TIMEOUT", "60"))
STAY = silent_pipe("stay")
CHOICE = os.environ.get("TEST_CHOICE", "")


def form() -> None:
    step("init")
    if HOW == "torch":
        dist.init_process_group(BACKEND, timeout=timedelta(seconds=TIMEOUT_S))
    else:
        arguments = json.loads(os.environ.get("TEST_ARGUMENTS", "{}"))
        distwatch.initialize(BACKEND, timeout=TIMEOUT_S, **arguments)
    step("formed")


def reduce() -> None:
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == dist.get_world_size()
    step("reduced")


def form_twice() -> None:
    form()
    form()


def form_again_but_for_one() -> None:
    form()
    dist.destroy_process_group()
    if CHOICE != "stay":
        os.environ["MASTER_PORT"] = os.environ["TEST_SECOND_PORT"]
        form()
    gate("end").read(1)


def use_first() -> None:
    if CHOICE == "first":
        dist.all_reduce(torch.ones(1))
    form()


def build_group() -> None:
    """A group of the ranks that this one was told."""
    form()
    step("groups")
    for members in json.loads(CHOICE):
        group = dist.new_group(members)
    dist.all_reduce(torch.ones(1), group=group)
    step("reduced")
    gate("end").read(1)


def build_mesh() -> None:
    form()
    step("mesh")
    mesh = init_device_mesh("cpu", tuple(json.loads(CHOICE)), mesh_dim_names=("dp", "tp"))
    dist.all_reduce(torch.ones(1), group=mesh.get_group("tp"))
    step("reduced")
    gate("end").read(1)


def wait_at_the_end() -> None:
    form()
    reduce()
    gate("end").read(1)


def stay_for_ever() -> None:
    form()
    with open(STAY) as pipe:
        pipe.read()


def form_and_reduce() -> None:
    form()
    reduce()
    dist.destroy_process_group()


def reduce_but_for_one() -> None:
    form()
    if CHOICE == "late":
        gate("door").read(1)
    reduce()


def come_when_let_in() -> None:
    if CHOICE == "late":
        gate("door").read(1)
    form_and_reduce()


def die_on_the_way() -> None:
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and RANK == 1
    if CHOICE == "dies" or (CHOICE == "dies once" and first):
        raise LookupError("there is no data set of that name")
    form()


try:
    globals()[sys.argv[1]]()
except (distwatch.DistwatchError, TimeoutError) as error:
    write_down(error)
    raise
