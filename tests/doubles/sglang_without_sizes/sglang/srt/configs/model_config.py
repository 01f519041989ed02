"""The double of SGLang's model configuration."""

from __future__ import annotations

import json
import os
import types
from typing import Any


def read_config() -> None:
    """The hub's answer; a test stalls in it."""


class ModelConfig:
    """What a runner is told of its model."""

    def __init__(self, path: str, context_length: int | None) -> None:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            self.hf_config = types.SimpleNamespace(
                **{"architectures": ["GPT2LMHeadModel"], **json.load(file)}
            )
        self.is_generation = getattr(self.hf_config, "is_generation", True)
        self.context_len = context_length

    @classmethod
    def from_server_args(cls, server_args: Any, **_: Any) -> ModelConfig:
        """As the server's own entry does."""
        read_config()
        return cls(server_args.model_path, server_args.context_length)
