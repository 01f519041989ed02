"""Ranks that ended, failed or are stopped, or never joined their world."""

from __future__ import annotations

from distwatch.state.codes.code import Code

ENDED = (
    Code(
        "device.memory_error",
        "A device reports memory errors: ECC, or rows to remap.",
        "Take that device out of service; reset it, and replace it if the errors return.",
    ),
    Code(
        "device.lost",
        "A device has fallen off the bus.",
        "Take that host out of service and reboot it; look at power, cooling and the PCIe slot.",
    ),
    Code(
        "device.xid",
        "The driver reports an event that ends all work on a device.",
        "Look up that Xid in NVIDIA's list: it says whether the program, the driver or the device is at fault.",
    ),
    Code(
        "process.oom_killed",
        "The kernel, or Ray's memory monitor, killed a rank for its memory.",
        "Lower the memory per rank (batch, workers, offload) or raise the cgroup's limit.",
        ends_rank=True,
    ),
    Code(
        "process.killed",
        "A signal ended a rank.",
        "Find who sent the signal: the scheduler, an operator, or the kernel (`dmesg`, memory limits).",
        ends_rank=True,
        by_signal=True,
        explains_store=("lost",),
    ),
    Code(
        "process.exited",
        "A rank ended by an exception or an exit code, or left while others still needed it.",
        "Read the end of the log of [that rank|those ranks], where distwatch saw no exception.",
        ends_rank=True,
        explains_store=("lost",),
    ),
    Code(
        "process.stopped",
        "A rank is stopped by SIGSTOP or SIGTSTP: the kernel does not run it.",
        "Resume it with `kill -CONT PID`, but first ask who stopped it (a debugger, a scheduler, Ctrl-Z).",
        explains_store=("unmet", "lost"),
    ),
    Code(
        "process.limit_reached",
        "Open files, memory, disk or /dev/shm of a rank are at their limit.",
        "Raise that limit, or stop what uses it up.",
        tells_exception=True,
    ),
    Code(
        "process.exception_pending",
        "A thread of a rank has an exception that no code has seen yet, or that it catches again and again.",
        "Fix that exception, or let the thread pass it to the thread that waits.",
    ),
    Code(
        "rendezvous.store_unreachable",
        "A rank cannot connect to the TCPStore.",
        "Check MASTER_ADDR and MASTER_PORT on [that rank|those ranks], and that no firewall drops this port.",
        partial_view=True,
        explains_store=("unmet", "unhosted"),
    ),
    Code(
        "rendezvous.rank_died",
        "A rank ended before it arrived, and others wait for it.",
        "Fix what ended [that rank|those ranks]; the others only wait for [it|them].",
        ends_rank=True,
        partial_view=True,
    ),
    Code(
        "rendezvous.node_missing",
        "torchrun waits for a node that has not joined; the ranks of that node do not exist yet.",
        "Start torchrun on that node with the same --rdzv-endpoint, --rdzv-id and --nnodes.",
        absent=True,
        partial_view=True,
    ),
    Code(
        "rendezvous.rank_never_started",
        "No process of a rank was ever seen, and others wait for it.",
        "Start the missing [rank|ranks], or set WORLD_SIZE to the number of ranks that you start.",
        absent=True,
        partial_view=True,
    ),
)
