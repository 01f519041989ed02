"""The steps of a trail with what guards their lines."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

import msgspec

from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.guards import guards_of, registrations_of
from distwatch.diagnosis.why.source import FUNCTIONS, Source, called_name, covers, name_of, within
from distwatch.diagnosis.why.topics import View, bind
from distwatch.diagnosis.why.trails import Step, Trail

Sources = Callable[[str], Source | None]
"""The file of a path; None where it was not read."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a trail with its guards."""

    step: Step
    view: View
    guards: tuple[Guard, ...]
    called: str
    registered: tuple[Guard, ...] = ()
    """Of a function that is called by another name: what guards the lines that pass it on by its own."""


def places_of(trail: Trail, sources: Sources) -> list[Place | None]:
    """Its steps with their guards; None for one whose source is not what the process loaded."""
    places: list[Place | None] = []
    caller: tuple[View, Step] | None = None
    for number, step in enumerate(trail.steps):
        source = sources(step.file)
        if source is None:
            places.append(None)
            caller = None
            continue
        scope = source.scope_at(step.line, step.function)
        if name_of(scope) != step.function:
            places.append(None)  # the file is not what the process loaded
            caller = None
            continue
        following = trail.steps[number + 1 : number + 2]
        called = tuple(s.function for s in following) or trail.called
        view = View(source, scope, _bindings(caller, scope) if caller else None)
        guards = guards_of(source, scope, step.line, called)
        shown = _shown_call(source, step, called)
        is_passed_on = caller is not None and not any(
            called_name(one) == step.function for one in _calls_on(*caller)
        )
        registered = registrations_of(source, step.function) if is_passed_on else ()
        places.append(
            Place(step=step, view=view, guards=tuple(guards), called=shown, registered=registered)
        )
        caller = view, step
    return places


def _bindings(caller: tuple[View, Step], scope: ast.AST) -> dict[str, tuple[ast.expr, View]]:
    view, step = caller
    if not isinstance(scope, FUNCTIONS):
        return {}
    on_line = _calls_on(view, step)
    named = [node for node in on_line if called_name(node) == scope.name]
    # `callback(number)` calls it by another name: where nothing else is called there, it is that call.
    calls = named or (on_line if len(on_line) == 1 else [])
    return bind(calls[0], scope, view) if calls else {}


def _calls_on(view: View, step: Step) -> list[ast.Call]:
    nodes = (node for node in within(view.scope) if isinstance(node, ast.Call))
    return [node for node in nodes if covers(node, step.line)]


def _shown_call(source: Source, step: Step, called: Sequence[str]) -> str:
    """The call on the line as the source names it; else what is known to be called there."""
    scope = source.scope_at(step.line, step.function)
    on_line = [
        called_name(node)
        for node in within(scope)
        if isinstance(node, ast.Call) and covers(node, step.line) and called_name(node)
    ]
    fitting = next((name for name in called if name in on_line), "")
    if not fitting and called and len(on_line) == 1:
        return on_line[0]
    return fitting or next(iter(called), "")
