"""Settings: what makes no sense is said, and the default holds."""

from __future__ import annotations

import pytest

from distwatch.settings import RING, read_keep, read_settings
from distwatch.state.steps import DEADLINES

HUGE = "9" * 400
"""More than a float holds."""


def test_deadlines_are_read_by_kind() -> None:
    settings = read_settings({"DISTWATCH_DEADLINES": "init=5, collective = 7.5"})
    assert settings.deadlines == {**DEADLINES, "init": 5.0, "collective": 7.5}
    assert settings.complaints == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("colective=5", "there is no deadline 'colective'; did you mean collective?"),
        ("xyz=5", "there is no deadline 'xyz'; there are init, group, load, collective"),
        ("init=soon", "'init=soon' is not kind=seconds"),
        ("init=-1", "'init=-1' is not kind=seconds"),
        ("init", "'init' is not kind=seconds"),
    ],
)
def test_a_deadline_that_is_none_is_said_and_the_defaults_hold(text: str, complaint: str) -> None:
    settings = read_settings({"DISTWATCH_DEADLINES": text})
    assert settings.complaints == (f"DISTWATCH_DEADLINES: {complaint}",)
    assert settings.deadlines == DEADLINES


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MiB", 1 << 20), ("64K", 1 << 16), ("1.5 mib", 3 << 19), ("262144", 1 << 18)],
)
def test_the_size_of_a_ring(text: str, size: int) -> None:
    settings = read_settings({"DISTWATCH_RING": text})
    assert (settings.ring, settings.complaints) == (size, ())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("large", "DISTWATCH_RING='large' is not a size such as 512KiB or 4MiB"),
        ("-1", "DISTWATCH_RING='-1' is not a size such as 512KiB or 4MiB"),
        ("1e9", "DISTWATCH_RING='1e9' is not a size such as 512KiB or 4MiB"),
        ("4KiB", "DISTWATCH_RING='4KiB' is not between 64KiB and 256MiB"),
        ("1TiB", "DISTWATCH_RING='1TiB' is not between 64KiB and 256MiB"),
        (f"{HUGE}K", f"DISTWATCH_RING='{HUGE}K' is not a size such as 512KiB or 4MiB"),
    ],
)
def test_a_size_that_is_none_is_said_and_the_default_holds(text: str, complaint: str) -> None:
    settings = read_settings({"DISTWATCH_RING": text})
    assert (settings.ring, settings.complaints) == (RING, (complaint,))


@pytest.mark.parametrize(
    ("text", "age_s", "size"),
    [
        ("", 14 * 86400.0, 2 << 30),
        ("14d,2GiB", 14 * 86400.0, 2 << 30),
        ("500MiB, 12h", 12 * 3600.0, 500 << 20),
        ("30d", 30 * 86400.0, None),
        ("1GiB", float("inf"), 1 << 30),
        ("all", float("inf"), None),
    ],
)
def test_how_long_runs_are_kept(text: str, age_s: float, size: int | None) -> None:
    keep, complaint = read_keep({"DISTWATCH_KEEP": text})
    assert (keep.age_s, keep.size, complaint) == (age_s, size, "")


@pytest.mark.parametrize("text", ["a while", "14d,30d", "14d;2GiB", "1GiB,2GiB", "14d,", "-1d"])
def test_a_wrong_keep_removes_no_more_than_the_default(text: str) -> None:
    keep, complaint = read_keep({"DISTWATCH_KEEP": text})
    assert (keep.age_s, keep.size) == (14 * 86400.0, 2 << 30)
    assert complaint == f"DISTWATCH_KEEP={text!r} is neither all nor AGE,SIZE as in 14d,2GiB"
    assert read_settings({"DISTWATCH_KEEP": text}).complaints == (complaint,)
