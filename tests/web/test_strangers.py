"""Few places for those who are not known: whoever takes many loses his own."""

from __future__ import annotations

from distwatch.web.strangers import Strangers


def test_the_oldest_goes_for_the_newest() -> None:
    strangers: Strangers[int] = Strangers(3)
    assert [strangers.add(number, "uid 7") for number in range(5)] == [None, None, None, 0, 1]
    assert not strangers.remove(0)
    assert strangers.remove(4)
    assert strangers.add(5, "uid 7") is None


def test_whoever_has_the_most_loses_one_of_his_own() -> None:
    strangers: Strangers[int] = Strangers(4)
    strangers.add(0, "10.0.0.1")
    gone = [strangers.add(number, "10.0.0.66") for number in range(1, 20)]
    assert 0 not in gone
    assert strangers.remove(0)
