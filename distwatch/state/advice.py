"""Advice that several rooms give: one fix has the same words in a rank, before a launch and in a verdict."""

from __future__ import annotations

UNRESOLVED = "Correct MASTER_ADDR, or make the name resolve on that host (getent hosts NAME)."
NO_ANSWER = (
    "Check that the host is up, and that no firewall drops this port between the two hosts "
    "(nc -vz HOST PORT)."
)
RANK_0_HOST = "MASTER_ADDR must be an address of the host that rank 0 runs on."
NO_GPU = (
    "Check nvidia-smi and CUDA_VISIBLE_DEVICES (containers: --gpus all), or use backend='gloo'."
)
ONE_RANK_PER_GPU = (
    "Start at most one rank per GPU (torchrun --nproc-per-node), make more GPUs visible, and select each by "
    "LOCAL_RANK, not RANK."
)
OWN_GPU = (
    "Give each rank a GPU of its own: torch.cuda.set_device(LOCAL_RANK) before init_process_group, and name "
    "no GPU twice in CUDA_VISIBLE_DEVICES."
)
SAME_ORDER = (
    "Let every rank call the collectives of its groups in the same order: compare the call sites."
)
