"""What is said and done for SGLang's models outside a server, on stand-ins for its modules."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from distwatch.errors import PlanInvalid
from distwatch.integrations.sglang_models import cut_key_heads, require_logits, rotary_stand_in

LOADER = "sglang.srt.model_loader.utils"
ROTARY = "sglang.srt.layers.rotary_embedding.base"


def module(monkeypatch: pytest.MonkeyPatch, name: str, **names: Any) -> ModuleType:
    """A module of that name, with the packages above it."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(
            sys.modules, ".".join(parts[:end]), made := ModuleType(".".join(parts[:end]))
        )
    vars(made).update(names)
    return made


def config(*architectures: str, is_generation: bool = True) -> Any:
    return SimpleNamespace(
        hf_config=SimpleNamespace(architectures=list(architectures)), is_generation=is_generation
    )


def refuses(_: Any) -> Any:
    raise ValueError("X1 has no SGlang implementation. Supported architectures: dict_keys(['A'])")


@pytest.mark.parametrize(
    ("asked", "resolve", "words"),
    [
        (
            config("RobertaForMaskedLM"),
            lambda _: (object, "TransformersForCausalLM"),
            "SGLang has no model for RobertaForMaskedLM, and would run transformers' in its place as a causal "
            "language model (TransformersForCausalLM), which it is not",
        ),
        (
            config("XLMRobertaModel", is_generation=False),
            lambda _: (object, "XLMRobertaModel"),
            "SGLang runs XLMRobertaModel as an embedding model, which gives no logits",
        ),
        (config("X1"), refuses, "SGLang cannot run X1: X1 has no SGlang implementation. Choose"),
    ],
)  # fmt: skip
def test_a_model_without_logits_of_the_next_token_is_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, asked: Any, resolve: Callable[[Any], Any], words: str
) -> None:
    module(monkeypatch, LOADER, get_model_architecture=resolve)
    with pytest.raises(PlanInvalid) as caught:
        require_logits(asked)
    assert words in str(caught.value)
    assert "examples/mezo" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "resolved"),
    [("GPT2LMHeadModel", "GPT2LMHeadModel"), ("NewForCausalLM", "TransformersForCausalLM")],
)
def test_a_causal_model_passes(monkeypatch: pytest.MonkeyPatch, name: str, resolved: str) -> None:
    module(monkeypatch, LOADER, get_model_architecture=lambda _: (object, resolved))
    require_logits(config(name))


def test_the_rotary_stand_in_is_named_once_and_taken_away(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class RotaryEmbedding:
        def __init__(self, size: int) -> None:
            if not base._is_cpu:
                raise ModuleNotFoundError("No module named 'vllm'")
            self.size = size

    base = module(monkeypatch, ROTARY, RotaryEmbedding=RotaryEmbedding, _is_cpu=False)
    original = RotaryEmbedding.__init__
    monkeypatch.delenv("SGLANG_USE_CPU_ENGINE", raising=False)
    with rotary_stand_in("cpu"):
        assert [RotaryEmbedding(4).size, RotaryEmbedding(8).size] == [4, 8]
    assert capfd.readouterr().err.count("run by a stand-in: SGLang's own torch formula") == 1
    assert (base._is_cpu, RotaryEmbedding.__init__) == (False, original)
    with rotary_stand_in("cuda"), pytest.raises(ModuleNotFoundError):
        RotaryEmbedding(4)
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    with rotary_stand_in("cpu"), pytest.raises(ModuleNotFoundError):
        RotaryEmbedding(4)
    assert capfd.readouterr().err == "", "a kernel of SGLang's own is not replaced"


def test_keys_of_all_heads_are_cut_to_this_ranks_and_told(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class GPT2Attention:
        def __init__(self, held: int, taken: int) -> None:
            self.c_attn = SimpleNamespace(num_kv_heads=held)
            self.attn = SimpleNamespace(tp_k_head_num=taken, tp_v_head_num=taken)

    cut, right = GPT2Attention(2, 4), GPT2Attention(4, 4)
    cut_key_heads(SimpleNamespace(modules=lambda: [object(), cut, right]))
    assert (cut.attn.tp_k_head_num, cut.attn.tp_v_head_num) == (2, 2)
    assert right.attn.tp_k_head_num == 4
    said = capfd.readouterr().err
    assert "SGLang's GPT2Attention took the keys of 4 heads, and this rank holds 2" in said
