"""The cases of `benchmarks/cold_attach.py`: hangs from public trackers that a script shows, and controls.

What has to be said about each is here and nowhere else.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import msgspec

from tests.support.ranks import Job


class Case(msgspec.Struct, frozen=True):
    """A job that hangs: what runs, and what has to be said. `codes` is empty for a control."""

    script: str
    args: tuple[str, ...]
    after: tuple[str, int]
    """A step, and the rank that reports it, before it hangs."""
    codes: tuple[str, ...] = ()
    culprits: tuple[int, ...] = ()
    world: int = 2
    started: tuple[int, ...] = ()
    """The ranks that are started; all by default."""
    act: Callable[[Job], None] | None = None
    env: dict[str, str] = {}
    target: int = 0
    """Which process is given to attach."""
    stdin: int | None = None
    """The rank whose stdin is a pipe that nobody writes to."""
    under: str = ""
    """`torchrun`, with these further options."""
    busy_port: bool = False


def send(sign: signal.Signals) -> Callable[[Job], None]:
    def act(job: Job) -> None:
        job.launched[1].send_signal(sign)

    return act


MISSING, MISMATCH = "collective.rank_missing", "collective.op_mismatch"
STALL, LOCK = "process.data_stall", "process.lock_wait"
NEVER = "rendezvous.rank_never_started"
UNEVEN = "collective.count_uneven"
CASES = {
    "pt#134314 new_group on one": Case(
        "new_group_on_one", (), ("initialized", 1), ("group.call_missing",), (1,)
    ),
    "transformers#1081": Case(
        "barrier_on_rank0", (), ("gate evaluation", 1), (MISSING, STALL), (1,)
    ),
    "accelerate#2733": Case(
        "different_operations", ("object",), ("initialized", 1), (MISMATCH,), (0, 1)
    ),
    "pt#33148 batch more": Case(
        "uneven_batches", (), ("barrier", 0), (UNEVEN, MISMATCH), (1,), world=3
    ),
    "pt#52848 two of four": Case("init_only", (), ("init", 0), (NEVER,), (2, 3), 4, (0, 1)),
    "rank 1 of 1": Case(
        "init_only", (), ("init", 1), ("rendezvous.rank_out_of_range",), (1,), 1, (1,)
    ),
    "pt#129367 port taken": Case(
        "init_only", (), ("init", 1), ("rendezvous.port_taken",), (), busy_port=True, target=1
    ),
    "nccl#296 swapped": Case(
        "different_operations", ("swapped",), ("initialized", 1), (MISMATCH,), (0, 1)
    ),
    "SIGSTOP": Case(
        "ends_early",
        ("wait",),
        ("gate fate", 1),
        ("process.stopped",),
        (1,),
        act=send(signal.SIGSTOP),
    ),
    "pt#113546 ImportError": Case(
        "import_error", (), ("init", 0), ("rendezvous.rank_died", NEVER), (1,)
    ),
    "torchtitan#652 breakpoint": Case(
        "blocked_rank", ("breakpoint", "1"), ("held up", 1), ("process.debugger",), (1,), stdin=1
    ),
    "pt#167023 GIL": Case(
        "blocked_rank", ("gil", "1"), ("held up", 1), ("process.gil_held",), (1,)
    ),
    "livelock": Case("blocked_rank", ("spin", "1"), ("held up", 1), ("process.livelock",), (1,)),
    "livelock that polls": Case(
        "blocked_rank", ("poll", "1"), ("held up", 1), ("process.livelock",), (1,)
    ),
    "Neuron_SP#80 data read": Case(
        "elsewhere", ("read", "1", "barrier"), ("stalled", 1), (STALL, MISSING), (1,)
    ),
    "vLLM load": Case("load_stalls", (), ("loading", 1), ("load.stalled", STALL), (1,)),
    "lock of its own": Case(
        "elsewhere", ("lock", "1", "all_reduce"), ("stalled", 1), (LOCK,), (1,)
    ),
    "lock of a sleeping thread": Case("blocked_rank", ("lock", "1"), ("held up", 1), (LOCK,), (1,)),
    "event": Case("blocked_rank", ("event", "1"), ("held up", 1), (LOCK,), (1,)),
    "file lock": Case("blocked_rank", ("file_lock", "1"), ("held up", 1), (LOCK,), (1,)),
    "queue": Case("elsewhere", ("queue", "1", "gather"), ("stalled", 1), (MISSING,), (1,)),
    "child": Case("elsewhere", ("child", "1", "async"), ("stalled", 1), (MISSING,), (1,)),
    "sub-group": Case(
        "elsewhere",
        ("read", "3", "all_reduce", "1", "3"),
        ("stalled", 3),
        (STALL, MISSING),
        (3,),
        world=4,
    ),
    "data loader": Case("blocked_rank", ("loader", "1"), ("held up", 1), (STALL,), (1,)),
    "data worker": Case("blocked_rank", ("worker", "1"), ("held up", 1), (STALL,), (1,)),
    "own worker killed": Case(
        "blocked_rank", ("own_worker", "1"), ("held up", 1), ("process.worker_died", MISSING), (1,)
    ),
    "late before init": Case(
        "late_before_init", (), ("gate token", 1), ("rendezvous.rank_missing",), (1,)
    ),
    "never sent": Case("peers", ("never_sent",), ("ready", 1), (STALL,), (0,)),
    "never received": Case(
        "peers", ("never_received",), ("ready", 1), (STALL, "p2p.unmatched"), (1,)
    ),
    "async recv": Case("peers", ("async_recv",), ("ready", 1), ("p2p.unmatched", MISSING), (0,)),
    "other tag": Case("peers", ("other_tag",), ("ready", 1), ("p2p.unmatched",), (0, 1)),
    "ring of recvs": Case(
        "peers", ("ring_of_recvs",), ("ready", 1), ("p2p.cycle",), (0, 1, 2), world=3
    ),
    "ring of sends": Case(
        "peers", ("ring_of_sends",), ("ready", 1), ("p2p.cycle",), (0, 1, 2), world=3
    ),
    "recv against barrier": Case(
        "peers",
        ("recv_against_barrier",),
        ("ready", 1),
        ("p2p.unmatched", MISMATCH),
        (0, 1),
        world=2,
    ),
    "pipeline": Case("peers", ("pipeline",), ("ready", 1), (STALL, "p2p.unmatched"), (1,), world=3),
    "batch": Case("peers", ("batch",), ("ready", 1), ("p2p.unmatched",), (2,), world=3),
    "crossed groups": Case(
        "peers", ("crossed_groups",), ("ready", 1), (MISMATCH, "collective.cycle"), (0, 1)
    ),
    "socket of its own": Case("peers", ("socket",), ("ready", 1), (STALL,), (0,), world=3),
    "epochs": Case("sequences", ("epochs", "0"), ("go", 0), (UNEVEN, MISMATCH), (0,), world=3),
    "ddp": Case("sequences", ("ddp", "2"), ("go", 0), (UNEVEN, MISMATCH), (2,), world=3),
    "fsdp left": Case("sequences", ("fsdp_left", "1"), ("go", 0), (MISSING,), (1,), world=2),
    "dtensor": Case("sequences", ("dtensor", "1"), ("go", 0), (MISSING,), (1,)),
    "main process": Case("sequences", ("main_process", "0"), ("go", 0), (MISMATCH,), (0,), world=3),
    "monitored barrier": Case("sequences", ("monitored", "1"), ("go", 0), (MISSING,), (1,)),
    "KempnerForge#104 threads": Case(
        "trackers", ("threads",), ("begun", 1), ("collective.concurrent_threads", MISMATCH), (0, 1)
    ),
    "pt#189245 build lock": Case(
        "trackers", ("build",), ("stuck", 1), (LOCK, "load.lock_stale"), (1,)
    ),
    "fairseq#3989 retries": Case(
        "trackers",
        ("retries",),
        ("stuck", 1),
        ("process.exception_pending", "process.livelock", MISSING),
        (1,),
    ),
    "torchtitan#1342 in flight": Case(
        "trackers", ("in_flight",), ("stuck", 1), ("process.exception_pending", MISMATCH), (1,)
    ),
    "vllm-omni#6264 roots": Case(
        "trackers", ("roots",), ("stuck", 1), ("collective.root_disagrees",), (0, 1)
    ),
    "pt#75097 destroyed": Case(
        "trackers", ("destroyed",), ("stuck", 0), ("group.destroyed", STALL), (0,)
    ),
    "pt#48666 exit": Case(
        "trackers", ("exit",), ("stuck", 1), ("process.exit_stalled",), (1,), target=1
    ),
    "pt#64926 node missing": Case(
        "init_only",
        (),
        ("", 0),
        ("rendezvous.node_missing",),
        (),
        under="--nnodes=2 --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{port} --rdzv-id=cold",
    ),
    "pt#64926 node missing, static": Case(
        "init_only",
        (),
        ("", 0),
        ("rendezvous.node_missing",),
        (),
        under="--nnodes=2 --node-rank=0 --master-addr=127.0.0.1 --master-port={port}",
    ),
    "bergson#249 tracker": Case(
        "trackers", ("tracker",), ("stuck", 0), ("process.network_wait", MISSING), (0,)
    ),
    "wandb#592 stdin": Case(
        "trackers", ("stdin",), ("stuck", 1), ("process.stdin_wait",), (1,), stdin=1
    ),
    "red-rover#23 prefetch": Case(
        "trackers", ("prefetch",), ("stuck", 1), ("process.thread_died", MISSING), (1,)
    ),
    "vllm#27313 poll": Case(
        "trackers", ("poll",), ("stuck", 1), ("process.livelock", "p2p.unmatched"), (0,)
    ),
    "sglang#20287 killed before init": Case(
        "late_before_init",
        (),
        ("gate token", 1),
        ("rendezvous.rank_died", NEVER),
        (1,),
        act=send(signal.SIGKILL),
    ),
    "pt#53773 monitored": Case(
        "trackers", ("monitored",), ("stuck", 1), (MISSING, STALL), (1, 2), world=4
    ),
    "pt#173608 local groups": Case(
        "trackers",
        ("local_groups",),
        ("stuck", 1),
        ("group.counter_skew", "group.call_missing"),
        (0, 1),
    ),
    "checkpoint stalls": Case(
        "trackers", ("checkpoint",), ("stuck", 0), ("checkpoint.save_stalled", STALL), (0,)
    ),
    "control: slow steps": Case("slow_steps", ("60",), ("", 0)),
    "control: slow evaluation": Case("works_alone", ("evaluate",), ("waiting", 1)),
    "control: compiling": Case("works_alone", ("compile",), ("waiting", 1)),
    "control: checkpoint moves": Case("works_alone", ("checkpoint",), ("waiting", 1)),
    "control: tokenizer child": Case("works_alone", ("child",), ("waiting", 1)),
    "control: idle server": Case("works_alone", ("serve",), ("waiting", 1)),
}
