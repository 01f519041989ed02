"""Themes: our own, and what its colours become in each of Textual's.

Cells and views know nothing of themes: they use the colours of `styles`, and these are replaced where a line
goes to the screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.color import Color, ColorParseError
from textual.filter import LineFilter
from textual.theme import Theme

from distwatch.tui import styles

SETTING = "DISTWATCH_THEME"
CALM = Theme(
    name="distwatch",
    primary=styles.BLUE,
    secondary=styles.VIOLET,
    accent=styles.BLUE,
    warning=styles.YELLOW,
    error=styles.RED,
    success=styles.GREEN,
    foreground="#d5dae2",
    background=styles.GROUND,
    surface="#1a1e25",
    panel="#20252d",
    dark=True,
)
_INK = {
    styles.RED: "text-error",
    styles.ORANGE: "text-accent",
    styles.YELLOW: "text-warning",
    styles.GREEN: "text-success",
    styles.DIM_GREEN: "text-success",
    styles.BLUE: "text-primary",
    styles.VIOLET: "text-secondary",
    styles.GROUND: "background",
}
_GROUND = {
    styles.RED: "text-error",
    styles.RED_TINT: "error-muted",
    styles.YELLOW_TINT: "warning-muted",
    styles.BLUE_TINT: "primary-muted",
    styles.VIOLET_TINT: "secondary-muted",
    styles.GREEN_TINT: "success-muted",
    styles.GREY_TINT: "panel",
    styles.DARK_TINT: "surface",
}
_FADED = {styles.MUTED: 0.3, styles.FAINT: 0.45}
"""How far these are from the theme's text towards its background."""


class Recolour(LineFilter):
    """Replaces our colours by those of a theme."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        variables = theme.to_color_system().generate()
        self._ink = _replacements(_INK, variables) | _faded(variables)
        # A theme of the terminal's own colours has no tints: there the letters alone have a colour.
        plain = dict.fromkeys(_GROUND, RichColor.parse("default"))
        self._ground = plain | _replacements(_GROUND, variables)
        self._style = lru_cache(1024)(self._recoloured)

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same line in the theme's colours, whatever its background is."""
        del background
        return [
            Segment(text, self._style(style), control) if style else Segment(text, style, control)
            for text, style, control in segments
        ]

    def _recoloured(self, style: Style) -> Style:
        ink, ground = _name(style.color), _name(style.bgcolor)
        if ink not in self._ink and ground not in self._ground:
            return style
        return style + Style.from_color(self._ink.get(ink), self._ground.get(ground))


class ThemedApp(App[None]):
    """An application in our theme, or in any of Textual's."""

    def __init__(self) -> None:
        self._recolour: Recolour | None = None
        super().__init__()
        self.register_theme(CALM)
        self.theme = CALM.name

    def get_line_filters(self) -> Sequence[LineFilter]:
        """As Textual's own, after the theme."""
        return [*filter(None, (self._recolour,)), *super().get_line_filters()]

    def watch_theme(self, name: str) -> None:
        """Takes the theme's colours for everything that is drawn."""
        self._recolour = None if name == CALM.name else Recolour(self.current_theme)

    def wear(self, name: str) -> None:
        """The theme of the setting; one that does not exist is named."""
        if name in self.available_themes:
            self.theme = name
        elif name:
            names = ", ".join(sorted(self.available_themes))
            self.notify(f"{SETTING}={name}: there is no such theme; there are {names}", timeout=10)


def _name(color: RichColor | None) -> str:
    return color.triplet.hex if color is not None and color.triplet is not None else ""


def _replacements(table: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, RichColor]:
    found: dict[str, RichColor] = {}
    for ours, variable in table.items():
        try:
            found[ours] = Color.parse(variables[variable]).rich_color
        except (ColorParseError, KeyError):
            continue
    return found


def _faded(variables: Mapping[str, str]) -> dict[str, RichColor]:
    try:
        text, ground = Color.parse(variables["foreground"]), Color.parse(variables["background"])
    except ColorParseError:
        text = ground = Color.parse("ansi_default")
    if text.ansi is not None:
        return dict.fromkeys(_FADED, RichColor.parse("bright_black"))
    return {ours: text.blend(ground, share).rich_color for ours, share in _FADED.items()}
