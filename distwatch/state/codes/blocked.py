"""Why a rank that others wait for does not come: its load, its process, its device, its network."""

from __future__ import annotations

from distwatch.state.codes.code import Code

BLOCKED = (
    Code(
        "load.lock_stale",
        "A load waits for a lock file that no process holds.",
        "Make sure that no other host uses this cache, and delete the lock file: on a file system "
        "without flock the file itself is the lock, and it outlives a process that is killed.",
    ),
    Code(
        "load.hub_unreachable",
        "A load waits for an answer from the hub.",
        "Check that this host reaches the hub (DNS, proxy, firewall, HF_ENDPOINT); with the files in the "
        "cache, HF_HUB_OFFLINE=1 or local_files_only=True sends no request.",
    ),
    Code(
        "load.generation_config_stalled",
        "A load has all weights and waits for the generation config, or continued without it.",
        "All weights are loaded. Set HF_HUB_OFFLINE=1 (the files are in the cache), or put "
        "generation_config.json beside the checkpoint; the load continues by itself after minutes, without "
        "the checkpoint's generation config.",
    ),
    Code(
        "load.stalled",
        "A load makes no progress; the finding names its phase, file and shard.",
        "Look at the file system that holds this file (a stalled mount, a lock, a full cache), or copy "
        "the checkpoint to local disk.",
    ),
    Code(
        "checkpoint.save_stalled",
        "A save of a checkpoint makes no progress; the finding names its rank, file and storage.",
        "Look at the storage that the save writes to (a stalled mount, a quota, a full disk).",
        needs_standstill=True,
    ),
    Code(
        "process.io_blocked",
        "A rank is blocked in the kernel (state D).",
        "Look at the file system or device behind that call (a stalled mount, a failing disk).",
        needs_standstill=True,
    ),
    Code(
        "process.gil_held",
        "Native code holds the GIL, so no Python thread of that rank can run.",
        "Look at the native call; a C extension must release the GIL around long work.",
        native_stack=True,
        needs_standstill=True,
    ),
    Code(
        "process.debugger",
        "A rank is in a debugger, or reached a breakpoint without a terminal.",
        "Remove the breakpoint, or debug where there is a terminal: `torchrun` gives its ranks none "
        "(attach from outside with `py-spy dump`, or use debugpy on a port).",
        tells_exception=True,
    ),
    Code(
        "process.stdin_wait",
        "A rank waits for somebody to type.",
        "Give it its answer as an argument or a file, or close its stdin.",
    ),
    Code(
        "process.worker_died",
        "A data worker of a rank has ended, and the rank waits for it or ended because of it.",
        "Find out why that process ended (its own output; memory: each worker holds a copy of what it "
        "touches; /dev/shm), and give the loader a timeout so that it raises instead of waiting.",
        tells_exception=True,
    ),
    Code(
        "process.data_stall",
        "A rank waits for its data.",
        "Look at where that data comes from (a stalled mount, an object store, a slow or stuck worker), "
        "and give the loader a timeout.",
        needs_standstill=True,
    ),
    Code(
        "process.network_wait",
        "A rank waits for a peer outside the job; the finding names its address.",
        "Look at what should answer at that address, and give the call a timeout.",
        needs_standstill=True,
    ),
    Code(
        "process.thread_died",
        "A thread that the main thread waits for has ended with an exception.",
        "Fix that exception, and let the thread tell the main thread that it has ended.",
    ),
    Code(
        "process.lock_wait",
        "A rank waits for a lock whose owner is gone or is waiting itself.",
        "Find who holds it: `distwatch stacks --threads` shows the other threads. A lock is never released if "
        "it was taken before a fork, by the same thread, or by a thread that itself waits.",
        native_stack=True,
        needs_standstill=True,
    ),
    Code(
        "process.livelock",
        "A rank runs without making progress.",
        "Look at the loop at that line: its exit condition is never met (a flag that nobody sets, a retry "
        "without limit), or this step takes longer than the deadline.",
        native_stack=True,
        needs_standstill=True,
    ),
    Code(
        "process.compiling",
        "A rank is compiling, and others wait for it.",
        "Nothing yet if it is the first compilation; raise the timeout above it, or compile before the loop.",
        lateness=True,
        needs_standstill=True,
    ),
    Code(
        "process.exit_stalled",
        "The main thread of a rank has ended, but the process has not.",
        "End what keeps the process alive (a non-daemon thread, an atexit function, a child) before main returns.",
        native_stack=True,
        needs_standstill=True,
    ),
    Code(
        "device.stalled",
        "A rank waits for its own device, whose kernel does not finish.",
        "Look at the kernel that is running, and at the device (`nvidia-smi`, `dmesg`).",
        native_stack=True,
    ),
    Code(
        "network.link_error",
        "A port of InfiniBand or RoCE, or an NVLink, reports errors.",
        "Look at that port, its cable and its switch (`ibstat`, `perfquery`; for NVLink `nvidia-smi nvlink -e`).",
    ),
    Code(
        "network.partition",
        "Hosts of the job no longer reach each other.",
        "Look at the network between these addresses: a firewall or security group, an interface that "
        "went down, a bad cable or switch port, MTU (try `ping -M do -s 8972 ADDRESS`).",
        native_stack=True,
    ),
)
