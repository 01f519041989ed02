"""A folder is listed again only where something may have come into it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from distwatch.observer.journals.new_names import CLOCK_TICK_NS, NewNames


def change(folder: Path, ago_ns: int) -> None:
    """As if a file had come then."""
    at_ns = time.time_ns() - ago_ns
    os.utime(folder, ns=(at_ns, at_ns))


def test_what_has_not_changed_is_not_listed_again(tmp_path: Path) -> None:
    names = NewNames(str(tmp_path))
    change(tmp_path, 10 * CLOCK_TICK_NS)
    assert names.may_be_there()
    assert not names.may_be_there()
    change(tmp_path, 5 * CLOCK_TICK_NS)
    assert names.may_be_there()
    assert not names.may_be_there()


def test_a_change_of_just_now_may_hide_another_one(tmp_path: Path) -> None:
    names = NewNames(str(tmp_path))
    change(tmp_path, -60_000_000_000)  # a file system whose clock is ahead
    assert names.may_be_there()
    assert names.may_be_there()


def test_what_was_incomplete_is_listed_again(tmp_path: Path) -> None:
    names = NewNames(str(tmp_path))
    change(tmp_path, 10 * CLOCK_TICK_NS)
    assert names.may_be_there()
    names.forget()
    assert names.may_be_there()


def test_a_folder_that_cannot_be_looked_at_may_have_anything(tmp_path: Path) -> None:
    names = NewNames(str(tmp_path / "gone"))
    assert names.may_be_there()
    assert names.may_be_there()
