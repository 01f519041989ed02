"""Colours and glyphs. Everything that a colour says, a glyph or a word says too."""

from __future__ import annotations

from distwatch.state.statuses import STATUSES, Tone
from distwatch.views import load_text

RED, ORANGE, YELLOW = "#e06c75", "#d9916a", "#d8b25f"
GREEN, BLUE, VIOLET = "#7fb685", "#6fa3d8", "#b08fd0"
MUTED, FAINT = "#8b95a5", "#667080"
STRONG = "bold"
GROUND = "#14171c"
DIM_GREEN = "#5c8a63"
RED_TINT, YELLOW_TINT, GREEN_TINT = "#4a2229", "#3b3320", "#1d2f24"
BLUE_TINT, VIOLET_TINT, GREY_TINT, DARK_TINT = "#1c2c3e", "#30273c", "#252a32", "#1e2229"

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
    "bad": f"bold {RED} on {RED_TINT}",
    "waiting": f"{YELLOW} on {YELLOW_TINT}",
    "unknown": f"{FAINT} on {DARK_TINT}",
    "starting": f"{BLUE} on {BLUE_TINT}",
    "busy": f"{VIOLET} on {VIOLET_TINT}",
    "good": f"{DIM_GREEN} on {GREEN_TINT}",
    "over": f"{MUTED} on {GREY_TINT}",
}
"""A tile of a map or a strip: the letter in its colour, on a tint of it."""
BLAMED_TILE = f"bold {GROUND} on {RED}"
STATES = {status.word: _TONES[status.tone] for status in STATUSES.values()}

CULPRIT = "▶"
CURSOR = "›"
UNKNOWN = load_text.UNKNOWN
