"""Programs whose ranks part, as people write them, each at the line marked with its name. Usage: divergences.py WAY

The third set: the parts of each are spread over functions, classes and files as they are in a project.
"""

import distwatch.auto  # noqa: F401, I001
import sys

import torch.distributed as dist
from divergences_data import DATA
from divergences_evaluation import EVALUATION
from divergences_settings import SETTINGS
from divergences_training import TRAINING
from steps import step

WAYS = {**DATA, **EVALUATION, **SETTINGS, **TRAINING}

dist.init_process_group("gloo")
step("go")
WAYS[sys.argv[1]]()
step("done")
dist.barrier()
