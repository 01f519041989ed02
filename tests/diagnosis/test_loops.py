"""A computation ends by itself; a loop that asks for something need not: the source tells them apart."""

from __future__ import annotations

import pytest

from distwatch.diagnosis.why.loops import loops_around
from distwatch.state.events import SourceFileRead
from tests.diagnosis.recorded import frame

FILE = "/job/train.py"


def around(text: str, *calls: tuple[str, int]) -> str:
    files = {FILE: SourceFileRead(host="h", file=FILE, text=text)}
    return loops_around(files, tuple(frame(function, FILE, line) for function, line in calls))


def in_loop(head: str, body: str = "work()") -> str:
    return around(f"def main():\n    {head}\n        {body}\n        pass\n", ("main", 3))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("for batch in loader:", "model(batch)"),
        ("for _ in range(10):", "optimizer.step()"),
        ("while step < 1000:", "step += 1"),
        ("while time.monotonic() < until:", "total += 1"),
        ("while stack:", "visit(stack.pop())"),
        ("while node:", "node = node.next"),
        ("if ready():", "torch.linalg.svd(matrix)"),
        ("while low < high:", "low, high = halve, high - 1"),
    ],
)
def test_what_ends_by_itself(head: str, body: str) -> None:
    assert in_loop(head, body) == "ends"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("while True:", "pass"),
        ("while not done.is_set():", "sum(range(1000))"),
        ("while not slots.buf[0]:", "pass"),
        ("while not flag:", "flag = ask()"),
        ("for n in itertools.count():", "ask(n)"),
        ("for item in iter(poll, None):", "use(item)"),
        ("while store.num_keys() < 4:", "pass"),
    ],
)
def test_what_need_not_end(head: str, body: str) -> None:
    assert in_loop(head, body) == "unending"


def test_the_condition_itself_is_in_its_loop() -> None:
    text = "def main():\n    while not is_ready():\n        pass\n    else:\n        work()\n"
    assert around(text, ("main", 2)) == "unending"
    assert around(text, ("main", 5)) == "ends"


def test_a_function_that_a_loop_may_call_again() -> None:
    text = "def work():\n    return sorted(rows)\n\ndef main():\n    while not closed():\n        work()\n"
    assert around(text, ("main", 6), ("work", 2)) == "called_again"
    assert around(text, ("work", 2)) == "ends"


def test_native_code_of_ones_own_shows_no_end() -> None:
    text = "import ctypes\nlib = ctypes.CDLL('x.so')\ndef main():\n    lib.run()\n    other.run()\n"
    assert around(text, ("main", 4)) == "unending"
    assert around(text, ("main", 5)) == "ends"


def test_nothing_is_said_of_a_file_that_was_not_read() -> None:
    assert loops_around({}, (frame("main", FILE, 3),)) == "unknown"
