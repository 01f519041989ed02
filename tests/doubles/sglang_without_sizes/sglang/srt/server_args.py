"""The double of SGLang's server arguments: a data class that refuses what it does not know."""

from __future__ import annotations

import dataclasses


def resolve() -> None:
    """A server's defaults depend on the model's configuration; a test stalls in it."""


@dataclasses.dataclass
class ServerArgs:
    """A few of the hundreds that there are."""

    model_path: str
    device: str | None = None
    dtype: str = "auto"
    tp_size: int = 1
    pp_size: int = 1
    ep_size: int = 1
    context_length: int | None = None
    max_running_requests: int | None = None
    disable_cuda_graph: bool = False
    disable_radix_cache: bool = False
    skip_tokenizer_init: bool = False
    mem_fraction_static: float | None = None
    attention_backend: str | None = None
    sampling_backend: str | None = None
    disable_overlap_schedule: bool = False
    max_total_tokens: int | None = None
    json_model_override_args: str = "{}"

    def __post_init__(self) -> None:
        resolve()
