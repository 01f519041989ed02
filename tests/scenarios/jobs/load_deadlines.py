"""One rank whose loads stall, part by part, in a read that never returns; it goes on after each InitTimeout."""

import distwatch.auto  # noqa: I001
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import distwatch
from steps import gate, silent_pipe, step

STAY = silent_pipe("stay")
NAMED: dict[str, Any] = {"deadlines": {"load": 3}}
PARTS = {
    "ServerArgs": ("server_args", "resolve"),
    "ModelConfig": ("configs.model_config", "read_config"),
    "architecture": ("model_loader.utils", "choose"),
    "weights": ("model_executor.model_runner", "read_weights"),
    "KV cache": ("model_executor.model_runner", "size_cache"),
    "memory pool": ("model_executor.model_runner", "allocate"),
    "attention backend": ("model_executor.model_runner", "choose_attention"),
    "CUDA graphs": ("model_executor.model_runner", "capture"),
}
"""By phase: the double's module and function that stalls."""


def stall(*_: object, **__: object) -> None:
    with open(STAY) as pipe:
        pipe.read()


class Weights:
    """A class whose from_pretrained waits for its file."""

    from_pretrained = staticmethod(stall)


def told(call: Callable[[], object]) -> dict[str, Any]:
    """What that call raises."""
    try:
        call()
    except distwatch.InitTimeout as error:
        finding = error.finding
        return {
            "message": str(error).partition(": rank 0 has made")[0],
            "step": error.step,
            "summary": finding.summary if finding else "",
            "code": finding.code if finding else "",
            "missing": list(error.missing),
        }
    return {}


def build(**more: Any) -> Any:
    return distwatch.build_sglang_runner(MODEL, device="cpu", **more)


def stalled(phase: str, call: Callable[[], object]) -> dict[str, Any]:
    import importlib

    place, name = PARTS[phase]
    module = importlib.import_module(f"sglang.srt.{place}")
    kept = getattr(module, name)
    setattr(module, name, stall)
    try:
        return told(call)
    finally:
        setattr(module, name, kept)


def itself() -> None:
    """A ModelRunner that the user's own code builds, where a runner has published what it reads."""
    from sglang.srt.model_executor.model_runner import ModelRunner
    from sglang.srt.runtime_context import get_parallel

    config = type("Config", (), {"model_path": MODEL})()
    ModelRunner(config, 0.8, 0, 0, get_parallel().published)


MODEL = os.path.join(os.environ["TEST_WORK"], "model")
os.makedirs(MODEL)
with open(os.path.join(MODEL, "config.json"), "w") as file:
    json.dump({}, file)

gate("start").read(1)
if sys.argv[1] == "parts":
    found = {phase: stalled(phase, lambda: build(**NAMED)) for phase in PARTS}
else:
    found = {
        "named": stalled("weights", lambda: build(**NAMED)),
        "setting": stalled("weights", build),
        "itself": stalled("weights", itself),
        "distwatch.load": told(lambda: distwatch.load(MODEL, model_class=Weights)),
    }
    assert build().forward() == 1.0
with open(os.path.join(os.environ["TEST_WORK"], "told.json"), "w") as file:
    json.dump(found, file)
step("told")
gate("end").read(1)
