"""The names that plans and training frameworks use for the same facts."""

from __future__ import annotations

OWN_SECTIONS = ("distwatch", "plan")
SIZES: dict[str, tuple[str, ...]] = {
    "tensor": ("tensor_model_parallel_size", "tensor_parallel_size", "tp_size"),
    "pipeline": ("pipeline_model_parallel_size", "pipeline_parallel_size", "pp_size"),
    "context": ("context_parallel_size", "cp_size"),
    "expert": ("expert_model_parallel_size", "expert_parallel_size", "ep_size"),
    "expert_tensor": ("expert_tensor_parallel_size",),
    "virtual_pipeline": ("virtual_pipeline_model_parallel_size",),
    "ulysses": ("ulysses_sequence_parallel_size",),
    "data": ("data_parallel_size", "dp_size"),
}
"""Megatron-core's own (RLinf, slime, verl, NeMo, Megatron-Bridge, NxD), vLLM's and SGLang's."""
ANCHORS = frozenset(
    name
    for axis, names in SIZES.items()
    if axis not in ("data", "virtual_pipeline")
    for name in names
)
"""A mapping with one of these is a layout."""
WORLD = ("world_size",)
NODES = ("num_nodes", "nnodes", "actor_num_nodes")
RANKS_PER_NODE = (
    "n_gpus_per_node", "num_gpus_per_node", "gpus_per_node", "nproc_per_node", "ranks_per_node",
    "actor_num_gpus_per_node", "devices",
)  # fmt: skip
BACKEND = ("distributed_backend",)
TRAINING_BACKEND = ("training_backend", "train_backend", "strategy")
TIMEOUT_MINUTES = ("distributed_timeout_minutes",)
TIMEOUT_SECONDS = ("nccl_timeout", "distributed_timeout_seconds")
ORDER = ("order", "parallel_order")
FACTS: dict[str, tuple[str, ...]] = {
    "num_attention_heads": ("num_attention_heads",),
    "num_key_value_heads": ("num_key_value_heads", "num_query_groups"),
    "num_layers": ("num_layers", "num_hidden_layers"),
    "num_experts": ("num_experts", "num_moe_experts", "n_routed_experts", "num_local_experts"),
    "hidden_size": ("hidden_size",),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size"),
    "vocab_size": ("vocab_size",),
}
"""Hugging Face's names and Megatron-core's."""
UNEVEN = (
    "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage",
    "first_pipeline_num_layers", "last_pipeline_num_layers", "pipeline_model_parallel_layout",
    "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split", "pipeline_cuts",
)  # fmt: skip
"""With one of these, stages may have different numbers of layers."""
MODEL_PATHS = (
    "model_path", "model_dir", "hf_model_path", "hf_checkpoint", "model_name_or_path",
    "pretrained_model_name_or_path",
)  # fmt: skip
ENGINE_WIDTH = ("rollout_num_gpus_per_engine",)
"""slime writes the engines flat beside Megatron's keys: a mapping with this key holds one more layout."""
ENGINE_RANKS = ("rollout_num_gpus",)
ENGINE_PIPELINE = ("sglang_pipeline_parallel_size", "sglang_pp_size")
ENGINE_EXPERT = ("sglang_expert_parallel_size", "sglang_ep_size")
COLOCATED = ("colocate",)
ENGINE_PLACES = ("rollout", "vllm", "sglang", "generation")
ENGINE_KEYS = ("gpu_memory_utilization", "mem_fraction_static", "rollout_backend")
CONVERTER = "convert"
NO_RANKS = ("convert", "ckpt", "checkpoint", "export")
"""Layouts under keys with these words say how files are sharded; no rank runs by them."""
