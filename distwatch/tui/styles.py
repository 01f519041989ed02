"""Colours and glyphs. Everything that a colour says, a glyph or a word says too."""

from __future__ import annotations

from distwatch.state.statuses import STATUSES
from distwatch.state.steps import Tone
from distwatch.views import load_text

RED, ORANGE, YELLOW = "#e06c75", "#d9916a", "#d8b25f"
GREEN, BLUE, VIOLET = "#7fb685", "#6fa3d8", "#b08fd0"
MUTED, FAINT = "#8b95a5", "#667080"
STRONG = "bold"

SEVERITIES: dict[str, tuple[str, str]] = {
    # word of a verdict → glyph, style
    "crash": ("✗", f"bold {RED}"),
    "error": ("✗", f"bold {RED}"),
    "hang": ("■", f"bold {RED}"),
    "warning": ("▲", f"bold {YELLOW}"),
    "slow": ("▲", f"bold {YELLOW}"),
    "info": ("●", f"bold {BLUE}"),
    "healthy": ("✓", f"bold {GREEN}"),
    "ended": ("✓", f"bold {MUTED}"),
    "suspected": ("?", f"bold {ORANGE}"),
    "idle": ("○", f"bold {GREEN}"),
    "watching": ("…", f"bold {YELLOW}"),
    "starting": ("○", f"bold {BLUE}"),
}

_TONES: dict[Tone, str] = {
    "bad": RED,
    "waiting": YELLOW,
    "unknown": FAINT,
    "starting": BLUE,
    "busy": VIOLET,
    "good": GREEN,
    "over": MUTED,
}
TILES: dict[Tone, str] = {
    "bad": f"bold {RED} on #4a2229",
    "waiting": f"{YELLOW} on #3b3320",
    "unknown": f"{FAINT} on #1e2229",
    "starting": f"{BLUE} on #1c2c3e",
    "busy": f"{VIOLET} on #30273c",
    "good": "#5c8a63 on #1d2f24",
    "over": f"{MUTED} on #252a32",
}
"""A tile of a map or a strip: the letter in its colour, on a tint of it."""
BLAMED_TILE = f"bold #14171c on {RED}"
STATES = {status.word: _TONES[status.tone] for status in STATUSES.values()}

CULPRIT = "▶"
CURSOR = "›"
UNKNOWN = load_text.UNKNOWN
