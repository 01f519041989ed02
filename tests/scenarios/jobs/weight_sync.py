"""Ranks of a job that also meet in a world of its own, as weight sync between trainer and engines."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from steps import RANK, gate, silent_pipe, step

PORT = int(os.environ["TEST_SYNC_PORT"])
MEMBER: dict[str, Any] = json.loads(os.environ.get("TEST_MEMBER", "{}"))
NAME = "weight_update"


def sglang() -> Any:
    """As SGLang's engines and their trainer do it."""
    from sglang.srt.utils.common import init_custom_process_group

    return init_custom_process_group(
        "gloo",
        f"tcp://127.0.0.1:{PORT}",
        timedelta(seconds=300),
        MEMBER.get("size", 3),
        MEMBER.get("rank", RANK),
        NAME,
    )


def store() -> Any:
    """As Twinkle does it: a store, and a backend's class over it."""
    size, rank = MEMBER.get("size", 3), MEMBER.get("rank", RANK)
    met = dist.TCPStore("127.0.0.1", PORT, size, rank == 0, timedelta(seconds=300))
    group = dist.ProcessGroupGloo(met, rank, size, timedelta(seconds=300))
    store.kept = met  # type: ignore[attr-defined]
    return group


def add_up(group: Any) -> float:
    one = torch.ones(1)
    group.allreduce([one]).wait()
    return float(one.item())


dist.init_process_group("gloo")
join = {"sglang": sglang, "store": store}[sys.argv[1]]
if MEMBER.get("again"):
    group = join()
    step(f"met {add_up(group):.0f}")
    dist.destroy_process_group(group)
    PORT += 1
if MEMBER.get("stays"):
    step("elsewhere")
    with open(silent_pipe("data")) as data:
        data.read()
if MEMBER.get("ends"):
    raise RuntimeError("the engine broke")
PORT += MEMBER.get("port_off", 0)
step("joins")
group = join()
if MEMBER.get("skips"):
    step("elsewhere")
    with open(silent_pipe("data")) as data:
        data.read()
step(f"synced {add_up(group):.0f}")
gate("end").read(1)
