"""The key table: bindings, footer, help and command palette are made from it."""

from __future__ import annotations

from typing import NamedTuple

from textual.binding import Binding


class Key(NamedTuple):
    """One command. `keys` are Textual's names; `shown` is for people."""

    keys: str
    shown: str
    action: str
    label: str
    help: str
    section: str
    in_footer: bool = False


class View(NamedTuple):
    """One of the numbered views."""

    name: str
    title: str
    help: str


VIEWS = (
    View("ranks", "Ranks", "one line for each rank: state, since when, what it does, where"),
    View(
        "groups",
        "Groups",
        "process groups: which ranks are in the collective in flight, which are missing",
    ),
    View("stacks", "Stacks", "all ranks' stacks merged into one tree with rank sets"),
    View("devices", "Devices", "devices, hosts with memory and cgroup, processes with children"),
    View("events", "Events", "events, newest at the bottom"),
    View("findings", "Findings", "root causes and their symptoms, with the evidence"),
    View("loading", "Loading", "model loads: phases, progress, waits; the device map"),
    View("layout", "Layout", "parallel layouts: each rank in its place; the groups of each axis"),
)

FILTER_HINT = "state=waiting pg=dp3 host~node01 rank=0-3 age>30s, or text"
_VIEW_KEYS = tuple(
    Key(str(n), str(n), f"view('{view.name}')", view.title, view.help, "Views")
    for n, view in enumerate(VIEWS, 1)
)

KEYS: tuple[Key, ...] = (
    *_VIEW_KEYS,
    Key("c", "c", "culprit", "Culprit", "jump to the rank that the verdict blames", "Look", True),
    Key("enter", "Enter", "detail", "Detail", "everything about the selected line", "Look", True),
    Key("escape", "Esc", "leave", "Back", "close the detail, then clear the filter", "Look"),
    Key("slash", "/", "filter", "Filter", FILTER_HINT, "Look", True),
    Key("g", "g", "go_to_rank", "Go to rank", "type a rank's number", "Look"),
    Key("s", "s", "sort", "Sort", "ranks, loads: sort by the next column", "Look"),
    Key("S,upper_s", "S", "sort_reverse", "Reverse", "ranks, loads: reverse the order", "Look"),
    Key("up,k", "↑ k", "move(-1)", "Up", "one line up", "Look"),
    Key("down,j", "↓ j", "move(1)", "Down", "one line down", "Look"),
    Key("pageup", "PgUp", "page(-1)", "Page up", "one page up", "Look"),
    Key("pagedown", "PgDn", "page(1)", "Page down", "one page down", "Look"),
    Key("space", "Space", "pause", "Pause", "freeze the display (replay: play or stop)", "Time", True),
    Key("left_square_bracket", "[", "step(-1)", "Step back", "previous rank (replay: previous event)", "Time"),
    Key("right_square_bracket", "]", "step(1)", "Step", "next rank (replay: next event)", "Time"),
    Key("home", "Home", "edge(-1)", "First", "first line (replay: the beginning)", "Time"),
    Key("end", "End", "edge(1)", "Last", "last line (replay: the end)", "Time"),
    Key("y", "y", "copy", "Copy", "copy the verdict as Markdown", "Keep", True),
    Key("e", "e", "export", "Export", "write the report as Markdown, JSON and HTML", "Keep"),
    Key("d", "d", "dump", "Dump now", "ask every rank and observer for a full incident now", "Keep"),
    Key("question_mark", "?", "help", "Help", "this page", "Program", True),
    Key("ctrl+p", "Ctrl+P", "command_palette", "Palette", "all commands by name", "Program"),
    Key("q", "q", "quit", "Quit", "quit; the job is not touched", "Program", True),
)  # fmt: skip


def bindings() -> list[Binding]:
    """The table as Textual needs it. Textual itself binds the palette's own key."""
    return [
        Binding(key.keys, key.action, key.label, key_display=key.shown, show=key.in_footer)
        for key in KEYS
        if key.action != "command_palette"
    ]


def sections() -> dict[str, list[Key]]:
    """The keys by section, in the table's order."""
    found: dict[str, list[Key]] = {}
    for key in KEYS:
        found.setdefault(key.section, []).append(key)
    return found
