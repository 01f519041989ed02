"""What to patch, read and initialize: one file for each library, and one line here.

Imports as little as possible: every process of a job reads it.
"""

from __future__ import annotations

from distwatch.integrations.frameworks import TRIGGERS


class IntegrationSpec:
    """One library; applied right after `trigger` has been imported.

    Attributes:
        file: its file in `distwatch/integrations/`, without the ending.
        part_of: the integration whose name switches it off, if that is not its own name.
        arms: whether the import of its trigger is a reason to load the other hooks.
    """

    def __init__(
        self, name: str, trigger: str, file: str, part_of: str = "", *, arms: bool = True
    ) -> None:
        self.name = name
        self.trigger = trigger
        self.file = file
        self.part_of = part_of
        self.arms = arms


REGISTRY = (
    IntegrationSpec("torch_distributed", "torch.distributed.distributed_c10d", "torch_distributed"),
    IntegrationSpec("device_mesh", "torch.distributed.device_mesh", "device_mesh"),
    IntegrationSpec("huggingface_hub", "huggingface_hub.file_download", "huggingface_hub"),
    IntegrationSpec("accelerate", "accelerate.big_modeling", "accelerate"),
    *(
        IntegrationSpec(name, trigger, "transformers", part_of="transformers")
        for name, trigger in (
            ("transformers_config", "transformers.configuration_utils"),
            ("transformers", "transformers.modeling_utils"),
            ("transformers_auto", "transformers.models.auto.auto_factory"),
        )
    ),
    IntegrationSpec(
        "hf_trainer", "transformers.trainer_callback", "hf_trainer", part_of="transformers"
    ),
    IntegrationSpec("lightning", "pytorch_lightning.trainer.call", "lightning"),
    IntegrationSpec(
        "lightning_pytorch", "lightning.pytorch.trainer.call", "lightning", part_of="lightning"
    ),
    IntegrationSpec("torch_optimizers", "torch.optim.optimizer", "torch_optimizers", arms=False),
    IntegrationSpec("torch_builds", "torch.utils.file_baton", "torch_builds", arms=False),
    IntegrationSpec("torch_spawn", "torch.multiprocessing.spawn", "torch_spawn", arms=False),
    IntegrationSpec("ray", "ray._private.worker", "ray", arms=False),
    IntegrationSpec("peft", "peft.peft_model", "peft"),
    IntegrationSpec(
        "sglang_runner",
        "sglang.srt.model_executor.model_runner",
        "sglang_model_runner",
        part_of="sglang",
    ),
    *(
        IntegrationSpec(f"{name}_groups", trigger, f"frameworks.{name}", part_of=name)
        for name, trigger in TRIGGERS.items()
    ),
)
