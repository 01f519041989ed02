"""What the ranks disagree about: settings, layouts, groups, calls."""

from __future__ import annotations

from distwatch.state.codes.code import Code

DISAGREEING = (
    Code(
        "rendezvous.config_disagrees",
        "Backend, timeout, TORCH_DISTRIBUTED_DEBUG, interfaces or torch's version differ between ranks.",
        "Give every rank the same settings.",
        persists=True,
    ),
    Code(
        "group.layout_disagrees",
        "The parallel sizes, or the order of axes, differ across ranks or between two frameworks.",
        "Build the groups with the same sizes and the same order of axes on every rank.",
        compares=True,
        persists=True,
    ),
    Code(
        "group.counter_skew",
        "A rank made one new_group call more or fewer, so its later groups have different names.",
        "Call new_group on every rank in the same order, members or not: move the call at that place "
        "out of the rank-dependent branch.",
        persists=True,
    ),
    Code(
        "group.members_disagree",
        "The ranks called new_group with different members.",
        "Every rank must call new_group with the same members in the same order: loop over all groups "
        "on every rank, and keep the group that holds the rank.",
        persists=True,
    ),
    Code(
        "collective.concurrent_threads",
        "Two threads, or a thread and a finalizer, call collectives of one group at the same time.",
        "Call the collectives of a group from one thread, or give each thread its own group.",
    ),
    Code(
        "collective.count_uneven",
        "Some ranks run a loop once more than the others.",
        "Give every rank the same number of iterations: a DistributedSampler with drop_last, "
        "`model.join()` of DDP, or a limit that all ranks agree on.",
        mismatch=True,
    ),
    Code(
        "collective.op_mismatch",
        "The ranks call different operations at the same number of a group.",
        "Every member must make the same calls in the same order: compare the two call sites.",
        mismatch=True,
    ),
    Code(
        "collective.dtype_mismatch",
        "The ranks pass tensors of different types to one collective.",
        "Every member must pass tensors of the same shape and type: compare the call sites.",
        mismatch=True,
    ),
    Code(
        "collective.shape_mismatch",
        "The ranks pass tensors of different sizes to one collective.",
        "Every member must pass tensors of the same shape and type: compare the call sites.",
        mismatch=True,
    ),
    Code(
        "collective.root_disagrees",
        "The ranks pass different src or dst to one collective.",
        "Every member must pass the same src or dst: compare the call sites.",
        mismatch=True,
    ),
    Code(
        "group.call_missing",
        "A rank never made a new_group call that others are in.",
        "new_group must be called by every rank of the job, members or not, in the same order: move the "
        "call out of the rank-dependent branch.",
    ),
)
