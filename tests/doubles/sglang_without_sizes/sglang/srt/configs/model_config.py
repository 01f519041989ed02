"""The double of SGLang's model configuration."""

from __future__ import annotations

import json
import os
from typing import Any


class ModelConfig:
    """What a runner is told of its model."""

    def __init__(self, path: str, context_length: int | None) -> None:
        with open(os.path.join(path, "config.json"), encoding="utf-8") as file:
            self.hf_config = json.load(file)
        self.context_len = context_length

    @classmethod
    def from_server_args(cls, server_args: Any, **_: Any) -> ModelConfig:
        """As the server's own entry does."""
        return cls(server_args.model_path, server_args.context_length)
