"""The samples of `process.*` and `checkpoint.*` for `finding_samples`, and what a sample is."""

from __future__ import annotations

from typing import NamedTuple


class Sample(NamedTuple):
    """`low` and `high` are percent: what the check gives as its confidence, and `why`."""

    summary: str
    low: int
    high: int
    why: str


def certain(summary: str, why: str) -> Sample:
    return Sample(summary, 100, 100, why)


PROCESS_SAMPLES = {
    "process.oom_killed": Sample(
        "rank 1 was killed by {SIGKILL} (signal 9); memory.events: oom_kill 0 → 1",
        60,
        95,
        "the kernel's log, the cgroup's counter or Ray says it",
    ),
    "process.killed": Sample(
        "rank 1 was killed by {SIGKILL} (signal 9)",
        60,
        95,
        "the exit status was seen; less where the process only vanished",
    ),
    "process.exited": Sample(
        "rank 1 ended with exit code 0 while rank 0 still needed it",
        40,
        95,
        "the exception or the exit status was seen; less where the process only vanished; 40 where "
        "ranks lost a peer and nobody was seen to end first",
    ),
    "process.limit_reached": Sample(
        "rank 1 has reached the limit of open files ({256} of {256}), which ended it: {OSError: [Errno 24] Too many} "
        "{open files}",
        95,
        95,
        "the exception says it",
    ),
    "process.exception_pending": Sample(
        "rank 1 has an exception that nothing has shown yet: {ValueError}: {loss is not finite}, raised at train.py:20 "
        "in {compute}; its handler goes on; it is now at train.py:26 in {main}",
        90,
        90,
        "the process sees its own exception; it counts where others wait, or are in another call",
    ),
    "process.thread_died": Sample(
        "rank 1 is waiting for a queue, but its thread {prefetch} has ended with {KeyError}: {'label'}, raised at "
        "data.py:104 in {prefetch}; rank 0 has waited for it in all_reduce #4 of default_pg for 16 s",
        80,
        90,
        "the process saw how the thread ended; less where the main thread's stack does not say what it waits for",
    ),
    "process.exit_stalled": Sample(
        "rank 1 has come to the end of its program, and its process has not ended for 5.6 s: its thread {uploader} is "
        "not a daemon and has not ended",
        70,
        95,
        "the process says that its main thread is over; less where a stack does not show what keeps it",
    ),
    "process.network_wait": Sample(
        "rank 1 waits for an answer from 10.0.0.9:443, at track.py:29 in {ask_tracker}; rank 0 has waited for it in "
        "all_reduce #2 of default_pg for 16 s",
        70,
        90,
        "the kernel says which socket the main thread reads; less for a rank that runs without distwatch",
    ),
    "checkpoint.save_stalled": Sample(
        "rank 1 saves a checkpoint ({writing}) and moves nothing on /mnt/ckpt/part.distcp, at train.py:49 in {save}; "
        "rank 0 has waited for it in all_gather #7 of default_pg for 24 s",
        60,
        95,
        "its stack is in a save, and nothing of it moves; less where only its stacks were seen",
    ),
    "process.stopped": certain(
        "rank 2 is stopped (SIGSTOP or SIGTSTP): the kernel does not run it",
        "the kernel says so",
    ),
    "process.io_blocked": Sample(
        "rank 2 is blocked in the kernel on /mnt/data/shard-7, at data.py:42 in read_shard; ranks 0-1,3 have "
        "waited for it in all_reduce #5 of default_pg for 20 s",
        70,
        95,
        "the kernel says so; less for a rank without distwatch",
    ),
    "process.gil_held": Sample(
        "rank 1 holds the GIL in native code at train.py:30 in native_sleep, so none of its Python threads can "
        "run; its last heartbeat is 20 s old",
        60,
        95,
        "the stack shows who owns the GIL; less where only the heartbeat tells it",
    ),
    "process.debugger": Sample(
        "rank 2 is in a debugger at train.py:9 in {main}: it reads {stdin} ({pipe}:[7]); ranks 0-1,3 wait for it",
        95,
        95,
        "the debugger's frames or the kernel say so",
    ),
    "process.worker_died": Sample(
        "rank 2 waits for a child process that has ended: data worker pid 5000, killed by {SIGKILL} (signal 9), "
        "at train.py:9 in {main}; ranks 0-1,3 have waited for it in all_reduce #5 of default_pg for 20 s",
        70,
        95,
        "the child's end was seen, or the loader's own error tells of it; less for a rank without distwatch",
    ),
    "process.stdin_wait": Sample(
        "rank 2 waits for somebody to type on its stdin, at ask.py:9 in {ask}", 70, 95, "its call"
    ),
    "process.data_stall": Sample(
        "rank 2 waits for data: a read of /data/shard-7, at data.py:42 in read_shard; ranks 0-1,3 have waited for "
        "it in all_reduce #5 of default_pg for 20 s",
        70,
        95,
        "its frames and its system call show it; less where only one of them does",
    ),
    "process.lock_wait": Sample(
        "rank 2 waits for a lock or an event, and no other Python thread in it could release that, at train.py:9 "
        "in {main}; ranks 0-1,3 have waited for it in all_reduce #5 of default_pg for 20 s",
        70,
        90,
        "its frames and its system call show it; less where only one of them does",
    ),
    "process.compiling": Sample(
        "rank 0 is compiling, at train.py:61 in {build}: it has been busy for 7.0 s of the last 8.0 s",
        60,
        80,
        "its stack is in a compiler, and it or a child of it works",
    ),
    "process.livelock": Sample(
        "rank 2 runs without making progress, at train.py:9 in {spin}; ranks 0-1,3 have waited for it in "
        "all_reduce #5 of default_pg for 20 s",
        70,
        80,
        "long work looks the same as a loop without end",
    ),
}
