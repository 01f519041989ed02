"""The merged stacks as a tree that a page folds: each fork opens a part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from distwatch.views.stack_tree import StackNode


class Part(NamedTuple):
    """Frames that follow each other without a fork, and how many ranks are in them; no frames: the end of a part."""

    frames: tuple[StackNode, ...]
    global_ranks: tuple[int, ...] = ()


_END = Part(())


def tree_parts(roots: Sequence[StackNode]) -> Iterator[Part]:
    """The parts in the order of the page; a stack may be deeper than Python's recursion limit."""
    todo: list[StackNode | None] = list(reversed(roots))
    while todo:
        node = todo.pop()
        if node is None:
            yield _END
            continue
        chain = [node]
        while len(chain[-1].children) == 1 and (
            chain[-1].children[0].global_ranks == node.global_ranks
        ):
            chain.append(chain[-1].children[0])
        yield Part(tuple(chain), node.global_ranks)
        todo.append(None)
        todo += reversed(chain[-1].children)
