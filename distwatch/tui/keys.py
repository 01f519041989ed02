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
    always: bool = False
    """Also while a page or the prompt is open."""


class View(NamedTuple):
    """One of the views. `key` is on its tab; `letter` opens it, too."""

    name: str
    title: str
    help: str
    key: str
    letter: str = ""


VIEWS = (
    View("ranks", "Ranks", "one line for each rank: state, since when, what it does, where", "1"),
    View(
        "groups",
        "Groups",
        "process groups: which ranks are in the collective in flight, which are missing",
        "2",
    ),
    View("stacks", "Stacks", "all ranks' stacks merged into one tree with rank sets", "3"),
    View(
        "devices", "Devices", "devices, hosts with memory and cgroup, processes with children", "4"
    ),
    View("events", "Events", "events, newest at the bottom; the same of several ranks once", "5"),
    View("findings", "Findings", "root causes and their symptoms, with the evidence", "6"),
    View("loading", "Loading", "model loads: phases, progress, waits; the device map", "7"),
    View(
        "layout", "Layout", "parallel layouts: each rank in its place; the groups of each axis", "8"
    ),
    View("map", "Map", "every rank as a tile, by host or axis; + and - zoom, b groups", "9", "m"),
    View("waits", "Waits", "who waits for whom, ranks that do the same together", "0", "w"),
    View("timeline", "Timeline", "the last minutes of each rank; + and - zoom", "t"),
)

FILTER_HINT = "state=waiting pg=dp3 host~node01 rank=0-3 age>30s, or text"
_VIEW_KEYS = tuple(
    Key(
        f"{view.key},{view.letter}".rstrip(","),
        f"{view.key} {view.letter}".rstrip(),
        f"view('{view.name}')",
        view.title,
        view.help,
        "Views",
    )
    for view in VIEWS
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
    Key("plus,equals_sign", "+", "zoom(1)", "Zoom in", "map: larger tiles; timeline: less time", "Look"),
    Key("minus", "-", "zoom(-1)", "Zoom out", "map: smaller tiles; timeline: more time", "Look"),
    Key("b", "b", "group", "Group by", "map: group by host, then by each axis of the layout", "Look"),
    Key("v", "v", "pane", "Pane", "from 120 columns on: show or hide the pane on the right", "Look"),
    Key("up,k", "↑ k", "move(-1)", "Up", "one line up", "Look"),
    Key("down,j", "↓ j", "move(1)", "Down", "one line down", "Look"),
    Key("left,h", "← h", "across(-1)", "Left", "map: a tile back; timeline of a replay: back in time", "Look"),
    Key("right,l", "→ l", "across(1)", "Right", "map: a tile on; timeline of a replay: on in time", "Look"),
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
    Key("T,upper_t", "T", "change_theme", "Theme", "other colours; DISTWATCH_THEME keeps them", "Program"),
    Key("ctrl+p", "Ctrl+P", "command_palette", "Palette", "all commands by name", "Program"),
    Key("ctrl+z", "Ctrl+Z", "suspend_process", "Suspend", "back to the shell for a while; `fg` returns", "Program"),
    Key("q", "q", "quit", "Quit", "quit; the job is not touched", "Program", True),
    Key("ctrl+c", "Ctrl+C", "interrupt", "Interrupt", "quit with exit code 130", "Program", always=True),
)  # fmt: skip


def bindings() -> list[Binding]:
    """The table as Textual needs it. Textual itself binds the palette's own key."""
    return [
        Binding(
            key.keys, key.action, key.label, key_display=key.shown, show=key.in_footer,
            priority=key.always,
        )
        for key in KEYS
        if key.action != "command_palette"
    ]  # fmt: skip


def sections() -> dict[str, list[Key]]:
    """The keys by section, in the table's order."""
    found: dict[str, list[Key]] = {}
    for key in KEYS:
        found.setdefault(key.section, []).append(key)
    return found
