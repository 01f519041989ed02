"""The steps of a trail with what guards their lines."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from distwatch.diagnosis.why.guard import Guard
from distwatch.diagnosis.why.guards import guards_of
from distwatch.diagnosis.why.names import View, bind
from distwatch.diagnosis.why.passed_on import Chosen, choices_of, keys_of, registrations_of
from distwatch.diagnosis.why.source import (
    FUNCTIONS,
    Scope,
    Source,
    called_name,
    covers,
    name_of,
    within,
)
from distwatch.diagnosis.why.trails import Step, Trail

_CACHES = frozenset(("lru_cache", "cache", "memoize", "cached"))
Sources = Callable[[str], Source | None]
"""The file of a path; None where it was not read."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a trail with its guards."""

    step: Step
    view: View
    guards: tuple[Guard, ...]
    called: str
    is_direct: bool
    """Whether the line calls the next function by its own name: nothing between them decides."""
    chosen: Chosen = ()
    """Of the last line, where it calls a variable: what decides that this stands for what is called."""


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
        name, chosen = ("", ()) if following else _chosen(view, step, called)
        places.append(
            Place(
                step=step,
                view=view,
                guards=(*_kept_results(source, scope), *guards),
                called=name or _shown_call(source, step, called),
                is_direct=any(called_name(one) in called for one in _calls_on(view, step)),
                chosen=chosen,
            )
        )
        caller = view, step
    return places


def registered_of(caller: Place, place: Place, others: Iterable[Place | None]) -> Chosen:
    """Of a function that is called by another name: what guards the lines that pass it on by its own.

    Args:
        others: where the other side is.
    """
    calls = _calls_on(caller.view, caller.step)
    by_name = [one for one in calls if called_name(one) == place.step.function]
    scopes = [one.view.scope for one in others if one is not None]
    found = registrations_of(
        place.view.source, place.view.scope, by_own_name=bool(by_name), others=scopes
    )
    if by_name or found:
        return found
    return next((keys for one in calls if (keys := keys_of(caller.view, one))), ())


def _chosen(view: View, step: Step, called: Sequence[str]) -> tuple[str, Chosen]:
    calls = _calls_on(view, step)
    if any(called_name(one) in called for one in calls):
        return "", ()
    options = (choices_of(view, one, called) for one in calls)
    return next((option for option in options if option[1]), ("", ()))


def _kept_results(source: Source, scope: Scope) -> Iterator[Guard]:
    """Of a function whose results are kept by its arguments: it only runs for what it has not been asked."""
    if not isinstance(scope, FUNCTIONS):
        return
    for one in scope.decorator_list:
        named = called_name(one) if isinstance(one, ast.Call) else getattr(one, "attr", "")
        if (named or getattr(one, "id", "")) in _CACHES:
            arguments = [ast.Name(id=argument.arg) for argument in scope.args.args]
            yield Guard(
                kind="cached", node=one, arm="body", line=one.lineno,
                text=source.code(one.lineno), tests=tuple(arguments),
            )  # fmt: skip


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
