"""The application: polls a source, draws one picture at a time, and turns keys into actions."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.command import Provider
from textual.containers import VerticalScroll
from textual.theme import Theme
from textual.widgets import ContentSwitcher, Footer, Input, Static

from distwatch.state.bounds import whole_number
from distwatch.tui.bars import Prompt, Tabs, TopBar
from distwatch.tui.export import render_reports, write_reports
from distwatch.tui.filters import Filter, FilterInvalid, parse_filter
from distwatch.tui.help import HelpScreen
from distwatch.tui.keys import FILTER_HINT, VIEWS, bindings
from distwatch.tui.line_list import LineList
from distwatch.tui.palette import KeyCommands
from distwatch.tui.session import Session
from distwatch.tui.verdict import verdict_markdown
from distwatch.tui.views import loading, ranks
from distwatch.tui.views.detail import detail
from distwatch.tui.views.line import subject_of
from distwatch.tui.views.shown import draw_view
from distwatch.visible_text import visible

if TYPE_CHECKING:
    from distwatch.observer.targets.run_source import RunSource

RETRY_S = 2.0
REFRESH_S = 0.5
"""Over SSH, more than two refreshes a second cost more than they show."""

_SORTED_BY = {"ranks": tuple(ranks.SORTED_BY), "loading": tuple(loading.SORTED_BY)}
CALM = Theme(
    name="distwatch",
    primary="#6fa3d8",
    secondary="#b08fd0",
    accent="#6fa3d8",
    warning="#d8b25f",
    error="#e06c75",
    success="#7fb685",
    foreground="#d5dae2",
    background="#14171c",
    surface="#1a1e25",
    panel="#20252d",
    dark=True,
)


class DetailPage(VerticalScroll, can_focus=True, inherit_bindings=False):
    """The pane that Enter opens."""


class DistwatchApp(App[None]):
    """The TUI on one run, live or recorded. It reads; it never changes the job."""

    CSS_PATH = "app.tcss"
    TITLE = "distwatch"
    BINDINGS: ClassVar[list[BindingType]] = list(bindings())
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {KeyCommands}

    def __init__(
        self,
        source: RunSource,
        *,
        clock: Callable[[], int] = time.time_ns,
        export_folder: str | None = None,
        refresh_s: float = REFRESH_S,
    ) -> None:
        """Args:
        clock: wall clock in ns, for the ages in the header.
        export_folder: where `e` writes; default: the working directory.
        refresh_s: seconds between two polls of the source.
        """
        super().__init__()
        self.animation_level = "none"
        self.register_theme(CALM)
        self.theme = CALM.name
        self.session = Session(source, clock)
        self._refresh_s = refresh_s
        self._export_folder = export_folder
        self._view = VIEWS[0].name
        self._detail_key: str | None = None
        self._filter = Filter()
        self._orders = {"ranks": ranks.Order(), "loading": loading.FIRST_ORDER}
        self._folded: frozenset[str] = frozenset()

    async def show(self) -> None:
        """Runs until the person quits, and raises what ended it otherwise."""
        await self.run_async()
        if self._exception is not None:
            raise getattr(self._exception, "error", self._exception)

    def _handle_exception(self, error: Exception) -> None:
        super()._handle_exception(error)
        # Textual would print a traceback with the values of all locals: `show` raises instead.
        self._exit_renderables.clear()

    def compose(self) -> ComposeResult:
        self._top = TopBar(id="top")
        self._tabs = Tabs(id="tabs")
        self._lists = {v.name: LineList(id=v.name, follow=v.name == "events") for v in VIEWS}
        self._detail_text = Static(id="detail-text")
        self._prompt = Prompt()
        yield self._top
        yield self._tabs
        with ContentSwitcher(id="views", initial=self._view) as self._switcher:
            yield from self._lists.values()
            with DetailPage(id="detail") as self._detail_page:
                yield self._detail_text
        yield self._prompt
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._lists[self._view].focus()
        self.draw()
        self.run_worker(self._follow(), exclusive=True, group="follow")

    async def _follow(self) -> None:
        while True:
            await self.poll_once()
            # A run so large that its picture is slow must not occupy the whole loop.
            pause = max(self._refresh_s, 4 * self.session.cost_s)
            await asyncio.sleep(max(pause, RETRY_S) if self.session.fails else pause)

    async def on_unmount(self) -> None:
        await self.session.close()

    async def poll_once(self) -> None:
        """Reads and draws what is new, once."""
        if await self.session.poll() and not self.session.paused:
            self.draw()
        else:
            self._top.show_age(self.session.picture, self.session.viewer_status())

    # ---- drawing ---------------------------------------------------------------------------

    def draw(self) -> None:
        """Draws the current picture: header, tabs, and the open view or detail."""
        picture = self.session.picture
        self._top.show(picture, self.session.viewer_status())
        shown = draw_view(self._view, picture, self._filter, self._orders, self._folded)
        none = f"no line matches the filter {self._filter.text!r}; Esc clears it"
        empty = none if shown.total else shown.empty
        self._lists[self._view].show(shown.lines, shown.heading, empty)
        hits = f"{len(shown.lines)} of {shown.total}"
        self._tabs.show(self._view, self._detail_key is not None, picture, self._filter, hits)
        if self._detail_key is not None:
            self._detail_text.update(detail(picture, self._detail_key))

    def _open_pane(self, name: str) -> None:
        self._switcher.current = name
        pane = self._detail_page if name == "detail" else self._lists[name]
        pane.focus()
        self.draw()

    @property
    def _list(self) -> LineList:
        return self._lists[self._view]

    def on_resize(self) -> None:
        self.call_after_refresh(self.draw)

    # ---- looking ---------------------------------------------------------------------------

    def action_view(self, name: str) -> None:
        """Opens one of the numbered views."""
        self._view, self._detail_key = name, None
        self._open_pane(name)

    def action_detail(self) -> None:
        """Opens the line under the cursor; in the stacks, folds it."""
        line = self._list.selected
        if line is None or self._detail_key is not None:
            return
        if self._view == "stacks":
            self._folded ^= {line.key}
            self.draw()
        else:
            self._open_detail(subject_of(line.key))

    def _open_detail(self, key: str) -> None:
        self._detail_key = key
        self._detail_page.scroll_home(animate=False)
        self._open_pane("detail")

    def on_line_list_opened(self) -> None:
        self.action_detail()

    def action_leave(self) -> None:
        """Closes the prompt, else the detail; else clears the filter."""
        if self._prompt.purpose:
            if self._prompt.purpose == "filter":
                self._filter = Filter()
            self._close_prompt()
        elif self._detail_key is not None:
            self._detail_key = None
            self._open_pane(self._view)
        elif self._filter.text:
            self._filter = Filter()
            self.draw()

    def action_culprit(self) -> None:
        """Jumps to the first rank that the verdict blames."""
        verdict = self.session.picture.verdict
        if not verdict.culprit_ranks:
            why = "the verdict names no rank" if verdict.code else verdict.sentence
            self.notify(f"no culprit: {why}")
            return
        self._go_to_rank(verdict.culprit_ranks[0])

    def _go_to_rank(self, global_rank: int) -> None:
        picture = self.session.picture
        if picture.status(global_rank) is None:
            self.notify(
                f"there is no rank {global_rank}: the run has {len(picture.rank_statuses)} ranks"
            )
            return
        in_detail = self._detail_key is not None
        self.action_view("ranks")
        if not self._list.select(f"rank:{global_rank}"):
            self._filter = Filter()
            self.draw()
            self._list.select(f"rank:{global_rank}")
            self.notify("the filter hid that rank, so it was cleared")
        if in_detail:
            self._open_detail(f"rank:{global_rank}")

    def action_sort(self) -> None:
        """Sorts the ranks, or the loads in their view, by the next column."""
        view = "loading" if self._view == "loading" else "ranks"
        self._orders[view] = self._orders[view].following(_SORTED_BY[view])
        self.draw()

    def action_sort_reverse(self) -> None:
        """Reverses the order of the ranks, or of the loads in their view."""
        view = "loading" if self._view == "loading" else "ranks"
        order = self._orders[view]
        self._orders[view] = order._replace(reverse=not order.reverse)
        self.draw()

    def action_move(self, steps: int) -> None:
        """Moves the cursor, or scrolls the detail."""
        if self._detail_key is None:
            self._list.move(steps)
        else:
            self._detail_page.scroll_relative(y=steps, animate=False)

    def action_page(self, direction: int) -> None:
        """Moves by a screen."""
        if self._detail_key is None:
            self._list.page(direction)
        else:
            self._detail_page.scroll_relative(
                y=direction * max(1, self._detail_page.size.height - 1), animate=False
            )

    # ---- time ------------------------------------------------------------------------------

    def action_pause(self) -> None:
        """Freezes or resumes the display; in a replay, plays or stops."""
        self.session.toggle()
        self.draw()

    def action_step(self, direction: int) -> None:
        """Replay: to the next or previous event. Live: to the next or previous rank."""
        if self.session.replays:
            self.session.step(direction)
            self.draw()
            return
        self._list.move(direction)
        line = self._list.selected
        if self._detail_key is not None and line is not None:
            self._open_detail(subject_of(line.key))

    def action_edge(self, direction: int) -> None:
        """Replay: to the beginning or the end. Live: to the first or last line."""
        if self.session.replays:
            self.session.edge(direction)
            self.draw()
        elif self._detail_key is None:
            self._list.edge(direction)
        elif direction < 0:
            self._detail_page.scroll_home(animate=False)
        else:
            self._detail_page.scroll_end(animate=False)

    # ---- the prompt ------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Opens the filter prompt; the filter applies while it is typed."""
        self._prompt.open("filter", self._filter.text, FILTER_HINT)

    def action_go_to_rank(self) -> None:
        """Asks for a rank's number."""
        self._prompt.open("rank", "", "rank number")

    def on_input_changed(self, event: Input.Changed) -> None:
        if self._prompt.purpose != "filter":
            self._prompt.say("")
            return
        try:
            self._filter = parse_filter(event.value)
        except FilterInvalid as error:
            self._prompt.say(str(error))
            return
        self._prompt.say("")
        self.draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._prompt.purpose == "filter":
            try:
                self._filter = parse_filter(event.value)
            except FilterInvalid as error:
                self._prompt.say(f"{error}; Esc clears the filter")
                return
            self._close_prompt()
        elif self._prompt.purpose == "rank":
            rank = whole_number(event.value)
            if rank is None:
                typed = event.value.strip()
                self._prompt.say(f"{typed!r} is not a rank: type a number, or press Esc")
                return
            self._close_prompt()
            self._go_to_rank(rank)

    def _close_prompt(self) -> None:
        self._prompt.close()
        self._open_pane("detail" if self._detail_key is not None else self._view)

    def notify(self, message: str, **options: Any) -> None:
        """As Textual's own, but text in brackets is not markup."""
        super().notify(visible(message), **{"markup": False, **options})

    # ---- keeping ---------------------------------------------------------------------------

    def action_copy(self) -> None:
        """Copies the verdict as Markdown, through the terminal's own clipboard (OSC 52)."""
        self.copy_to_clipboard(visible(verdict_markdown(self.session.picture)))
        self.notify(
            "verdict copied as Markdown (with OSC 52; if your terminal forbids that, press e)"
        )

    def action_export(self) -> None:
        """Writes a report of the current picture."""
        self.run_worker(self._export(), group="export", exclusive=True)

    async def _export(self) -> None:
        folder = self._export_folder or os.getcwd()
        picture = self.session.picture
        try:
            reports = render_reports(picture)
            paths = await asyncio.to_thread(write_reports, reports, folder, picture.run_id)
        except OSError as error:
            text = f"cannot write in {folder}: {error.strerror}; start distwatch in a folder that you can write"
            self.notify(text, severity="error")
            return
        stem = paths[0].rpartition(".")[0]
        self.notify(f"report written: {stem}.{{{','.join(reports)}}}", timeout=10)

    def action_dump(self) -> None:
        """Asks every rank and observer for a full incident now."""
        self.notify("asking for a dump …")
        self.run_worker(self._dump(), group="dump", exclusive=True)

    async def _dump(self) -> None:
        self.notify(await self.session.dump(), timeout=10)

    # ---- program ---------------------------------------------------------------------------

    def action_help(self) -> None:
        """Shows the help page."""
        self.push_screen(HelpScreen())
