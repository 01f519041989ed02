"""A double of SGLang's groups, shared by its two interfaces. Written for these tests from what the
real 0.5.3 to 0.5.23 do; their own code is used by `make test-sglang`."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


class GroupCoordinator:
    """One group of torch for tensors and one for the CPU, of which every rank builds all."""

    def __init__(self, group_ranks: list[list[int]], backend: str, group_name: str) -> None:
        self.unique_name = f"{group_name}:0"
        for ranks in group_ranks:
            device = dist.new_group(ranks, backend=backend, group_desc=f"{group_name}:device")
            cpu = dist.new_group(ranks, backend="gloo", group_desc=f"{group_name}:cpu")
            if dist.get_rank() in ranks:
                self.ranks, self.device_group, self.cpu_group = ranks, device, cpu
        self.world_size = len(self.ranks)
        self.rank_in_group = self.ranks.index(dist.get_rank())

    def all_reduce(self, tensor: Any) -> Any:
        """In place."""
        dist.all_reduce(tensor, group=self.device_group)
        return tensor

    def destroy(self) -> None:
        """Both groups."""
        for group in (self.device_group, self.cpu_group):
            dist.destroy_process_group(group)


def build_groups(
    module: dict[str, Any], tp: int, pp: int, ep: int, attn_dp: int, attn_cp: int, moe_dp: int, backend: str
) -> dict[str, GroupCoordinator]:  # fmt: skip
    """By the name of SGLang's global; groups of the same ranks as tensor's are tensor's.

    Args:
        module: whose torch and GroupCoordinator are used, as its own code does.
    """
    coordinator = module["GroupCoordinator"]
    world = module["torch"].distributed.get_world_size()
    if world != tp * pp:
        raise RuntimeError(
            f"world_size ({world}) is not equal to tensor_model_parallel_size ({tp}) x "
            f"pipeline_model_parallel_size ({pp})"
        )
    starts = range(0, world, tp)
    made: dict[str, GroupCoordinator] = {}

    def make(name: str, width: int, stride: int, short: str) -> None:
        if width == tp:
            made[name] = made["_TP"]
            return
        block = width * stride
        groups = [
            list(range(start + offset + place, start + offset + block + place, stride))
            for start in starts
            for offset in range(0, tp, block)
            for place in range(stride)
        ]
        made[name] = coordinator(groups, backend, short)

    made["_TP"] = coordinator([list(range(s, s + tp)) for s in starts], backend, "tp")
    attn_tp, moe_tp = tp // attn_cp // attn_dp, tp // ep // moe_dp
    make("_ATTN_CP", attn_cp, attn_tp, "attn_cp")
    make("_ATTN_TP", attn_tp, 1, "attention_tp")
    make("_MOE_EP", ep, moe_tp, "moe_ep")
    make("_MOE_TP", moe_tp, 1, "moe_tp")
    made["_PP"] = coordinator([list(range(n, world, tp)) for n in range(tp)], backend, "pp")
    return made


def destroy_groups(module: dict[str, Any], names: tuple[str, ...]) -> None:
    """Each coordinator once, and the globals set back."""
    held = {id(module[name]): module[name] for name in names if module.get(name) is not None}
    for coordinator in held.values():
        coordinator.destroy()
    for name in names:
        module[name] = None
