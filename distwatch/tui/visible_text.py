"""Rich's Text, made visible: the one that every part of the TUI is to use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich.text

from distwatch.visible_text import visible

__all__ = ["Text"]

if TYPE_CHECKING:
    from rich.text import Text
else:

    class Text(rich.text.Text):
        """As Rich's own, which passes on what steers a terminal; `assemble` comes through here, too."""

        def __init__(self, text: str = "", *arguments: Any, **options: Any) -> None:
            super().__init__(visible(text), *arguments, **options)

        def append(self, text: str | rich.text.Text, style: Any = None) -> rich.text.Text:
            return super().append(visible(text) if isinstance(text, str) else text, style)
