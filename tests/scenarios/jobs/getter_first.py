"""Plain `python`, no launcher: a framework's getter before anything is initialized."""

from megatron.core import parallel_state

parallel_state.get_tensor_model_parallel_group()
