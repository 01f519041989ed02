"""What is looked up in a file again and again, by name; each is built in one walk over its tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator

Reference = ast.Name | ast.Attribute
_ADDS = frozenset(("append", "add", "extend", "insert", "put", "appendleft"))
_METHODS = (ast.FunctionDef, ast.AsyncFunctionDef)


def classes_of_methods(tree: ast.Module) -> dict[int, ast.ClassDef]:
    """The class of each method, by the method's id."""
    return {
        id(one): node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for one in node.body
        if isinstance(one, _METHODS)
    }


def inherited_names(tree: ast.Module) -> frozenset[str]:
    """Names of what other classes of the file inherit from."""
    return frozenset(
        reference_name(one)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        for one in ast.walk(base)
        if isinstance(one, (ast.Name, ast.Attribute))
    )


def passed_references(tree: ast.Module) -> dict[str, list[Reference]]:
    """Names and attributes that are passed, assigned, returned or an element of something; not those of a test."""
    found: dict[str, list[Reference]] = {}
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        for value in _passed_by(node):
            for one in _alternatives(value):
                if isinstance(one, (ast.Name, ast.Attribute)):
                    found.setdefault(reference_name(one), []).append(one)
        test = getattr(node, "test", None)
        waiting += (
            one
            for one in ast.iter_child_nodes(node)
            if one is not test and not isinstance(one, ast.Compare)
        )
    return found


def _passed_by(node: ast.AST) -> list[ast.expr]:
    """The values that a node passes on as they are."""
    if isinstance(node, ast.Call):
        return [*node.args, *(keyword.value for keyword in node.keywords)]
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.Return, ast.Yield)):
        return [node.value] if node.value is not None else []
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return node.elts if isinstance(getattr(node, "ctx", None), (ast.Load, type(None))) else []
    if isinstance(node, ast.Dict):
        return node.values
    if isinstance(node, ast.arguments):
        return [*node.defaults, *(one for one in node.kw_defaults if one is not None)]
    return []


def _alternatives(value: ast.expr) -> Iterator[ast.expr]:
    """What an expression may be as a whole: `save if rank == 0 else None`."""
    if isinstance(value, ast.IfExp):
        yield from _alternatives(value.body)
        yield from _alternatives(value.orelse)
    elif isinstance(value, ast.BoolOp):
        for one in value.values:
            yield from _alternatives(one)
    else:
        yield value


def reference_name(node: Reference) -> str:
    """`save` of `save` and of `trainer.save`."""
    return node.id if isinstance(node, ast.Name) else node.attr


def values_of_attributes(tree: ast.Module) -> dict[str, list[ast.expr]]:
    """What is assigned to each attribute, and what is put into it, in the order of the tree."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in {one.attr for one in targets if isinstance(one, ast.Attribute)}:
                found.setdefault(name, []).append(node.value)
        elif (added := added_by(node)) is not None and isinstance(added[0], ast.Attribute):
            found.setdefault(added[0].attr, []).append(added[1])
    return found


def added_by(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """What something is put into, and what: `callbacks.append(x)`."""
    of = node.func if isinstance(node, ast.Call) else None
    if isinstance(node, ast.Call) and isinstance(of, ast.Attribute) and of.attr in _ADDS:
        return (of.value, node.args[-1]) if node.args else None
    return None
