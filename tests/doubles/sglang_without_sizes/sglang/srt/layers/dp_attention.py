"""The double of attention's own sizes."""

from __future__ import annotations

from sglang.srt.runtime_context import get_parallel


def initialize_dp_attention() -> None:
    """Reads what was published and built."""
    get_parallel().attn_tp_group  # noqa: B018
