"""As in the real one, the initializer is bound here by name."""

from neuronx_distributed.parallel_layers.parallel_state import initialize_model_parallel

__all__ = ["initialize_model_parallel"]
