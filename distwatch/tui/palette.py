"""The command palette's entries, made from the key table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.markup import escape

from distwatch.tui.keys import KEYS

_Command = tuple[str, str, str, Callable[[], Any]]


class KeyCommands(Provider):
    """Every key's command by name.

    Textual's own provider takes titles for markup, in which the keys `[`, `]` and `/` are tags.
    """

    async def discover(self) -> Hits:
        """All commands, in the order of the key table."""
        for label, key, meaning, call in self._commands():
            yield DiscoveryHit(Content(label + key), call, text=label, help=escape(meaning))

    async def search(self, query: str) -> Hits:
        """The commands whose name matches."""
        matcher = self.matcher(query)
        for label, key, meaning, call in self._commands():
            if (score := matcher.match(label)) > 0:
                shown = Content.assemble(matcher.highlight(label), key)
                yield Hit(score, shown, call, text=label, help=escape(meaning))

    def _commands(self) -> Iterator[_Command]:
        for key in KEYS:
            if key.action != "command_palette":
                call = partial(self.app.run_action, key.action)
                yield key.label, f"  [{key.shown}]", key.help, call
