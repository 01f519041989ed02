"""A model's facts against the sizes that cut it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from distwatch.preflight.faults import Fault


class Model(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a model's configuration states. None: not stated.

    Attributes:
        uneven_pipeline: the plan itself sets the layers of each stage.
    """

    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    num_layers: int | None = None
    num_experts: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    vocab_size: int | None = None
    uneven_pipeline: bool = False


def model_faults(model: Model, cuts: Mapping[str, int], framework: str = "") -> list[Fault]:
    """Faults where the sizes do not divide a model.

    Args:
        cuts: sizes by axis: tensor, ulysses, pipeline, virtual pipeline, expert.
        framework: who cuts it: some pad what does not divide.
    """
    facts = {
        name: getattr(model, name) for name in Model.__struct_fields__ if name != "uneven_pipeline"
    }
    senseless = [
        Fault(
            f"no size: {name}",
            f"{name}={value} is not a size of a model",
            "Correct the model's configuration.",
        )
        for name, value in facts.items()
        if value is not None and value < 1
    ]
    if senseless:
        return senseless
    return [*_heads(model, cuts, framework), *_key_value_heads(model, cuts), *_widths(model, cuts),
            *_layers(model, cuts), *_experts(model, cuts)]  # fmt: skip


def _heads(model: Model, cuts: Mapping[str, int], framework: str) -> list[Fault]:
    heads, tensor, ulysses = model.num_attention_heads, cuts["tensor"], cuts["ulysses"]
    if heads is None or heads % (tensor * ulysses) == 0:
        return []
    by = f"tensor {tensor}" if ulysses == 1 else f"tensor {tensor} × ulysses {ulysses}"
    what = f"{heads} attention heads cannot be divided by {by}"
    if framework == "neuron" and ulysses == 1:
        padded = -(-heads // tensor) * tensor
        what += f": they are padded to {padded}"
        return [Fault("heads", what, _PADDED, severity="warning")]
    return [Fault("heads", what, axes=("tensor",) if ulysses == 1 else ("tensor", "ulysses"))]


_PADDED = (
    "NxD Inference pads by itself; in training, let the attention count them (get_number_of_extra_heads) and pad the "
    "model, both in neuronx_distributed.parallel_layers.pad. The padded heads cost memory and time."
)


def _key_value_heads(model: Model, cuts: Mapping[str, int]) -> list[Fault]:
    heads, tensor = model.num_key_value_heads, cuts["tensor"]
    if heads is None or heads % tensor == 0:
        return []
    if tensor % heads == 0:
        what = f"tensor {tensor} is more than the {heads} key/value heads: each is held by {tensor // heads} ranks"
        advice = (
            "vLLM, SGLang and newer Megatron-core replicate them; Neuron does, with kv_size_multiplier "
            f"{tensor // heads}; older Megatron-core refuses."
        )
        return [Fault("key/value heads", what, advice, severity="warning")]
    what = (
        f"{heads} key/value heads cannot be divided by tensor {tensor}, nor spread evenly over it"
    )
    return [Fault("key/value heads", what, axes=("tensor",))]


def _widths(model: Model, cuts: Mapping[str, int]) -> list[Fault]:
    tensor, faults = cuts["tensor"], []
    if model.intermediate_size is not None and model.intermediate_size % tensor:
        what = f"intermediate size {model.intermediate_size} cannot be divided by tensor {tensor}"
        faults.append(Fault("intermediate", what, axes=("tensor",)))
    heads, hidden = model.num_attention_heads, model.hidden_size
    if hidden is not None and hidden % tensor:
        what = f"hidden size {hidden} cannot be divided by tensor {tensor}"
        advice = "Check that the framework pads or gathers it."
        faults.append(Fault("hidden", what, advice, severity="warning"))
    elif heads is not None and hidden is not None and hidden % heads:
        what = f"hidden size {hidden} is not a multiple of {heads} attention heads"
        advice = "Make sure that the configuration sets head_dim."
        faults.append(Fault("hidden", what, advice, severity="warning"))
    if model.vocab_size is not None and model.vocab_size % tensor:
        what = f"the vocabulary of {model.vocab_size} cannot be divided by tensor {tensor}: it has to be padded"
        advice = "Megatron-core, vLLM and SGLang pad it by themselves; others may not."
        faults.append(Fault("vocabulary", what, advice, severity="info"))
    return faults


def _layers(model: Model, cuts: Mapping[str, int]) -> list[Fault]:
    layers, stages = model.num_layers, cuts["pipeline"]
    if layers is None:
        return []
    virtual = cuts["virtual pipeline"] if stages > 1 else 1
    if layers < stages * virtual:
        what = f"{layers} layers are fewer than the {stages * virtual} stages of the pipeline"
        return [Fault("layers", what, axes=("pipeline",))]
    if layers % (stages * virtual) == 0 or model.uneven_pipeline:
        return []
    by = f"pipeline {stages}" if virtual == 1 else f"pipeline {stages} × virtual pipeline {virtual}"
    return [
        Fault(
            "layers",
            f"{layers} layers cannot be divided by {by}",
            "Or set the layers of each stage (Megatron-core: num_layers_in_first_pipeline_stage, "
            "…_last_…, or a pipeline layout).",
            axes=("pipeline",),
        )
    ]


def _experts(model: Model, cuts: Mapping[str, int]) -> list[Fault]:
    experts, ranks = model.num_experts, cuts["expert"]
    if experts is None or experts % ranks == 0:
        return []
    what = f"{experts} experts cannot be divided by expert {ranks}"
    return [Fault("experts", what, axes=("expert",))]
