"""The frameworks whose parallel state is seen, and that `distwatch.initialize` can initialize.

One line here and one file beside it, of the same name. Imports nothing: every process reads it.
"""

TRIGGERS = {
    "megatron": "megatron.core.parallel_state",
    "sglang": "sglang.srt.distributed.parallel_state",
    "neuron": "neuronx_distributed.parallel_layers.parallel_state",
    "accelerate": "accelerate.parallelism_config",
}
"""By the name in `distwatch.initialize(framework=…)`: the module that holds the parallel state."""
