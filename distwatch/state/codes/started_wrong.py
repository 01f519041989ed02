"""What a process was started with, or called wrongly: the process ends, or keeps others waiting."""

from __future__ import annotations

from distwatch.state.codes.code import Code

STARTED_WRONG = (
    Code(
        "rendezvous.env_missing",
        "The launcher's variables (RANK, WORLD_SIZE, MASTER_ADDR, …) are not set in a process.",
        "Start the script with torchrun, which sets them, or set them yourself for every process.",
        own_call=True,
    ),
    Code(
        "rendezvous.backend_unavailable",
        "A process cannot use its backend: no GPU for nccl, no torch_xla for xla, a shared GPU.",
        "Install what the backend needs, give each rank its own GPU, or use backend='gloo'.",
        own_call=True,
    ),
    Code(
        "rendezvous.interface_invalid",
        "GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names an interface that the host does not have.",
        "Set it to an interface of that host, or unset it.",
        own_call=True,
    ),
    Code(
        "rendezvous.rank_out_of_range",
        "A process has a rank that is not below its world size.",
        "Correct RANK or WORLD_SIZE of that process: ranks go from 0 to WORLD_SIZE - 1.",
        own_call=True,
        claims_rank=True,
        persists=True,
    ),
    Code(
        "rendezvous.rank_duplicated",
        "Two processes claim the same rank of one world.",
        "Start each rank once: check RANK (or --node-rank) of these processes, and that no process of an "
        "earlier run is left over.",
        claims_rank=True,
        persists=True,
    ),
    Code(
        "rendezvous.world_size_disagrees",
        "The ranks expect different world sizes.",
        "Start every rank with the same WORLD_SIZE (torchrun: the same --nnodes and --nproc-per-node).",
        persists=True,
    ),
    Code(
        "rendezvous.endpoint_disagrees",
        "The ranks use different MASTER_ADDR:MASTER_PORT, or form several small worlds.",
        "Set the same MASTER_ADDR and MASTER_PORT for every rank; localhost is a different host on each node.",
        persists=True,
        partial_view=True,
        explains_store=("unmet",),
    ),
    Code(
        "rendezvous.port_taken",
        "Another program listens at MASTER_ADDR:MASTER_PORT.",
        "Choose another MASTER_PORT, or end the program that listens there (ss -ltnp).",
        persists=True,
        partial_view=True,
        explains_store=("unmet", "unhosted"),
    ),
    Code(
        "rendezvous.store_lost",
        "The process that hosted the TCPStore left during the initialization.",
        "Look at what ended or stopped the process that hosted the store; the others only lost their store.",
        partial_view=True,
        explains_store=("unmet", "lost"),
    ),
    Code(
        "group.not_initialized",
        "A process used a group, or a framework's parallel state, before it existed or after it was destroyed.",
        "Call init_process_group or distwatch.initialize() before anything that needs a group is built.",
        own_call=True,
    ),
    Code(
        "group.already_initialized",
        "A process initialized its world or a framework's parallel state, a second time.",
        "Initialize once: guard the call with torch.distributed.is_initialized(), or destroy the first "
        "world before the second call. distwatch.initialize with the same plan is a no-op.",
        own_call=True,
    ),
    Code(
        "group.size_invalid",
        "The parallel sizes do not fit the world, the model or each other.",
        "The product of all sizes must be the world size.",
        own_call=True,
    ),
    Code(
        "group.not_member",
        "A process used a group without being a member.",
        "Use a group that holds [that rank|those ranks]: new_group returns no usable group to non-members.",
        own_call=True,
    ),
    Code(
        "group.destroyed",
        "A rank destroyed a group that others still use.",
        "Destroy groups only after the last collective of every member.",
    ),
)
