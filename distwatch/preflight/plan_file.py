"""Plans from files: distwatch's own keys, and layouts as training frameworks write them."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from distwatch.errors import PlanInvalid, did_you_mean
from distwatch.preflight.foreign_layouts import foreign_sections
from distwatch.preflight.hydra_defaults import with_defaults
from distwatch.preflight.model_config import read_model
from distwatch.preflight.model_fit import Model
from distwatch.preflight.plan import Plan
from distwatch.preflight.plan_keys import OWN_SECTIONS, SIZES
from distwatch.preflight.values import Section, number, whole
from distwatch.preflight.yaml_text import Document, Path, Unresolved

_NUMBERS = (
    "world_size", "tensor", "pipeline", "context", "expert", "expert_tensor", "virtual_pipeline",
    "ulysses", "data", "nodes", "ranks_per_node", "num_attention_heads", "num_key_value_heads",
    "num_layers", "num_experts", "hidden_size", "intermediate_size", "vocab_size",
)  # fmt: skip
_TEXTS = ("backend", "framework")
_OTHERS = ("order", "deadlines", "timeout", "model", "uneven_pipeline")
KEYS = (*_NUMBERS, *_TEXTS, *_OTHERS)
FRAMEWORKS = ("mesh", "megatron", "sglang", "vllm", "neuron")


def read_plans(text: str, name: str = "plan", *, composes: bool = False) -> list[Section]:
    """The layouts of a YAML text, each with what the text leaves open.

    Args:
        name: of the file; relative model paths start at its folder.
        composes: Hydra's defaults list is followed to the files that it names, beside that file.

    Raises:
        PlanInvalid: it holds no readable plan; the message says where and what to do.
    """
    document = Document(text, name)
    left = with_defaults(document, os.path.dirname(name)) if composes else []
    foreign = foreign_sections(document)
    places = _own_places(document, found_others=bool(foreign))
    found = [*(_own(document, path) for path in places), *foreign]
    return [msgspec.structs.replace(one, notes=(*one.notes, *left)) for one in found]


def _own_places(document: Document, *, found_others: bool) -> list[Path]:
    """The mappings that hold distwatch's own keys."""
    named: list[Path] = [
        (name,)
        for name in OWN_SECTIONS
        if isinstance(mapping := document.root.get(name), dict)
        # Other programs' files have a `plan`, too.
        and (not found_others or name == "distwatch" or set(mapping) & set(KEYS))
    ]
    if named or found_others:
        return named
    _require_known(document, ())
    return [()]


def _require_known(document: Document, path: Path) -> None:
    for key in document.mapping(path):
        if key in KEYS:
            continue
        otherwise = (
            f"The keys are {', '.join(KEYS)}; or name a framework's own file, with "
            "keys such as tensor_model_parallel_size."
        )
        advice = did_you_mean(str(key), KEYS, otherwise)
        raise document.invalid((*path, str(key)), f"{key!r} is not a key of a plan", advice)


def _own(document: Document, path: Path) -> Section:
    if path:
        _require_known(document, path)
    values: dict[str, Any] = {}
    notes: list[str] = []
    undecided: list[str] = []
    for key in KEYS:
        place = (*path, key)
        value = document.at(place)
        if isinstance(value, Unresolved):
            notes.append(f"{key} was not resolved: {str(value)!r}")
            if key in SIZES:
                undecided.append(key)
        elif value is not None:
            values |= _read(document, place, key, value, notes)
    plan = msgspec.convert(values, Plan)
    name = ".".join(path) or "plan"
    return Section(name=name, plan=plan, undecided=tuple(undecided), notes=tuple(notes))


def _read(
    document: Document, place: Path, key: str, value: Any, notes: list[str]
) -> dict[str, Any]:
    """The fields of a plan that one key sets."""
    if key in _NUMBERS:
        return {key: whole(document, place, value)}
    if key == "timeout":
        return {"timeout_s": number(document, place, value)}
    if key == "order":
        return {"order": read_order(document, place, value)}
    if key == "deadlines":
        return {"deadlines": _deadlines(document, place, value)}
    if key == "model":
        return _model(document, place, value, notes)
    if key == "uneven_pipeline":
        if not isinstance(value, bool):
            raise document.invalid(place, f"{key} is {value!r}", "Write true or false.")
        return {key: value}
    if not isinstance(value, str):
        raise document.invalid(place, f"{key} is {value!r}", "Write a name.")
    if key == "framework" and value not in FRAMEWORKS:
        advice = did_you_mean(value, FRAMEWORKS, f"There are {', '.join(FRAMEWORKS)}.")
        raise document.invalid(place, f"there is no framework {value!r}", advice)
    return {key: value}


def read_order(document: Document, place: Path, value: Any) -> tuple[str, ...]:
    """The axes of `tp-cp-ep-dp-pp`, or of a list of them.

    Raises:
        PlanInvalid: it is neither.
    """
    names = value.split("-") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not names:
        raise document.invalid(place, f"the order is {value!r}", "Write it as tp-cp-ep-dp-pp.")
    return tuple(name.strip().lower() for name in names)


def _deadlines(document: Document, place: Path, value: Any) -> dict[str, float]:
    from distwatch.agent.initialization.steps import Deadlines

    if not isinstance(value, dict):
        advice = "Write seconds by step, e.g. `deadlines: {store: 30, group: 60}`."
        raise document.invalid(place, f"deadlines are {value!r}", advice)
    seconds = {str(step): number(document, (*place, str(step)), one) for step, one in value.items()}
    try:
        Deadlines(seconds)
    except PlanInvalid as error:
        raise document.invalid(place, error.args[0], error.advice) from None
    return seconds


def _model(document: Document, place: Path, value: Any, notes: list[str]) -> dict[str, Any]:
    if isinstance(value, str):
        beside = os.path.join(os.path.dirname(document.name), os.path.expanduser(value))
        model = read_model(beside if os.path.exists(beside) else os.path.expanduser(value))
        notes.append(f"model facts from {value}")
        return _said(model)
    if not isinstance(value, dict):
        advice = "Name a folder with a config.json, or write its keys inline."
        raise document.invalid(place, f"model is {value!r}", advice)
    known = Model.__struct_fields__
    facts: dict[str, Any] = {}
    for key in value:
        if key not in known:
            advice = did_you_mean(str(key), known, f"The keys are {', '.join(known)}.")
            raise document.invalid((*place, str(key)), f"{key!r} is not a key of a model", advice)
        facts |= _read(document, (*place, key), key, document.at((*place, key)), notes)
    return facts


def _said(model: Model) -> dict[str, Any]:
    facts = msgspec.structs.asdict(model)
    return {name: value for name, value in facts.items() if value not in (None, False)}
