"""The application: polls a source, draws one picture at a time, and turns keys into actions."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.command import Provider
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.widgets import Footer, Input

from distwatch.state.bounds import whole_number
from distwatch.tui.bars import Prompt, Tabs, TopBar
from distwatch.tui.export import render_reports, write_reports
from distwatch.tui.filters import Filter, FilterInvalid, parse_filter
from distwatch.tui.help import HelpScreen
from distwatch.tui.keys import FILTER_HINT, bindings
from distwatch.tui.opening import first_view
from distwatch.tui.palette import KeyCommands
from distwatch.tui.session import Session
from distwatch.tui.terminal import TerminalDriver, terminal_is_gone
from distwatch.tui.themes import SETTING, ThemedApp
from distwatch.tui.verdict import verdict_markdown
from distwatch.tui.views.line import subject_of
from distwatch.tui.workspace import Workspace
from distwatch.visible_text import visible

if TYPE_CHECKING:
    from distwatch.observer.targets.run_source import RunSource

RETRY_S = 2.0
REFRESH_S = 0.5
"""Over SSH, more than two refreshes a second cost more than they show."""

_CPU_SHARE = 0.05
"""Of one core, for pictures of a large run; a small one's take less anyway."""
_INTERRUPTED = 130
_ZOOMS = 6
_OF_RANKS = ("ranks", "map", "timeline")
"""Views with a place for each rank."""


class DistwatchApp(ThemedApp):
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
        self.session = Session(source, clock)
        self._refresh_s = refresh_s
        self._export_folder = export_folder
        self._zoom = 0
        self._opened_for: str | None = None
        """The code of the verdict for which a view was opened; None before the first picture."""

    async def show(self) -> None:
        """Runs until the person quits, and raises what ended it otherwise."""
        await self.run_async()
        if self._exception is not None:
            raise getattr(self._exception, "error", self._exception)
        if self.return_code == _INTERRUPTED:
            raise KeyboardInterrupt

    def get_driver_class(self) -> type[Driver]:
        """Textual's choice, made to outlive its terminal."""
        chosen = super().get_driver_class()
        return TerminalDriver if chosen is LinuxDriver else chosen

    def _handle_exception(self, error: Exception) -> None:
        super()._handle_exception(error)
        # Textual would print a traceback with the values of all locals: `show` raises instead.
        self._exit_renderables.clear()

    def compose(self) -> ComposeResult:
        self._top = TopBar(id="top")
        self._tabs = Tabs(id="tabs")
        self._work = Workspace(self.session.trends)
        self._prompt = Prompt()
        yield self._top
        yield self._tabs
        yield self._work
        yield self._prompt
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._work.focus_open()
        self.wear(os.environ.get(SETTING, ""))
        self.draw()
        self.run_worker(self._follow(), exclusive=True, group="follow")

    async def _follow(self) -> None:
        due_s = 0.0
        while True:
            began_s = time.perf_counter()
            if await self.poll_once(take=began_s >= due_s):
                # A picture of ten thousand ranks takes a second: it must not take the machine's time.
                ended_s = time.perf_counter()
                due_s = ended_s + (ended_s - began_s) / _CPU_SHARE
            if not self.is_headless and terminal_is_gone():
                self.exit()
                return
            await asyncio.sleep(max(self._refresh_s, RETRY_S if self.session.fails else 0.0))

    async def on_unmount(self) -> None:
        await self.session.close()

    async def poll_once(self, *, take: bool = True) -> bool:
        """Reads what is new and draws it, or the ages alone; whether there was a new picture."""
        new = await self.session.poll(take=take)
        if new and not self.session.paused:
            self._fit_view()
            self.draw()
        else:
            self._top.show_age(self.session.picture, self.session.viewer_status())
        return new

    # ---- drawing ---------------------------------------------------------------------------

    def draw(self) -> None:
        """Draws the current picture: header, tabs, and the open view or detail."""
        picture = self.session.picture
        self._top.show(picture, self.session.viewer_status())
        hits = self._work.draw(picture, self.session.window(self._zoom))
        in_detail = self._work.detail_key is not None
        self._tabs.show(self._work.view, in_detail, picture, self._work.wanted, hits)

    def _fit_view(self) -> None:
        """Opens the view that fits a new verdict, until the person has chosen one."""
        picture = self.session.picture
        if self._work.touched or picture.verdict.code == self._opened_for:
            return
        self._opened_for = picture.verdict.code
        if view := first_view(picture):
            self._work.open(view)
            self.draw()
            # At once: a key that comes before the next refresh finds the culprit selected.
            for rank in picture.verdict.culprit_ranks[:1]:
                self._work.select(f"rank:{rank}")

    def on_resize(self) -> None:
        self.call_after_refresh(self.draw)

    # ---- looking ---------------------------------------------------------------------------

    def action_view(self, name: str) -> None:
        """Opens one of the views; a selected rank stays selected where the view has a place for it."""
        before = subject_of(self._work.selected_key or "")
        self._work.touched = True
        self._work.open(name)
        self.draw()
        if name in _OF_RANKS and before.startswith("rank:"):
            self._work.select(before)

    def action_detail(self) -> None:
        """Opens the line under the cursor; in the stacks, folds it."""
        key = self._work.selected_key
        if key is None or self._work.detail_key is not None:
            return
        if self._work.view == "stacks":
            self._work.fold(key)
        else:
            self._work.open_detail(subject_of(key))
        self.draw()

    def on_line_list_opened(self) -> None:
        self.action_detail()

    def on_line_list_moved(self) -> None:
        self._work.draw_pane()

    on_rank_map_view_opened = on_line_list_opened
    on_rank_map_view_moved = on_line_list_moved

    def action_leave(self) -> None:
        """Closes the prompt, else the detail; else clears the filter."""
        if self._prompt.purpose:
            if self._prompt.purpose == "filter":
                self._work.wanted = Filter()
            self._close_prompt()
        elif self._work.detail_key is not None:
            self.action_view(self._work.view)
        elif self._work.wanted.text:
            self._work.wanted = Filter()
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
        in_detail, key = self._work.detail_key is not None, f"rank:{global_rank}"
        self.action_view(self._work.view if self._work.view in _OF_RANKS else "ranks")
        if not self._work.select(key):
            self._work.wanted = Filter()
            self.draw()
            self._work.select(key)
            self.notify("the filter hid that rank, so it was cleared")
        if in_detail:
            self._work.open_detail(key)
        self.draw()

    def action_sort(self) -> None:
        """Sorts the ranks, or the loads in their view, by the next column."""
        self._work.sort()
        self.draw()

    def action_sort_reverse(self) -> None:
        """Reverses the order of the ranks, or of the loads in their view."""
        self._work.sort(reverse=True)
        self.draw()

    def action_move(self, steps: int) -> None:
        """Moves the cursor, or scrolls the detail."""
        self._work.move(steps)

    def action_page(self, direction: int) -> None:
        """Moves by a screen."""
        self._work.page(direction)

    def action_zoom(self, steps: int) -> None:
        """Larger tiles in the map; elsewhere less time in the strips."""
        if self._work.view == "map":
            self._work.zoom(steps)
        else:
            self._zoom = max(-_ZOOMS, min(_ZOOMS, self._zoom + steps))
        self.draw()

    def action_group(self) -> None:
        """Groups the map by the next of: host, the axes of the layout."""
        self._work.group()
        self.draw()

    def action_pane(self) -> None:
        """Shows or hides the pane."""
        self._work.toggle_pane()
        self.draw()

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
        key, self._work.detail_key = self._work.detail_key, None
        self._work.move(direction)
        if key is not None and self._work.selected_key is not None:
            self._work.open_detail(subject_of(self._work.selected_key))
            self.draw()

    def action_across(self, steps: int) -> None:
        """Map: moves by tiles. Timeline of a replay: moves the cursor in time."""
        if self._work.view == "timeline" and self.session.replays:
            self.session.shift(steps, self._zoom)
            self.draw()
        else:
            self._work.across(steps)

    def action_edge(self, direction: int) -> None:
        """Replay: to the beginning or the end. Live: to the first or last line."""
        if self.session.replays:
            self.session.edge(direction)
            self.draw()
        else:
            self._work.edge(direction)

    # ---- the prompt ------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Opens the filter prompt; the filter applies while it is typed."""
        self._prompt.open("filter", self._work.wanted.text, FILTER_HINT)

    def action_go_to_rank(self) -> None:
        """Asks for a rank's number."""
        self._prompt.open("rank", "", "rank number")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._prompt.say("")
        if self._prompt.purpose == "filter" and self._filter_by(event.value):
            self.draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._prompt.purpose == "filter":
            if self._filter_by(event.value, "; Esc clears the filter"):
                self._close_prompt()
        elif self._prompt.purpose == "rank":
            rank = whole_number(event.value)
            if rank is None:
                typed = event.value.strip()
                self._prompt.say(f"{typed!r} is not a rank: type a number, or press Esc")
                return
            self._close_prompt()
            self._go_to_rank(rank)

    def _filter_by(self, text: str, way_out: str = "") -> bool:
        """Whether that is a filter; if not, the prompt says why."""
        try:
            self._work.wanted = parse_filter(text)
        except FilterInvalid as error:
            self._prompt.say(f"{error}{way_out}")
            return False
        return True

    def _close_prompt(self) -> None:
        self._prompt.close()
        self._work.focus_open()
        self.draw()

    def notify(self, message: str, **options: Any) -> None:
        """As Textual's own, but text in brackets is not markup."""
        super().notify(visible(message), **{"markup": False, **options})

    # ---- keeping ---------------------------------------------------------------------------

    def action_copy(self) -> None:
        """Copies the verdict as Markdown, through the terminal's own clipboard (OSC 52)."""
        self.copy_to_clipboard(visible(verdict_markdown(self.session.picture)))
        self.notify("verdict copied as Markdown (OSC 52; if your terminal forbids that, press e)")

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

    def action_interrupt(self) -> None:
        """Ends it as Ctrl-C ends any command; of selected text, Ctrl-C is Textual's own copy."""
        if self.screen.get_selected_text():
            raise SkipAction
        self.exit(return_code=_INTERRUPTED)
