"""For the page of all codes: how each finding looks, and how sure it is.

A sample is a sentence that a check has said, with {braces} around what it had filled in.
"""

from __future__ import annotations

from tools.outside_samples import OUTSIDE_SAMPLES
from tools.process_samples import PROCESS_SAMPLES, Sample, certain

_ERROR = "the process's own error says it"
_MAJORITY = "the evidence is complete; the lower figure where no side is the larger one"
_XID = "the driver names the device; the lower figure where no rank is known to use it"
_SYNC = "it is in a synchronize, and its device is in no call that waits for other ranks"
_PORT = (
    "a driver, the port's state or NCCL names the port; least where only failed transfers are seen"
)
_BY_STEP = "the load tells its phase and what its threads wait for"

SAMPLES = {
    **{code: Sample(*told) for code, told in OUTSIDE_SAMPLES.items()},
    **PROCESS_SAMPLES,
    "group.destroyed": Sample(
        "rank 1 destroyed default_pg 4.0 s ago, and rank 0 still called all_reduce #3 of default_pg",
        60,
        90,
        "each rank's own calls say it; lower where only the others' errors do",
    ),
    "collective.cycle": Sample(
        "ranks 0-1 call their groups in different orders: rank 0 is in all_reduce #1 of dp and waits for rank 1; "
        "rank 1 is in all_reduce #1 of tp and waits for rank 0",
        50,
        80,
        "who waits in which group was seen; least where several ranks may be the odd one",
    ),
    "collective.site_differs": Sample(
        "the ranks of default_pg made collective #2 from different lines, so it put different data together: rank 0 "
        "{called} all_reduce at train.py:10 in {reduce_loss}; rank 1 {called} all_reduce at train.py:20 in "
        "{reduce_penalty}",
        50,
        70,
        "the calls fit, and their lines do not: that may be meant; least where no rank is the odd one",
    ),
    "rendezvous.env_missing": Sample(
        "MASTER_ADDR is not set for rank 1: init_process_group needs it", 100, 100, _ERROR
    ),
    "rendezvous.backend_unavailable": certain(
        "rank 1 cannot use backend 'nccl': nccl needs a GPU, and torch sees none in this process",
        f"{_ERROR}, or two ranks plan to use one GPU",
    ),
    "rendezvous.interface_invalid": certain(
        "rank 1: GLOO_SOCKET_IFNAME=eth9 does not name an interface on node1; it has lo, eth0",
        "the variable is compared with the host's interfaces",
    ),
    "rendezvous.rank_out_of_range": Sample(
        "rank 5 is out of range: RANK=5 with WORLD_SIZE=2, which allows ranks 0 to 1; rank 0 waits for a rank "
        "that does not exist",
        60,
        100,
        "the process says both numbers; less in a group beside the default one whose odd member is not seen",
    ),
    "rendezvous.rank_duplicated": Sample(
        "several processes claim the same rank. rank 1: pid 1001 on node1 and pid 1010 on node1",
        60,
        100,
        "both processes say so; less in a group beside the default one whose odd member is not seen",
    ),
    "rendezvous.world_size_disagrees": Sample(
        "WORLD_SIZE differs: ranks 0-1,3 have 4; rank 2 has 8; the ranks wait for different numbers of peers",
        60,
        95,
        _MAJORITY,
    ),
    "rendezvous.endpoint_disagrees": Sample(
        "the ranks of one job use different MASTER_ADDR:MASTER_PORT: ranks 0-1,3 at 10.0.0.1:29500; rank 2 at "
        "10.0.0.1:29501",
        40,
        95,
        "addresses are compared, names are not resolved again; less where two names may be one host, "
        "no side is the larger one, or each process formed a world of its own",
    ),
    "rendezvous.port_taken": Sample(
        "the ranks cannot use 10.0.0.1:29500: pid 77 on node1 ({python} -m http.server 29500) listens there; rank "
        "1 waits in init_process_group",
        60,
        95,
        "the owner of the port is seen; less where only torch's error or the answer of the port tells it",
    ),
    "rendezvous.store_lost": Sample(
        "the store at 10.0.0.1:29500 went away during init_process_group: rank 0, which hosted it, ended (killed "
        "by {SIGKILL} (signal 9)); rank 1 lost it",
        60,
        95,
        "the end of the host is seen; less where nobody saw it",
    ),
    "group.not_initialized": certain(
        "rank 0 used the parallel state of megatron, which does not exist: {tensor model parallel group is not "
        "initialized} (neither torch's default group nor the parallel state was ever built)",
        _ERROR,
    ),
    "group.already_initialized": certain(
        "rank 1 initialized a second time at train.py:11 in {main}, but the first world still exists (first at "
        "train.py:11 in {main}): {trying} to initialize the default process group twice!",
        _ERROR,
    ),
    "group.size_invalid": certain(
        "ranks 0-3: the sizes do not fit the world of 4 ranks: world_size (4) is not {divisible} by 3",
        f"{_ERROR}; before a launch it is arithmetic",
    ),
    "group.not_member": certain(
        "rank 1 called all_reduce on a group without that rank: torch did nothing, and results there are unchanged",
        "the call was seen, or torch refused it",
    ),
    "rendezvous.store_unreachable": Sample(
        "rank 1 on node2 cannot reach the store at 10.0.0.1:29500: no answer (the host is down, or a firewall "
        "drops the packets); rank 0 waits for it",
        70,
        95,
        "the observer on that host tried the same; less where a connection is only refused or silent, "
        "which may pass",
    ),
    "rendezvous.rank_died": Sample(
        "rank 1 ended before it reached init_process_group (killed by {SIGKILL} (signal 9)); rank 0 is still "
        "waiting",
        60,
        95,
        "the exception or the exit status was seen; less where the process only vanished",
    ),
    "rendezvous.rank_never_started": Sample(
        "rank 1 of 4 never started: no process of this rank was ever seen on node1; ranks 0,2-3 wait in "
        "init_process_group at 10.0.0.1:29500",
        50,
        95,
        "all hosts of the job are seen, or Ray says what it has not placed; less where other hosts are "
        "not seen, or the store was joined by somebody unseen",
    ),
    "rendezvous.config_disagrees": Sample(
        "{backend} differs: ranks 0-1 have {gloo}; rank 2 has {nccl}; ranks with different "
        "backends never connect",
        60,
        95,
        _MAJORITY,
    ),
    "group.layout_disagrees": Sample(
        "parallel sizes differ: ranks 0-1,3 have dp=2 tp=2; rank 2 has tp=4; the ranks would build different "
        "process groups",
        50,
        95,
        f"{_MAJORITY}; least between training and an engine, which may be cut differently on purpose",
    ),
    "group.counter_skew": Sample(
        "rank 1 made one new_group call more than the others at #1, so every later group has a different name "
        "there: ranks 0,2 {called} it for ranks 0-1; rank 1 {called} it for ranks 1-2",
        60,
        95,
        _MAJORITY,
    ),
    "group.members_disagree": Sample(
        "new_group #1 has different members on rank 3: ranks 0-2 {called} it for ranks 0-1; rank 3 {called} it "
        "for ranks 0-3",
        60,
        90,
        _MAJORITY,
    ),
    "collective.count_uneven": Sample(
        "rank 1 {calls} all_reduce at train.py:30 in {step} 4 times, ranks 0,2 only 3 times and are in {barrier} "
        "at train.py:60 in end: they meet as #4 of default_pg and wait for each other for 21 s",
        70,
        90,
        _MAJORITY,
    ),
    "collective.op_mismatch": Sample(
        "the ranks of default_pg disagree about collective #4: ranks 0,2 {called} {barrier}, rank 1 {called} "
        "all_reduce",
        40,
        95,
        f"{_MAJORITY}, and least where no rank is named",
    ),
    "collective.dtype_mismatch": Sample(
        "the ranks of default_pg disagree about collective #3: ranks 0,2 {passed} float32, rank 1 {passed} float16",
        70,
        95,
        _MAJORITY,
    ),
    "collective.shape_mismatch": Sample(
        "the ranks of default_pg disagree about collective #1: rank 0 {passed} 100 {elements}, rank 1 {passed} "
        "200 {elements}",
        70,
        95,
        _MAJORITY,
    ),
    "load.lock_stale": Sample(
        "rank 0 has made no progress in from_pretrained(/models/llama) for 55 s: phase {config} 0 of 7, waiting "
        "for the lock /cache/x.lock, which no process on this host holds; its holder (pid 7) is gone",
        70,
        95,
        "the holder's process is gone; less where a process of another host may hold it",
    ),
    "load.hub_unreachable": Sample(
        "ranks 0-3 have made no progress in from_pretrained(/models/llama) for 55 s: phase {files} 0 of 7, "
        "waiting for an answer {from} hub to GET {http}://hub/x (attempt 3); the last attempt: {ConnectError}: "
        "{refused}",
        95,
        95,
        _BY_STEP,
    ),
    "load.generation_config_stalled": Sample(
        "rank 0 is slow in from_pretrained(/models/llama) for 12 s: phase generation config 0 of 7, waiting for "
        "an answer {from} hub:8080 to {HEAD} {http}://hub:8080/org/model/resolve/main/generation_config.json",
        95,
        95,
        _BY_STEP,
    ),
    "load.stalled": Sample(
        "rank 0 has made no progress in from_pretrained(/models/llama) for 42 s: phase {shards} 3 of 7 "
        "(model-00003-of-00007.safetensors)",
        70,
        95,
        f"{_BY_STEP}; less where nobody saw who holds a lock",
    ),
    "device.lost": Sample(
        "the driver reports Xid 79 (the GPU has fallen off the bus)", 70, 90, _XID
    ),
    "device.memory_error": Sample("the driver reports Xid 48 (double-bit ECC error)", 70, 90, _XID),
    "device.xid": Sample("the driver reports Xid 74 (NVLink error)", 70, 90, _XID),
    "device.stalled": Sample(
        "rank 2 waits for its own device, whose kernel does not end", 70, 85, _SYNC
    ),
    "network.link_error": Sample(
        "the network between the ranks reports errors at a port", 60, 90, _PORT
    ),
    "network.partition": Sample(
        "10.0.0.1 (ranks 0-1) and 10.0.0.2 (ranks 2-3) no longer reach each other: data was sent up to 6 times "
        "without an answer; all_reduce #1 of default_pg has waited for 21 s",
        70,
        90,
        "the kernel sends the same data again and again; less where a rank of the other side is not known",
    ),
    "collective.device_behind": Sample(
        "rank 12 has enqueued all_gather_into_tensor #42806 of TENSOR_MODEL_PARALLEL_GROUP (41), and its device has "
        "not completed it: rank 13 has",
        30,
        90,
        "peers' devices have completed or started the same call; least where all have come, nothing "
        "completes, and no rank is named",
    ),
    "rendezvous.rank_missing": Sample(
        "rank 1 is alive but has not called init_process_group; rank 1 is at data.py:42 in read_shard; rank 0 "
        "waits for it",
        40,
        90,
        "its journal shows no such call; less for a rank without distwatch, least where nobody observes it",
    ),
    "p2p.cycle": Sample(
        "ranks 0-1 wait for each other in a circle: rank 0 is in {recv} #1 {from} rank 1; rank 1 is in {recv} #1 "
        "{from} rank 0; for 21 s",
        50,
        95,
        "every side's calls are counted; less on devices, whose completed sends and recvs are not, and least "
        "where no rank is named",
    ),
    "collective.rank_missing": Sample(
        "rank 0 never entered collective #5 of default_pg; rank 0 is at train.py:7 in {step}; ranks 1-2 have "
        "waited in it for 23 s",
        40,
        95,
        "every member's entries are counted; less where a member is not seen from inside, or stacks are "
        "all there is",
    ),
    "collective.straggler": Sample(
        "rank 2 is late for all_reduce #5 of default_pg and busy at train.py:9 in compile_step; ranks 0-1,3 have "
        "waited for 8.0 s, and the deadline is in 2.0 s",
        70,
        90,
        "its stack changes, or it entered after the timeout; least where heat or power slows down its device",
    ),
    "load.memory_exceeds": Sample(
        "ranks 0-1 {load} 2 × 3.0 GiB = 6.0 GiB into the host memory of node1, but its cgroup allows 4.0 GiB: the "
        "kernel will kill one of them",
        90,
        90,
        "sizes of files and the limit are known; what a rank shares with others is not",
    ),
    "load.meta_leaked": Sample(
        "rank 7 loaded /models/llama, and 1 of its parameters are still on `meta` and nothing will load them: "
        "lm_head.weight",
        95,
        95,
        "the parameters were looked at",
    ),
    "load.device_map_conflict": Sample(
        "ranks 0-1 loaded /models/llama with device_map='auto', which splits it over {cuda}:0, {cuda}:1: in a job "
        "with one rank per device, all ranks use the same devices",
        60,
        90,
        "the maps were looked at; less where no side is the larger one",
    ),
    "load.offloaded": Sample(
        "rank 7 holds parts of /models/llama off the device: 1.0 GiB in RAM and 1.0 GiB on disk "
        "(/scratch/offload); those parameters are on `meta`, and a hook loads them at every forward",
        95,
        95,
        "the parameters were looked at",
    ),
    "collective.timeout_disagrees": Sample(
        "the members of {eval} (1) have different timeouts (rank 1 6 s, ranks 0,2 600 s): rank 1 gives up after "
        "6.0 s, which ends the others, too",
        70,
        95,
        _MAJORITY,
    ),
    "collective.gradient_skipped": Sample(
        "megatron skips {every} backward step of stage 1 of 2 (ranks 0-1): the output there needs no gradient, so "
        "nothing there is trained",
        50,
        90,
        "every backward step is left out; less where only some are",
    ),
}
