"""Initializes, and nothing else: what is absent is decided by who is launched."""

import distwatch.auto  # noqa: F401, I001
import torch.distributed as dist
from steps import step

step("init")
dist.init_process_group("gloo")
step("initialized")
