"""The double of what chooses a model's class by its architecture."""

from __future__ import annotations

from typing import Any

KNOWN = ("GPT2LMHeadModel",)


def choose() -> None:
    """Imports every model; a test stalls in it."""


def get_model_architecture(model_config: Any) -> tuple[type, str]:
    """The class and the name under which it runs; transformers' own where SGLang has none."""
    choose()
    for name in model_config.hf_config.architectures:
        if name in KNOWN:
            return object, name
        if name.startswith("Unknown"):
            raise ValueError(
                f"{name} has no SGlang implementation. Supported architectures: {KNOWN}"
            )
    return object, "TransformersForCausalLM"
