"""A stand-in for torch_xla: what neuronx-distributed's parallel state imports and, on CPUs, does not use."""

__version__ = "0.0.0"
