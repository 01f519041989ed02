"""Advice before a load, from its arguments and the machine alone."""

from __future__ import annotations

from typing import Any

import pytest

from distwatch.preflight.model_load import (
    LoadingMachine,
    load_advice,
    rereads_offloaded,
    size_of,
)
from distwatch.state.finding import Finding
from distwatch.state.loads import LoadArguments

GIB = 2**30
LITTLE = {"local_world_size": 8, "host_memory": 64 * GIB, "checkpoint_bytes": 14 * GIB}
PLENTY = {**LITTLE, "host_memory": 640 * GIB}
PAIR = {"local_world_size": 2, "host_memory": 64 * GIB}
SPREAD = {"device_map": "auto", "spreads": True}
AUTO = {"device_map": "auto"}
EXCEEDS = "load.memory_exceeds"


def advised(
    arguments: dict[str, Any], machine: dict[str, Any], max_memory: dict[Any, Any] | None = None
) -> list[Finding]:
    return load_advice(
        LoadArguments(checkpoint="m", **arguments), LoadingMachine(**machine), max_memory or {}
    )


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("60GiB", 60 * GIB), ("800KB", 800_000), ("1.5 GB", 1_500_000_000), (7, 7), ("5mib", 5 << 20),
        ("much", None), ("60", None), (None, None), (True, None), ("1.2.3GB", None),
    ],
)  # fmt: skip
def test_sizes_are_read_as_accelerate_reads_them(given: object, size: int | None) -> None:
    assert size_of(given) == size


@pytest.mark.parametrize(
    ("version", "rereads"),
    [("4.51.3", True), ("4.56.2", True), ("4.57.0", False), ("5.23.0", False), ("", False)],
)
def test_versions_that_read_offloaded_weights_twice(version: str, rereads: bool) -> None:
    assert rereads_offloaded(version) is rereads


@pytest.mark.parametrize(
    ("arguments", "machine", "max_memory", "code", "words"),
    [
        ({"offload_state_dict": True, "versions": {"transformers": "4.56.2"}}, {}, {}, "load.offloaded", "TMPDIR"),
        ({"device_map": "{'': 'disk'}"}, {"safetensors": False}, {}, "load.offloaded", "offload_folder is not set"),
        ({}, LITTLE, {}, EXCEEDS, "8 ranks × 14 GiB"),
        (AUTO, PAIR, {"cpu": "60GiB"}, EXCEEDS, "2 × max_memory['cpu'] = 60 GiB"),
        (AUTO, {"device_memory": (80 * GIB,)}, {0: "80GiB"}, EXCEEDS, "nothing is left"),
        (SPREAD, {"local_world_size": 2, "device_memory": (1, 1)}, {}, "load.device_map_conflict", "'auto'"),
    ],
)  # fmt: skip
def test_what_will_cost_more_than_it_seems(
    arguments: dict[str, Any], machine: dict[str, Any], max_memory: dict[Any, Any], code: str, words: str
) -> None:  # fmt: skip
    (finding,) = advised(arguments, machine, max_memory)
    assert (finding.code, finding.severity) == (code, "warning")
    assert words in finding.summary + finding.advice


@pytest.mark.parametrize(
    ("arguments", "machine", "max_memory"),
    [
        ({}, PLENTY, {}),
        ({}, {**LITTLE, "host_memory": None}, {}),
        ({"device_map": "{'': 'cuda:3'}"}, LITTLE, {}),
        ({"parallel_plan": "auto"}, LITTLE, {}),
        ({"offload_state_dict": True, "versions": {"transformers": "5.23.0"}}, {}, {}),
        ({"device_map": "{'': 'disk'}"}, {"safetensors": True}, {}),
        (SPREAD, {"local_world_size": 1, "device_memory": (1, 1)}, {}),
        (AUTO, {"device_memory": (80 * GIB,)}, {0: "70GiB"}),
    ],
)  # fmt: skip
def test_sound_arguments_need_no_advice(
    arguments: dict[str, Any], machine: dict[str, Any], max_memory: dict[Any, Any]
) -> None:
    assert advised(arguments, machine, max_memory) == []


def test_a_path_that_is_not_there_is_told_before_the_hub_is_asked() -> None:
    arguments = LoadArguments(checkpoint="models/lama-7b")
    machine = LoadingMachine(beside=("llama-7b", "opt"))
    (finding,) = load_advice(arguments, machine, {})
    assert (finding.code, finding.severity) == ("load.hub_unreachable", "warning")
    assert finding.summary.startswith("there is no models/lama-7b on this machine")
    assert finding.advice == "Did you mean models/llama-7b?"
    (unlike,) = load_advice(arguments, LoadingMachine(beside=()), {})
    assert "Correct the path" in unlike.advice
    assert not load_advice(arguments, LoadingMachine(), {}), (
        "an id of the hub, or a folder that is there"
    )
