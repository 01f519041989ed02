"""torch.utils.cpp_extension: the file that stands for the lock of a build, while another process has it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from distwatch.agent.core import Agent
from distwatch.hooks.patch import PatchSet
from distwatch.integrations.step_hook import Called, StepHook
from distwatch.state.steps import BUILD_LOCK


def apply(module: ModuleType, patches: PatchSet) -> str:
    """Hooks `torch.utils.file_baton.FileBaton.wait`, which polls until that file is gone."""
    patches.observe("FileBaton.wait", module.FileBaton, "wait", _WaitForBuild())
    return ""


class _WaitForBuild(StepHook):
    def begin(self, agent: Agent, given: dict[str, Any]) -> Called:
        path = str(getattr(given.get("self"), "lock_file_path", ""))
        return Called(agent, agent.begin_step(BUILD_LOCK, label=path))
