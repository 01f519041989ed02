"""The double of the module that builds groups outside the runner, which versions up to 0.5.15 lack."""

from __future__ import annotations

from typing import Any

from sglang.srt.distributed.parallel_state import get_tp_group


def init_layer_runtime(*, model_config: Any) -> None:
    """Reads the groups, as the buffers of layers do."""
    get_tp_group()
