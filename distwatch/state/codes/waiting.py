"""Ranks that are missing, late or wait in a circle, as the last explanations; then mere warnings."""

from __future__ import annotations

from distwatch.state.advice import SAME_ORDER
from distwatch.state.codes.code import Code

WAITING = (
    Code(
        "collective.device_behind",
        "A rank's CPU has enqueued a collective, but its device has completed less than its peers' devices.",
        "Look at what that device runs, and whether it waits for work on its own stream.",
        native_stack=True,
    ),
    Code(
        "rendezvous.rank_missing",
        "A rank is alive but has not reached the initialization in which others wait.",
        "Look at what [that rank does|those ranks do] before init_process_group.",
        partial_view=True,
        native_stack=True,
        needs_standstill=True,
    ),
    Code(
        "p2p.unmatched",
        "A send or recv has no matching call on its peer.",
        "Every send needs one recv on the other side, with the same group and tag, and in the same order: "
        "compare that call with what the peer does (a branch that only one side takes, one "
        "micro-batch fewer, or work that takes too long).",
        native_stack=True,
        needs_standstill=True,
    ),
    Code(
        "p2p.cycle",
        "Sends and recvs wait for each other in a circle.",
        "Break the circle: let one side receive before it sends, or post both at once with "
        "batch_isend_irecv or isend and irecv, and wait after that.",
    ),
    Code(
        "collective.cycle",
        "Groups are used in a circle: each rank waits in one for a rank that waits in another.",
        SAME_ORDER,
    ),
    Code(
        "collective.rank_missing",
        "A rank never entered a collective in which others wait.",
        "Find out why [that rank is|those ranks are] elsewhere (`distwatch stacks` shows where): data loading, "
        "a branch that only some ranks take, or work between two collectives that takes too long.",
        native_stack=True,
        needs_standstill=True,
    ),
    Code(
        "collective.straggler",
        "A rank is late for a collective, not stuck.",
        "Nothing yet, if this step is expected to be uneven (a first compilation, a checkpoint); otherwise make "
        "that work shorter or raise the timeout.",
        lateness=True,
    ),
    # What follows hangs no job by itself: the worse consequence comes first.
    Code(
        "load.memory_exceeds",
        "The ranks of a host load more than its memory, or its cgroup's limit, can hold.",
        "Load on one rank and broadcast, load onto the device (device_map={'': local_rank}) or shard while "
        "loading (FSDP with meta initialization, tp_plan), or ask for more memory.",
        is_setup=True,
    ),
    Code(
        "load.meta_leaked",
        "Parameters of a loaded model are on meta, and nothing will load them.",
        "The first forward through them fails. The checkpoint lacks their names, or a hook that "
        "should load them was removed: load again with output_loading_info=True and look at missing_keys.",
        is_setup=True,
    ),
    Code(
        "load.device_map_conflict",
        "Ranks share a device that each should have alone, or place one checkpoint differently.",
        "Give each rank its own device: device_map={'': local_rank}; or leave device_map out and let DDP, "
        "FSDP or tp_plan place the model.",
        is_setup=True,
    ),
    Code(
        "load.offloaded",
        "Parameters of a loaded model are in RAM or on disk, where later code cannot use them.",
        "DDP, FSDP, optimizers and state_dict() see meta tensors there: load without device_map='auto' or "
        "raise max_memory, and shard the model instead (FSDP, tp_plan) where it does not fit.",
        is_setup=True,
    ),
    Code(
        "collective.timeout_disagrees",
        "The members of a group have different timeouts.",
        "Pass the same timeout to new_group (or init_process_group) on every rank.",
        is_setup=True,
    ),
    Code(
        "collective.site_differs",
        "The ranks make the same call from different lines: they may reduce the wrong data.",
        "Compare the two call sites: often a branch made the ranks take different paths.",
        lies_in_code=True,
    ),
    Code(
        "collective.gradient_skipped",
        "A pipeline stage skips its backward step because its output needs no gradient.",
        "With adapters on a frozen model (PEFT, LoRA) the input of the first adapter must need a gradient: "
        "call model.enable_input_require_grads(), or check that this stage holds adapters and that its "
        "forward pass does not run under no_grad. A stage that is frozen on purpose may stay frozen.",
        is_setup=True,
    ),
)
