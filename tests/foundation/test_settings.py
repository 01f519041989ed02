"""Settings: what makes no sense is said, and the default holds."""

from __future__ import annotations

import pytest

from distwatch.settings import read_settings
from distwatch.state.steps import DEADLINES


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
