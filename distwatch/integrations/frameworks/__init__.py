"""The frameworks whose parallel state distwatch sees, and that `distwatch.initialize` can initialize.

Each has one line here and one file of the same name beside this one. Imports nothing: every process reads it.
"""

TRIGGERS = {
    "megatron": "megatron.core.parallel_state",
    "sglang": "sglang.srt.distributed.parallel_state",
    "neuron": "neuronx_distributed.parallel_layers.parallel_state",
    "accelerate": "accelerate.parallelism_config",
}
"""By the name in `distwatch.initialize(framework=…)`: the module with the parallel state."""
