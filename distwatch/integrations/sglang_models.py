"""What SGLang's own models need outside a server: a word on the architecture, and two corrections, each told."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

from distwatch.errors import PlanInvalid
from distwatch.visible_text import say

_ROTARY = ("sglang.srt.layers.rotary_embedding.base", "sglang.srt.layers.rotary_embedding")
"""The module with the class, and the one that had it before."""
_NEXT_TOKEN = ("CausalLM", "ConditionalGeneration", "LMHeadModel")
"""How the names of architectures end that give logits of the next token."""
_ROTARY_STAND_IN = (
    "rotary positions run by a stand-in: SGLang's own torch formula (RotaryEmbedding.forward_native) in "
    "place of a CPU kernel, which neither vllm nor sgl_kernel provides here"
)
_INSTEAD = (
    "Choose a model with a language model head (…ForCausalLM), or run the two forward passes of this "
    "one with transformers itself, as examples/mezo does."
)


def require_logits(config: Any) -> None:
    """The architecture must be one of SGLang's own, or a causal one of transformers.

    Raises:
        PlanInvalid: SGLang cannot run it, or it gives embeddings and no logits.
    """
    try:
        loader = importlib.import_module("sglang.srt.model_loader.utils")
    except ModuleNotFoundError:
        return  # another version's layout: its runner says it
    named = list(getattr(config.hf_config, "architectures", None) or ())
    told = ", ".join(named) or "a model without an architecture in its config.json"
    try:
        _, resolved = loader.get_model_architecture(config)
    except ValueError as error:
        why = str(error).partition(" Supported architectures:")[0].rstrip(".")
        raise PlanInvalid(f"SGLang cannot run {told}: {why}", advice=_INSTEAD) from error
    if not getattr(config, "is_generation", True):
        raise PlanInvalid(
            f"SGLang runs {told} as an embedding model, which gives no logits to compare two sides by",
            advice=_INSTEAD,
        )
    if resolved.startswith("Transformers") and not any(n.endswith(_NEXT_TOKEN) for n in named):
        raise PlanInvalid(
            f"SGLang has no model for {told}, and would run transformers' in its place as a causal "
            f"language model ({resolved}), which it is not",
            advice=_INSTEAD,
        )


@contextlib.contextmanager
def rotary_stand_in(device: str) -> Iterator[None]:
    """Models that are built meanwhile on a CPU rotate positions by SGLang's torch formula.

    Without `SGLANG_USE_CPU_ENGINE`, the constructor of `RotaryEmbedding` imports vllm's kernel, even
    where it would then not be used: on a CPU its `forward` is `forward_native`.
    """
    module = next((sys.modules[name] for name in _ROTARY if name in sys.modules), None)
    kind = getattr(module, "RotaryEmbedding", None)
    flag = getattr(module, "_is_cpu", None)
    if device != "cpu" or kind is None or flag is not False or _has_kernel():
        yield
        return
    original = kind.__init__
    told: list[str] = []

    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        if not told:
            told.append(_ROTARY_STAND_IN)
            say(_ROTARY_STAND_IN)
        original(self, *args, **kwargs)

    kind.__init__, module._is_cpu = construct, True  # type: ignore[union-attr]
    try:
        yield
    finally:
        kind.__init__, module._is_cpu = original, flag  # type: ignore[union-attr]


def _has_kernel() -> bool:
    if os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        return True  # its own switch: then it wants sgl_kernel
    return importlib.util.find_spec("vllm") is not None


def cut_key_heads(model: Any) -> None:
    """Each rank's attention takes as many heads of keys as its projection gives.

    SGLang's GPT-2 gives the attention the number of all heads: at tensor 2 its forward fails in `view`.
    """
    cut = set()
    for module in model.modules():
        projection, attention = getattr(module, "c_attn", None), getattr(module, "attn", None)
        mine, taken = (
            getattr(projection, "num_kv_heads", None),
            getattr(attention, "tp_k_head_num", None),
        )
        if attention is None or mine is None or taken is None or mine == taken:
            continue
        attention.tp_k_head_num = attention.tp_v_head_num = mine
        cut.add((type(module).__name__, taken, mine))
    for name, taken, mine in sorted(cut):
        say(
            f"SGLang's {name} took the keys of {taken} heads, and this rank holds {mine}: corrected"
        )
