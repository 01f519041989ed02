"""Layouts as Megatron-style training frameworks write them, anywhere in their files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from distwatch.errors import PlanInvalid
from distwatch.preflight import plan_keys as keys
from distwatch.preflight.model_config import read_model
from distwatch.preflight.model_fit import Model
from distwatch.preflight.placement import accelerators_of, components_of, placed_ranks, placement_of
from distwatch.preflight.plan import Plan
from distwatch.preflight.values import Section, number, whole
from distwatch.preflight.yaml_text import Document, Path, Unresolved


def foreign_sections(document: Document) -> list[Section]:
    """Every mapping with parallel sizes is a layout of its own, named by its place in the file.

    Raises:
        PlanInvalid: a size is not a number.
    """
    own = tuple((name,) for name in keys.OWN_SECTIONS)
    places = [
        path
        for path, mapping in document.mappings()
        if not keys.ANCHORS.isdisjoint(map(str, mapping))
        and path[:1] not in own
        and _has_ranks(path)
    ]
    found = []
    # RLinf with FSDP sets no such size: each component is as wide as its placement.
    for path in sorted(places, key=document.line) or _placed_components(document):
        layout = _Layout(document, path)
        found.append(layout.read())
        if (beside := layout.read_engines(found[-1].plan)) is not None:
            found.append(beside)
    converted = dict(_converters(document))
    return [
        msgspec.structs.replace(one, converted=converted.get(one.name.partition(".")[0], {}))
        for one in found
    ]


def _placed_components(document: Document) -> list[Path]:
    """The components of RLinf's placement that the file configures, in the order of the placement."""
    names = components_of(document.root)
    return [(one,) for one in names if document.mapping((one,)) and _has_ranks((one,))]


def _converters(document: Document) -> Iterator[tuple[str, dict[str, int]]]:
    """By the component that they are for: the sizes that a converter writes checkpoints for."""
    for path, mapping in document.mappings():
        is_converter = any(keys.CONVERTER in part.lower() for part in path[1:])
        if is_converter and not keys.ANCHORS.isdisjoint(map(str, mapping)):
            layout = _Layout(document, path)
            yield path[0], layout.read_sizes()


def _has_ranks(path: Path) -> bool:
    return not any(word in part.lower() for part in path for word in keys.NO_RANKS)


class _Layout:
    """One layout, and what the mappings around it say about it."""

    def __init__(self, document: Document, path: Path) -> None:
        self._document = document
        self._path = path
        self._notes: list[str] = []

    def read_sizes(self) -> dict[str, int]:
        """Its own sizes by axis, without what the file leaves open.

        Raises:
            PlanInvalid: a size is not a number.
        """
        read = {axis: self._own_size(names) for axis, names in keys.SIZES.items()}
        return {axis: size for axis, size in read.items() if size is not None}

    def read(self) -> Section:
        """The layout.

        Raises:
            PlanInvalid: a size is not a number.
        """
        fields: dict[str, Any] = {}
        undecided: list[str] = []
        for axis, names in keys.SIZES.items():
            told = len(self._notes)
            if (size := self._own_size(names)) is not None:
                fields[axis] = size
            elif len(self._notes) > told:
                undecided.append(axis)
        fields |= {"framework": self._framework(), "backend": self._backend()}
        fields |= {"timeout_s": self._timeout_s(), "uneven_pipeline": self._is_uneven()}
        plan = Plan(**fields, **self._ranks(), **self._facts(), **self._order())
        return Section(
            name=".".join(self._path) or "top level",
            plan=plan,
            undecided=tuple(undecided),
            notes=tuple(self._notes),
            accelerators=self._accelerators(),
            capacity=self._capacity(),
        )

    def read_engines(self, training: Plan) -> Section | None:
        """The engines that slime writes flat beside the training's sizes; None where there are none.

        Raises:
            PlanInvalid: a size is not a number.
        """
        width = self._own_size(keys.ENGINE_WIDTH)
        if width is None:
            return None
        colocated = any(
            self._document.mapping(self._path).get(name) is True for name in keys.COLOCATED
        )
        ranks = training.ranks if colocated else self._own_size(keys.ENGINE_RANKS)
        pipeline = self._own_size(keys.ENGINE_PIPELINE) or 1
        plan = Plan(
            framework="sglang",
            tensor=max(1, width // pipeline),
            pipeline=pipeline,
            expert=self._own_size(keys.ENGINE_EXPERT) or 1,
            world_size=ranks,
            num_attention_heads=training.num_attention_heads,
            num_key_value_heads=training.num_key_value_heads,
        )
        notes = () if ranks else ("rollout_num_gpus is not set, and the engines are not colocated",)
        return Section(name=".".join((*self._path, "rollout engines")), plan=plan, notes=notes)

    def _accelerators(self) -> tuple[int, ...]:
        placement = self._placement()
        return accelerators_of(placement, self._path[0]) if placement and self._path else ()

    def _capacity(self) -> int | None:
        nodes, per_node = self._near(keys.NODES), self._near(keys.RANKS_PER_NODE)
        return nodes * per_node if nodes and per_node else None

    def _placement(self) -> Mapping[Any, Any]:
        return placement_of(self._document.root)

    def _own_size(self, names: Iterable[str]) -> int | None:
        for name in names:
            place = (*self._path, name)
            value = self._value(place)
            # -1 and 0 let the framework choose.
            if value is not None and value not in (-1, 0):
                return whole(self._document, place, value)
        return None

    def _value(self, place: Path) -> Any:
        """The value there; None, with a note, where the file alone does not decide it."""
        value = self._document.at(place)
        if isinstance(value, Unresolved) or (isinstance(value, str) and _is_template(value)):
            self._notes.append(f"{'.'.join(place)} was not resolved: {str(value)!r}")
            return None
        return value

    def _framework(self) -> str:
        inside = {str(name) for name in self._document.mapping(self._path)}
        is_engine = bool(set(keys.ENGINE_PLACES) & {part.lower() for part in self._path})
        if not is_engine and inside.isdisjoint(keys.ENGINE_KEYS):
            sharded = inside.isdisjoint((*keys.SIZES["tensor"], *keys.SIZES["pipeline"]))
            return "" if sharded or self._is_fsdp() else "megatron"
        said = [self._document.at((*self._path, name)) for name in ("rollout_backend", "name")]
        if "sglang" in (*said, *self._path):
            return "sglang"
        # RLinf's rollout may run the model itself, without an engine and without its sizes.
        sizes = {*keys.ENGINE_KEYS, *keys.SIZES["tensor"], *keys.SIZES["pipeline"]}
        return "vllm" if "vllm" in (*said, *self._path) or inside & sizes else ""

    def _is_fsdp(self) -> bool:
        """Whether the nearest mapping that names the training backend names FSDP."""
        for scope in self._scopes():
            said = [self._value(place) for place in _places(scope, keys.TRAINING_BACKEND)]
            if named := [one.lower() for one in said if isinstance(one, str)]:
                return all(one.startswith("fsdp") for one in named)
        return False

    def _ranks(self) -> dict[str, Any]:
        said = {
            "world_size": self._near(keys.WORLD),
            "nodes": self._near(keys.NODES),
            "ranks_per_node": self._near(keys.RANKS_PER_NODE),
        }
        if (placed := self._placed()) is not None:
            # The component uses only some of the nodes' accelerators.
            said |= {"world_size": placed, "ranks_per_node": None}
        return {name: value for name, value in said.items() if value is not None}

    def _placed(self) -> int | None:
        """RLinf gives each component its own accelerators."""
        placement = self._placement()
        if not placement or not self._path:
            return None
        ranks, note = placed_ranks(placement, self._path[0], self._capacity())
        if note:
            self._notes.append(note)
        return ranks

    def _near(self, names: Iterable[str]) -> int | None:
        """A number set for this layout: in its own mapping, else in the nearest one around it."""
        for scope in self._scopes():
            said = {
                place: value for place in _places(scope, names) if (value := self._count(place))
            }
            if len(set(said.values())) == 1:
                return next(iter(said.values()))
            if said:
                told = ", ".join(f"{'.'.join(place)}={value}" for place, value in said.items())
                self._notes.append(f"not decided: the file has several values: {told}")
                return None
        return None

    def _count(self, place: Path) -> int | None:
        if place[-1] == "devices" and "num_nodes" not in self._document.mapping(place[:-1]):
            return None
        value = self._value(place)
        if place[-1] == "devices" and isinstance(value, list):
            return len(value) or None
        # A part that is switched off has 0; "1:4" and auto are torchrun's.
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return None
        return whole(self._document, place, value)

    def _scopes(self) -> Iterator[list[tuple[Path, Mapping[str, Any]]]]:
        """From this mapping outwards: each one around it, with the mappings inside it."""
        yield [(self._path, self._document.mapping(self._path))]
        for length in range(len(self._path), -1, -1):
            path = self._path[:length]
            mapping = self._document.mapping(path)
            yield [
                (path, mapping),
                *(
                    ((*path, str(name)), one)
                    for name, one in mapping.items()
                    if isinstance(one, dict)
                ),
            ]

    def _backend(self) -> str:
        for scope in self._scopes():
            for place in _places(scope, keys.BACKEND):
                value = self._value(place)
                if isinstance(value, str):
                    return value.lower()
        return ""

    def _timeout_s(self) -> float | None:
        for scope in self._scopes():
            for unit_s, names in ((60, keys.TIMEOUT_MINUTES), (1, keys.TIMEOUT_SECONDS)):
                for place in _places(scope, names):
                    if (value := self._value(place)) is not None:
                        return number(self._document, place, value) * unit_s
        return None

    def _order(self) -> dict[str, Any]:
        for name in keys.ORDER:
            value = self._value((*self._path, name))
            if isinstance(value, str) and "-" in value:
                return {"order": tuple(value.lower().split("-"))}
        return {}

    def _is_uneven(self) -> bool:
        here = [mapping for _, mapping in next(self._scopes())]
        inside = [one for mapping in here for one in mapping.values() if isinstance(one, dict)]
        return any(mapping.get(name) for mapping in (*here, *inside) for name in keys.UNEVEN)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, int] = {}
        model = self._model()
        for fact, names in keys.FACTS.items():
            said = self._own_size(names)
            if said is None and model is not None:
                said = getattr(model, fact)
            if said is None:
                said = self._near(names)  # a `model:` beside the sizes
            if said is not None:
                facts[fact] = said
        return facts

    def _model(self) -> Model | None:
        """The configuration of the nearest model path that is on this machine."""
        for scope in self._scopes():
            for place in _model_places(scope):
                value = self._value(place)
                if not isinstance(value, str):
                    continue
                path, name = os.path.expanduser(value), ".".join(place)
                if not os.path.exists(path):
                    self._notes.append(
                        f"{name}={value} is not on this machine: heads and layers were not checked"
                    )
                    return None
                try:
                    model = read_model(path)
                except PlanInvalid as error:
                    self._notes.append(
                        f"{name}: {error.args[0]}: heads and layers were not checked"
                    )
                    return None
                self._notes.append(f"model facts from {name}={value}")
                return model
        return None


def _places(scope: Iterable[tuple[Path, Mapping[str, Any]]], names: Iterable[str]) -> list[Path]:
    return [(*path, name) for name in names for path, mapping in scope if name in mapping]


def _model_places(scope: list[tuple[Path, Mapping[str, Any]]]) -> list[Path]:
    named = _places(scope, keys.MODEL_PATHS)
    in_model = [(*path, "path") for path, one in scope if path[-1:] == ("model",) and "path" in one]
    return [*named, *in_model]


def _is_template(value: str) -> bool:
    return "$" in value or "{" in value
