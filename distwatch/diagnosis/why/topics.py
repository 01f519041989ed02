"""What a condition is about: the rank, data, files, time, randomness, an exception, the environment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Literal

from distwatch.diagnosis.why.names import COUNTERS, View, attribute_values, bind, defaults_of_option
from distwatch.diagnosis.why.source import FUNCTIONS, body_of, called_name, within

Topic = Literal[
    "rank", "exception", "randomness", "time", "files", "environment", "data", "", "constant"
]
"""'': not known. `constant`: the same on every rank, as far as the source shows."""
_WORDS: tuple[tuple[Topic, str], ...] = (
    # The words that decide, the strongest topic first: of a condition about several, that one counts.
    ("rank", "rank ranks myrank global_rank local_rank proc_id process_index node_rank stage_id leader chief "
     "is_main is_master is_coordinator is_primary main_process master_process process_zero world_process "
     "rank_zero rank0 first_stage last_stage should_save pipeline_stage"),
    ("randomness", "random randint randrange rand randn randperm shuffle rng uniform uuid uuid1 uuid4 choice "
     "choices bernoulli multinomial secrets token_hex coin default_rng getrandbits"),
    ("time", "time monotonic perf_counter elapsed deadline datetime now timer clock expired budget_s "
     "time_left timeout_reached duration"),
    ("files", "exists isfile isdir is_file is_dir listdir glob iglob iterdir getsize getmtime stat access "
     "os_path path open scandir walk file files filename ckpt checkpoint_path lexists disk_usage"),
    ("exception", "exception exc error errors failed failure err traceback"),
    ("environment", "environ getenv gethostname hostname platform node cpu_count cuda_available is_available "
     "device_count getpid"),
    ("data", "loader dataloader dataset batch batches loss losses isnan isinf isfinite nan item numel shape size "
     "any all tensor tensors grad grads gradient logits labels sample samples next iter mask tokens data queue "
     "input inputs output outputs x y length lengths empty sum mean max min count_nonzero overflow found_inf "
     "shard shards chunk chunks buffer targets text score accuracy metric metrics norm layers rows records "
     "examples images documents sequences"),
)  # fmt: skip
_TOPIC_OF: dict[str, Topic] = {word: topic for topic, words in _WORDS for word in words.split()}
_ORDER: tuple[Topic, ...] = (*(topic for topic, _ in _WORDS), "", "constant")
_NO_RANKS = re.compile(r"world_size|num_(ranks|processes)|nprocs|n_ranks|warmup|num_samples$")
CONFIG = frozenset(("args", "arg", "cfg", "config", "opt", "opts", "hparams", "flags", "settings"))
_PASSED_ON = frozenset(
    "range len list tuple set min max int float bool abs sum sorted reversed enumerate zip iter next str "
    "tensor ones zeros full empty randn rand arange get item to any all".split()
)
"""Calls whose result is about what its arguments are about."""
_DEEPEST = 5
_MOST = 200


def topic_of(view: View, tests: Iterable[ast.AST]) -> tuple[Topic, Topic]:
    """What some conditions are about by their own words, and the strongest topic behind their names.

    A loop over a loader is about data, although `loader = shards[rank]` stands behind it.
    """
    search = _Search()
    found: set[Topic] = set()
    said: set[Topic] = set()
    for test in tests:
        said |= {word_topic(word) for word in _words(test)}
        found |= _topics(view, test, 0, search)
    behind = _strongest(found)
    own = _strongest(said - {"", "constant"})
    if own != "constant":
        return own, behind
    # What is said nearest to the condition counts: a helper's own words before what is passed to it.
    nearest = min(search.said.values(), default=0)
    near = {topic for topic, depth in search.said.items() if depth == nearest and topic in found}
    return (_strongest(near) if near else behind), behind


class _Search:
    """One search for topics: how much was looked at, and how far each topic was from the condition."""

    def __init__(self) -> None:
        self.looked = 0
        self.said: dict[Topic, int] = {}

    def note(self, topic: Topic, depth: int) -> Topic:
        self.said[topic] = min(depth, self.said.get(topic, depth))
        return topic


def is_about_rank(tests: Iterable[ast.AST]) -> bool:
    """Whether the rank stands in some conditions themselves, and not only behind their names."""
    return any(word_topic(word) == "rank" for test in tests for word in _words(test))


def _strongest(topics: set[Topic]) -> Topic:
    return next((topic for topic in _ORDER if topic in topics), "constant")


def _words(node: ast.AST) -> Iterator[str]:
    named = {id(one) for part in within(node) for one in _variable_names(part)}
    named |= {id(one) for part in within(node) if _is_alike(part) for one in ast.walk(part)}
    for part in within(node):
        if id(part) in named:
            continue
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def _variable_names(node: ast.AST) -> Iterator[ast.Constant]:
    """Names of environment variables, as in `os.environ.get("CACHE_PATH")`; not those that name a rank."""
    yield from (key for key in _keys_of_environment(node) if word_topic(key.value) != "rank")


def _keys_of_environment(node: ast.AST) -> Iterator[ast.Constant]:
    if isinstance(node, ast.Call):
        of = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        keys = node.args
        if called_name(node) == "getenv":
            of = ast.Name(id="environ")
    elif isinstance(node, ast.Subscript):
        of, keys = node.value, [node.slice]
    else:
        return
    if (of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")) == "environ":
        yield from (key for key in keys if isinstance(key, ast.Constant))


def _is_alike(node: ast.AST) -> bool:
    """Whether it reads a variable that launchers set alike for every rank: `os.environ["WORLD_SIZE"]`."""
    return any(word_topic(key.value) == "constant" for key in _keys_of_environment(node))


def _topics(view: View, node: ast.AST, depth: int, search: _Search) -> set[Topic]:
    search.looked += 1
    if depth > _DEEPEST or search.looked > _MOST:
        return {""}
    if isinstance(node, ast.Constant):
        return {word_topic(node.value)} if isinstance(node.value, str) and depth == 0 else set()
    if isinstance(node, ast.ExceptHandler):
        return {"exception"}
    if isinstance(node, ast.Name):
        return _of_name(view, node.id, depth, search)
    if isinstance(node, ast.Attribute):
        return _of_attribute(view, node, depth, search)
    if _is_alike(node):
        return set()
    if isinstance(node, ast.Call):
        return _of_call(view, node, depth, search)
    if isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
        return set()
    found: set[Topic] = set()
    variables = list(_variable_names(node))
    for child in ast.iter_child_nodes(node):
        if child in variables:
            continue
        if not isinstance(child, (ast.operator, ast.cmpop, ast.boolop, ast.expr_context)):
            found |= _topics(view, child, depth, search)
    return found


def _of_name(view: View, name: str, depth: int, search: _Search) -> set[Topic]:
    if (said := word_topic(name)) and said != "data":
        return {search.note(said, depth)}
    resolved: set[Topic] = set()
    known, varies = False, False
    for value, where in view.meanings(name):
        known, varies = True, varies or not isinstance(value, ast.Constant)
        if not (isinstance(value, ast.Name) and value.id == name and where is view):
            resolved |= _topics(where, value, depth + 1, search)
    if known and not varies:
        return set()  # `for batch in range(4)`: it only counts, whatever its name
    if said == "data":
        # A loader is about data, whatever sampler it has; `sizes[rank]` is about the rank.
        near = {topic for topic in resolved if topic == "rank" and depth < 2}
        return {search.note(said, depth), *near}
    if known:
        return resolved
    alike = name.isupper() or name in ("True", "False", "self") or name in view.source.modules
    return set() if alike else {""}


def _of_attribute(view: View, node: ast.Attribute, depth: int, search: _Search) -> set[Topic]:
    said = word_topic(node.attr)
    if said and said != "data":
        return {search.note(said, depth)}
    base = node.value.id if isinstance(node.value, ast.Name) else ""
    base = node.value.attr if isinstance(node.value, ast.Attribute) else base
    if base in CONFIG:
        return _of_setting(view, node.attr, depth, search)
    if base == "self":
        found = [
            topic
            for value, where in attribute_values(view.source, node.attr)
            for topic in _topics(where, value, depth + 1, search)
        ]
        if found:
            return set(found)
    if said:
        return {search.note(said, depth)}
    return _topics(view, node.value, depth, search) if base != "self" else {""}


def _of_setting(view: View, name: str, depth: int, search: _Search) -> set[Topic]:
    """Of a configuration that ranks share, unless this file shows that it is made from the rank."""
    values = (*attribute_values(view.source, name), *defaults_of_option(view.source, name))
    found = {topic for value, where in values for topic in _topics(where, value, depth + 1, search)}
    return found & {"rank"}


def _of_call(view: View, node: ast.Call, depth: int, search: _Search) -> set[Topic]:
    name = called_name(node)
    found: set[Topic] = set()
    said = word_topic(name)
    if said:
        found.add(search.note(said, depth))
    if isinstance(node.func, ast.Attribute) and name not in COUNTERS:
        base = _topics(view, node.func.value, depth, search)
        found |= base if said != "data" or "rank" in base else set()
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    defined = view.source.functions(name)
    for function in defined[:2]:
        inside = View(view.source, function, bind(node, function, view))
        for returned in within(function):
            if isinstance(returned, ast.Return) and returned.value is not None:
                found |= _topics(inside, returned.value, depth + 1, search)
                found |= _decided_by(inside, function, depth, search)
        found |= _yielded_by(inside, function, depth, search)
    if not defined and isinstance(node.func, ast.Name):
        lambdas = [one for one in view.meanings(name) if isinstance(one[0], ast.Lambda)]
        for value, where in lambdas[:2]:
            inside = View(where.source, value) if isinstance(value, ast.Lambda) else where
            found |= _topics(inside, body_of(inside.scope)[0], depth + 1, search)
    if not defined and (name in _PASSED_ON or depth == 0 or isinstance(node.func, ast.Attribute)):
        variables = list(_variable_names(node))
        for argument in arguments:
            if argument not in variables:
                found |= _topics(view, argument, depth, search)
    is_plain = isinstance(node.func, ast.Name) and name not in _PASSED_ON | COUNTERS
    if not found and not defined and is_plain:
        return {""}  # of another file, maybe: nothing shows that it returns the same everywhere
    return found


def _decided_by(
    view: View, function: ast.FunctionDef | ast.AsyncFunctionDef, depth: int, search: _Search
) -> set[Topic]:
    """What the branches are about in which a helper returns one value or another."""
    found: set[Topic] = set()
    for node in within(function):
        if isinstance(node, ast.If) and any(isinstance(n, ast.Return) for n in within(node)):
            found |= _topics(view, node.test, depth + 1, search)
    return found


def _yielded_by(
    view: View, function: ast.FunctionDef | ast.AsyncFunctionDef, depth: int, search: _Search
) -> set[Topic]:
    """Of a generator: what decides how often it yields."""
    found: set[Topic] = set()
    for node in within(function):
        yields = any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in within(node))
        if isinstance(node, (ast.For, ast.AsyncFor)) and yields:
            found |= _topics(view, node.iter, depth + 1, search)
        elif isinstance(node, ast.While) and yields:
            found |= _topics(view, node.test, depth + 1, search)
        elif isinstance(node, ast.YieldFrom):
            found |= _topics(view, node.value, depth + 1, search)
    return found


def word_topic(word: object) -> Topic:
    """What a name tells by its words: `is_main_process` is about the rank."""
    if not isinstance(word, str) or len(word) > 80:
        return ""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", word).lower().strip("_")
    if _NO_RANKS.search(name):
        return "constant"
    parts = name.split("_")
    options = {name, *parts, *("_".join(pair) for pair in pairwise(parts))}
    told = {topic for option in options if (topic := _TOPIC_OF.get(option))}
    return next((topic for topic in _ORDER if topic in told), "")
