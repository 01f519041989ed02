"""Tables fit their terminal: whatever does not fit wraps, or ends in `…`."""

from __future__ import annotations

from distwatch.cli.tables import lay_out

ROWS = [
    ("RUN", "STARTED", "VERDICT"),
    (
        "demo-data_stall-9f31",
        "2026-11-29 08:30:00",
        "hang: rank 2 waits for data: a read of a file",
    ),
    ("r", "not observed", "healthy: no findings"),
]


def test_without_a_terminal_nothing_is_cut() -> None:
    assert lay_out(ROWS) == [
        "RUN                   STARTED              VERDICT",
        "demo-data_stall-9f31  2026-11-29 08:30:00  hang: rank 2 waits for data: a read of a file",
        "r                     not observed         healthy: no findings",
    ]
    assert lay_out(ROWS, width=88) == lay_out(ROWS)


def test_on_a_narrow_terminal_the_last_column_wraps_below() -> None:
    assert lay_out(ROWS, width=44) == [
        "RUN                   STARTED",
        "    VERDICT",
        "demo-data_stall-9f31  2026-11-29 08:30:00",
        "    hang: rank 2 waits for data: a read of a",
        "    file",
        "r                     not observed",
        "    healthy: no findings",
    ]


def test_what_cannot_wrap_is_marked_where_it_is_cut() -> None:
    lines = lay_out(ROWS, width=30)
    assert lines[2] == "demo-data_sta…  2026-11-29 08…"
    assert all(len(line) <= 30 for line in lines)
