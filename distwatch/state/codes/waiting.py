"""Who is missing, late or waits in a circle: the last resort of the order; then mere warnings."""

from __future__ import annotations

from distwatch.state.codes.code import Code

WAITING = (
    Code(
        "collective.device_behind",
        "A rank's CPU has enqueued a collective, and its device has completed less than its peers' have.",
        "Look at what that device runs, and whether it waits for work of its own stream.",
        native_stack=True,
    ),
    Code(
        "rendezvous.rank_missing",
        "A rank is alive, and has not come to the initialization in which others wait.",
        "Look at what that rank does before init_process_group.",
        partial_view=True,
        native_stack=True,
    ),
    Code(
        "p2p.unmatched",
        "A send or recv has no matching call of its peer.",
        "Every send needs one recv on the other side, with the same group and tag and in the same order: "
        "compare the call below with what the peer does (a branch that only one side takes, one "
        "micro-batch fewer, or work that takes too long).",
        native_stack=True,
    ),
    Code(
        "p2p.cycle",
        "Sends and recvs wait for each other in a circle.",
        "Break the circle: let one side receive before it sends, or post both at once by "
        "batch_isend_irecv or isend and irecv, and wait afterwards.",
    ),
    Code(
        "collective.cycle",
        "Groups are used in a circle: each rank waits in one for a rank that waits in another.",
        "Let every rank call the collectives of its groups in the same order: compare the call sites below.",
    ),
    Code(
        "collective.rank_missing",
        "A rank never entered a collective in which others wait.",
        "Find out why that rank is elsewhere (its stack is below): data loading, a branch that only some "
        "ranks take, or work between two collectives that takes too long.",
        native_stack=True,
    ),
    Code(
        "collective.straggler",
        "A rank is late for a collective, not stuck.",
        "Nothing yet, if this step is known to be uneven (a first compilation, a checkpoint); else make "
        "that work shorter or raise the timeout.",
    ),
    # What follows hangs nobody by itself: the worse consequence first.
    Code(
        "load.memory_exceeds",
        "The ranks of a host load more into its memory than it has, or than its cgroup allows.",
        "Load on one rank and broadcast, load onto the device (device_map={'': local_rank}) or shard while "
        "loading (FSDP with meta initialization, tp_plan), or ask for more memory.",
    ),
    Code(
        "load.meta_leaked",
        "Parameters of a loaded model are on meta, and nothing will load them.",
        "The first forward through them fails. Their names are missing in the checkpoint, or a hook that "
        "was to fetch them was removed: load again with output_loading_info=True and look at missing_keys.",
    ),
    Code(
        "load.device_map_conflict",
        "Ranks share a device that each should have alone, or hold one checkpoint in different ways.",
        "Give each rank its own device: device_map={'': local_rank}; or leave device_map out and let DDP, "
        "FSDP or tp_plan place the model.",
    ),
    Code(
        "load.offloaded",
        "Parameters of a loaded model lie in RAM or on disk, and later code will trip on that.",
        "DDP, FSDP, optimizers and state_dict() see meta tensors there: load without device_map='auto' or "
        "raise max_memory, and shard the model instead (FSDP, tp_plan) where it does not fit.",
    ),
    Code(
        "collective.timeout_disagrees",
        "The members of a group have different timeouts.",
        "Pass the same timeout to new_group (or init_process_group) on every rank.",
    ),
    Code(
        "collective.site_differs",
        "The ranks make the same call from different lines: they may reduce other data than meant.",
        "Compare the two call sites below: the same call from other lines is often a branch that went apart.",
    ),
    Code(
        "collective.gradient_skipped",
        "A pipeline stage leaves its backward step out, since its output needs no gradient.",
        "With adapters on a frozen model (PEFT, LoRA) the input of the first adapter must need a gradient: "
        "call model.enable_input_require_grads(), or check that this stage holds adapters and that its "
        "forward pass does not run under no_grad. A stage that is frozen on purpose may stay so.",
    ),
)
