"""Times in a log: each line has its own, or that of the line before it."""

from __future__ import annotations

import calendar
import re

_GLOG = re.compile(r"[EWIF](\d{1,2})(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{1,9})")
_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)[T _](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?")
_CTIME = re.compile(
    r"(?:[A-Z][a-z]{2},? )?(?:(?P<day>\d{1,2}) )?(?P<month>[A-Z][a-z]{2}) (?: ?(?P<date>\d{1,2}) )?"
    r"(?:(?P<year>\d{4}) )?(\d\d):(\d\d):(\d\d)(?: (?P<late>\d{4}))?"
)
_MONTHS = {
    name: number
    for number, name in enumerate(
        "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), start=1
    )
}
_SECOND = 1_000_000_000
UNSAID = 10**15
"""Times below it only say which line came first."""


class LogClock:
    """Reads times in the order of the lines. torch's own prefix says no year: the file's year is taken."""

    def __init__(self, year: int) -> None:
        self._year = year
        self._now = 0

    def time_ns(self, text: str) -> int:
        """The time of the next line; before the first that says one, only the order is kept (below `UNSAID`)."""
        found = self._read(text)
        if found:
            self._now = max(found, self._now) if self._is_near(found) else found
        else:
            self._now += 1000
        return self._now

    def _is_near(self, found: int) -> bool:
        return abs(found - self._now) < 60 * _SECOND

    def _read(self, text: str) -> int:
        head = text[:240]
        if found := _ISO.search(head):
            self._year = int(found[1])
            return _ns(found[7], *map(int, found.groups()[:6]))
        if found := _GLOG.search(head):
            return _ns(found[6], self._year, *map(int, found.groups()[:5]))
        if (found := _CTIME.search(head)) and found["month"] in _MONTHS:
            year = int(found["year"] or found["late"] or self._year)
            day = int(found["day"] or found["date"] or 1)
            h, m, s = (int(n) for n in found.group(5, 6, 7))
            return _ns(None, year, _MONTHS[found["month"]], day, h, m, s)
        return 0


def _ns(part: str | None, *said: int) -> int:
    """Year, month, day, hour, minute and second, with the digits of a part of a second."""
    year, month, day, hour, minute, second = said
    if not (1970 <= year <= 2200 and 1 <= month <= 12 and 1 <= day <= 31):
        return 0
    seconds = calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0))
    return seconds * _SECOND + (int(part.ljust(9, "0")) if part else 0)
