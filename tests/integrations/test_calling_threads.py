"""Who is told to have called a collective."""

from __future__ import annotations

import sys
import threading

from distwatch.integrations.calling_threads import caller_of


class Metric:
    def __init__(self, told: list[str]) -> None:
        self._told = told

    def __del__(self) -> None:
        self._told.append(caller_of(sys._getframe(), 0))


def test_the_main_threads_own_code_has_no_name() -> None:
    assert caller_of(sys._getframe(), 0) == ""


def test_a_finalizer_is_named() -> None:
    told: list[str] = []
    Metric(told)
    assert len(told) == 1
    assert told[0].startswith("the finalizer ")
    assert told[0].endswith("__del__")


def test_a_thread_is_named_without_its_number() -> None:
    told: list[str] = []
    thread = threading.Thread(
        target=lambda: told.append(caller_of(sys._getframe(), threading.get_ident())),
        name="saver-12",
    )
    thread.start()
    thread.join()
    assert told == ["thread saver-N"]


def test_a_thread_of_native_code_works_for_the_main_thread() -> None:
    assert caller_of(sys._getframe(), 1) == ""
