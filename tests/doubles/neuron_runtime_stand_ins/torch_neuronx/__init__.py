"""A stand-in for torch_neuronx."""
