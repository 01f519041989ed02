"""SGLang's `ServerArgs` for two-sided perturbation (MeZO), in the installed version's words."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Mapping
from typing import Any

from distwatch.errors import PlanInvalid
from distwatch.foreign_files import read_named
from distwatch.visible_text import say

_CONTEXT_LENGTH = 2048
_GONE = {
    "enable_nan_detection": "check the logits of each forward with torch.isfinite(logits).all()",
}
"""Server arguments of earlier versions that a caller may still pass, and what does the same."""
_SIZES = {
    "tensor": "tp_size",
    "pipeline": "pp_size",
    "expert": "ep_size",
    "context": "attn_cp_size",
}


def mezo_defaults(
    model_path: str, batch_size: int, context_length: int | None, device: str
) -> dict[str, Any]:
    """Server arguments for two-sided perturbation: both sides of a batch forward in one step.

    No CUDA graph, since it would replay with the shapes of its capture. Prefixes share the radix
    cache, which must be flushed whenever the weights change: its keys and values belong to the
    weights that computed them.
    """
    sides, length = 2 * batch_size, context_length or _context_length(model_path)
    defaults: dict[str, Any] = {
        "device": device,
        "max_running_requests": sides,
        "context_length": length,
        "disable_cuda_graph": True,
        "disable_radix_cache": False,
        "disable_overlap_schedule": True,
        "skip_tokenizer_init": True,
        # A share of all memory suits a server that has the machine to itself.
        "max_total_tokens": sides * length,
    }
    if device == "cpu":
        defaults |= {
            "attention_backend": "torch_native",
            "sampling_backend": "pytorch",
            "grammar_backend": "none",
        }
    return defaults


def server_args(
    kind: Any, model_path: str, defaults: Mapping[str, Any], given: Mapping[str, Any]
) -> Any:
    """The defaults that this version knows, and all of the user's arguments.

    Raises:
        PlanInvalid: this version has no such server argument.
    """
    given = dict(given)
    if (override := given.pop("model_override_args", None)) is not None:
        given["json_model_override_args"] = json.dumps(override)
    known = {f.name for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    known |= set(inspect.signature(kind).parameters)
    for name in set(given) & set(_GONE) - known:
        if given.pop(name):
            say(f"this SGLang's ServerArgs have no {name}: {_GONE[name]}")
    if unknown := sorted(set(given) - known):
        raise PlanInvalid(
            f"this SGLang's ServerArgs have no {', '.join(unknown)}",
            advice="Look at `python -m sglang.launch_server --help` of the installed version.",
        )
    chosen = {name: value for name, value in defaults.items() if name in known}
    return kind(model_path=model_path, **{**chosen, **given})


def sizes_of(args: Any) -> dict[str, int]:
    """The sizes that the server arguments request, by the words of `distwatch.initialize`."""
    return {size: int(getattr(args, field, 1) or 1) for size, field in _SIZES.items()}


def _context_length(model_path: str) -> int:
    """The model's own length if its configuration is on this machine, at most the default."""
    try:
        config = json.loads(read_named(os.path.join(model_path, "config.json"), 4 << 20))
    except (OSError, ValueError):
        return _CONTEXT_LENGTH
    own = [config.get(name) for name in ("max_position_embeddings", "n_positions")]
    return min([_CONTEXT_LENGTH, *(length for length in own if isinstance(length, int))])
