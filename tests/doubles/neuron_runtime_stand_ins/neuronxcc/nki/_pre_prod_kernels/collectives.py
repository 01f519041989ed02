"""A stand-in: the pairs that a ring goes along."""

from __future__ import annotations


class CollectivesConfig:
    """Each rank's neighbours in its replica group."""

    def __init__(self, replica_groups: list[list[int]]) -> None:
        self.rank_src_tgt_pairs = {
            rank: [(group[n], group[(n + 1) % len(group)]) for n in range(len(group))]
            for group in replica_groups
            for rank in group
        }
