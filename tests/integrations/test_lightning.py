"""Lightning's own steps, by a real Trainer: counted on when a run is resumed, and not by its batches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.environment import inherited_environment
from tests.support.ranks import REPOSITORY

JOB = """
import distwatch.auto
import json, sys, torch
import pytorch_lightning as pl
from torch.utils.data import DataLoader
from distwatch.agent import core
from distwatch.integrations.registry import statuses

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def training_step(self, batch, number):
        training = core.current().training
        print(json.dumps([training._step, training._epoch, self.global_step]), flush=True)
        return self.layer(batch).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def train(epochs, resume=None):
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, accumulate_grad_batches=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=sys.argv[1],
        enable_checkpointing=False,
    )
    trainer.fit(Model(), DataLoader(torch.ones(4, 2)), ckpt_path=resume)
    trainer.save_checkpoint(f"{sys.argv[1]}/last.ckpt")

train(1)
train(2, f"{sys.argv[1]}/last.ckpt")
print(json.dumps({name: [s.status, s.reason] for name, s in statuses().items()}))
"""


def test_steps_are_the_trainers_own(tmp_path: Path) -> None:
    env = {
        **inherited_environment(), "PYTHONPATH": str(REPOSITORY), "DISTWATCH": "1", "RANK": "0", "WORLD_SIZE": "1",
        "DISTWATCH_DIR": str(tmp_path / "runs"), "DISTWATCH_OBSERVER": "off",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(tmp_path)], env=env, cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=100,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "[{"]
    assert done.returncode == 0, done.stderr
    *steps, told = lines
    # Four batches an epoch, two of them a step.
    assert steps == [
        [n, e, n] for n, e in ((0, 0), (0, 0), (1, 0), (1, 0), (2, 1), (2, 1), (3, 1), (3, 1))
    ]
    assert told["lightning"] == ["applied", ""]
