"""What the viewer looks at: one interface for live and recorded runs, including pause and steps."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING

from distwatch.tui.cells import format_age
from distwatch.tui.picture import Picture, freeze, take_picture
from distwatch.tui.trends import Trends
from distwatch.tui.verdict import ViewerStatus
from distwatch.tui.views.timeline import SECOND_NS, Window, window_of

if TYPE_CHECKING:
    # At run time this would load the whole observer, which a viewer of a recording never needs.
    from distwatch.observer.targets.run_source import RunSource


class Session:
    """A source and its current picture. Knows nothing of widgets."""

    def __init__(self, source: RunSource, clock: Callable[[], int] = time.time_ns) -> None:
        self.source = source
        self._clock = clock
        self._opened = False
        self._moments: list[int] = []
        self._frozen: Picture | None = None
        self._frozen_at = 0
        self._played_at: int | None = None
        self._failure = ""
        self._unseen = False
        """Whether something was read that the current picture does not show."""
        self._whole: Picture | None = None
        self.trends = Trends()
        self._current = take_picture(source.state, source.run_id)

    @property
    def picture(self) -> Picture:
        """The current picture: the frozen one while paused."""
        return self._frozen or self._current

    @property
    def paused(self) -> bool:
        return self._frozen is not None

    @property
    def replays(self) -> bool:
        return self.source.span is not None and not self.source.live

    async def poll(self, *, take: bool = True) -> bool:
        """Reads what is new; True if there is a new picture. A failing source is shown, not raised.

        Args:
            take: False: takes no picture of it yet, unless an observer has a new verdict.
        """
        try:
            if not self._opened:
                await self.source.open()
                self._opened = True
                self._note_moments()
                changed = take = True
            else:
                changed = await self.source.poll()
            if changed or self.source.live or self.replays:
                self._failure = ""  # a live source reports its end only once
        except asyncio.CancelledError:
            raise
        except (OSError, EOFError) as error:
            # No observer at the other end, or it went away in the middle of a message.
            self._failure = (
                "the observer left" if self._opened else f"cannot reach the run: {error}"
            )
            return False
        except Exception as error:
            self._failure = str(error) or type(error).__name__
            return False
        self._unseen |= changed
        if changed:
            self.trends.note(self.source.state)
        judged = self.source.state.judged_stamp != self._current.judged_stamp
        if self._play() or (self._unseen and (take or judged)):
            self._retake()
            return True
        return False

    @property
    def fails(self) -> bool:
        """Whether the last reading failed."""
        return bool(self._failure)

    async def dump(self) -> str:
        """Asks for a full incident now; returns a sentence about the result."""
        try:
            return await self.source.dump()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            return f"no dump: {error}"

    async def close(self) -> None:
        if self._opened:
            self._opened = False
            await self.source.close()

    def toggle(self) -> None:
        """Pauses or resumes; in a replay, plays or stops."""
        if self.replays:
            self._toggle_play()
        elif self._frozen is None:
            self._frozen, self._frozen_at = freeze(self._current), self._clock()
        else:
            self._frozen = None

    def step(self, direction: int) -> None:
        """Replay: to the next or previous event."""
        cursor = self.source.cursor_ns
        after, before = bisect_right(self._moments, cursor), bisect_left(self._moments, cursor) - 1
        place = after if direction > 0 else before
        if self._moments:
            self.seek(self._moments[max(0, min(place, len(self._moments) - 1))])

    def edge(self, direction: int) -> None:
        """Replay: to the beginning or the end."""
        if self.source.span is not None:
            self.seek(self.source.span[0 if direction < 0 else 1])

    def viewer_status(self) -> ViewerStatus:
        """The viewer's status: live, paused or replay, and its age."""
        picture, span = self.picture, self.source.span
        now = self._clock()
        age = None if picture.clock_ns is None else max(0.0, (now - picture.clock_ns) / 1e9)
        first, last = span if span is not None else (0, 0)
        return ViewerStatus(
            mode="paused" if self.paused else "replay" if self.replays else "live",
            note=self.source.note,
            age_s=age,
            behind_s=max(0.0, (now - self._frozen_at) / 1e9) if self.paused else 0.0,
            news=self._news() if self._frozen is not None else 0,
            changed=self.paused and self._current.verdict.word != picture.verdict.word,
            playing=self._played_at is not None,
            position_s=max(0.0, (self.source.cursor_ns - first) / 1e9),
            length_s=(last - first) / 1e9,
            failure=self._failure_text(age),
        )

    def _failure_text(self, age_s: float | None) -> str:
        if not self._failure:
            return ""
        if age_s is None:
            return f"{self._failure}; trying again"
        return f"{self._failure}; showing the last data ({format_age(age_s)} old)"

    def _news(self) -> int:
        shown, timeline = self.picture.state.timeline, self._current.state.timeline
        last = shown[-1].stamp if shown else (-1, "", -1)
        return sum(entry.stamp > last for entry in timeline)

    def _retake(self) -> None:
        # A recording is opened at its end, of which the whole is a picture already.
        if self._whole is not None and self._whole.state is self.source.state:
            self._current = self._whole
        else:
            self._current = self._take()
        self._unseen = False

    def _take(self) -> Picture:
        return take_picture(self.source.state, self.source.run_id, self.source.findings)

    def window(self, zoom: int) -> Window:
        """The stretch of time for strips; of a replay the whole recording, with a cursor."""
        window = window_of(self._whole or self.picture, zoom)
        if self._whole is None or self.source.span is None:
            return window
        first_ns, last_ns = self.source.span
        offset_ns = (self._whole.clock_ns or last_ns) - last_ns
        length_ns = max(SECOND_NS, int((last_ns - first_ns) * 2.0**-zoom))
        cursor_ns = self.source.cursor_ns
        # Zoomed in, the window follows the cursor.
        to_ns = min(last_ns, max(first_ns + length_ns, cursor_ns + length_ns // 2))
        return Window(
            from_ns=to_ns - length_ns + offset_ns,
            to_ns=to_ns + offset_ns,
            cursor_ns=cursor_ns + offset_ns,
            job=self._whole.job,
        )

    def shift(self, steps: int, zoom: int) -> None:
        """Replay: moves the cursor by hundredths of the window."""
        window = self.window(zoom)
        self.seek(self.source.cursor_ns + steps * (window.to_ns - window.from_ns) // 100)

    def seek(self, time_ns: int) -> None:
        self._played_at = None
        self.source.seek(time_ns)
        self._retake()

    def _note_moments(self) -> None:
        """Notes the times of a recorded run's events: a recording is opened at its end."""
        if self.replays:
            self._moments = sorted({entry.time_ns for entry in self.source.state.timeline})
            self._whole = self._take()

    def _toggle_play(self) -> None:
        if self._played_at is not None or self.source.span is None:
            self._played_at = None
            return
        if self.source.cursor_ns >= self.source.span[1]:
            self.source.seek(self.source.span[0])
            self._retake()
        self._played_at = self._clock()

    def _play(self) -> bool:
        if self._played_at is None or self.source.span is None:
            return False
        now, end = self._clock(), self.source.span[1]
        self.source.seek(min(end, self.source.cursor_ns + now - self._played_at))
        self._played_at = now if self.source.cursor_ns < end else None
        return True
