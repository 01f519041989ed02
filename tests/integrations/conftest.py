"""The two ways in which calls are recorded."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distwatch.agent import core
from distwatch.agent.pulse import PulsePage
from distwatch.integrations import torch_collectives
from tests.integrations.observed_group import Job

SOURCE = Path(torch_collectives.__file__).parents[1] / "agent" / "_calls.c"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The compiled module, built here where it was not installed."""
    compiler = shutil.which("cc")
    if compiler is None or sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("no compiler")
    binary = tmp_path_factory.mktemp("calls") / "_calls.abi3.so"
    include = sysconfig.get_paths()["include"]
    command = [compiler, "-O2", "-w", "-fPIC", "-shared", f"-I{include}", SOURCE, "-o", binary]
    subprocess.run(command, check=True, timeout=60)
    spec = importlib.util.spec_from_file_location("_calls", binary)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["python", "compiled"])
def job(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    compiled = request.getfixturevalue("built") if request.param == "compiled" else None
    monkeypatch.setattr(torch_collectives, "CallRecord", getattr(compiled, "CallRecord", None))
    page = PulsePage(f"/dev/shm/distwatch-test-calls-{os.getpid()}")
    job = Job(page)
    monkeypatch.setattr(core, "_current", job.agent)
    yield job
    job.patches.undo()
    os.unlink(page.path)
