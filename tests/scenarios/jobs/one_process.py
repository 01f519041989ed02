"""torch without any distributed part."""

import distwatch.auto  # noqa: F401, I001
import torch

print(f"result {int(torch.ones(3).sum())}")
