"""The samples of findings that may rest on stacks alone, for `finding_samples`: summary, least, most, why."""

from __future__ import annotations

OUTSIDE_SAMPLES = {
    "rendezvous.node_missing": (
        "torchrun (pid 4711 on node1) waits for 1 {node} of 2; 1 has joined at node1:29500: node1 (pid 4711); "
        "no more for 4.2 s",
        90,
        90,
        "torchrun's own store tells who has joined",
    ),
    "collective.concurrent_threads": (
        "threads of one rank are in collectives at the same time: rank 0 is in all_gather_object; rank 1 is in "
        "{barrier} and all_gather_object",
        60,
        90,
        "each call's own thread is recorded; less where only stacks show it, which do not tell the group",
    ),
    "collective.root_disagrees": (
        "the ranks wait for each other in calls that do not fit: rank 0 is in {broadcast} {with} src=1; rank 1 is in "
        "{broadcast} {with} src=0; nothing has moved for 4.1 s",
        50,
        95,
        "both sides' calls are recorded; less where no side is the larger one, and least where only stacks are",
    ),
    "group.call_missing": (
        "rank 1 never called new_group #1 (ranks 0-1); rank 0 waits in it at train.py:101 in {groups}",
        60,
        100,
        "every call of new_group is counted; less where only stacks show who is in it",
    ),
    "p2p.unmatched": (
        "rank 0 has no matching {send} for rank 1's {recv} #3 {from} rank 0 (waiting for 21 s); rank 0 is at "
        "eval.py:4 in {evaluate}",
        50,
        95,
        "both sides' calls are counted; less where the peer's are not seen, and least where only stacks are",
    ),
}
