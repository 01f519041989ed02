"""The package's own names, before and without torch."""

from __future__ import annotations

import subprocess
import sys

import distwatch

WITHOUT = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
import distwatch
try:
    {call}
except distwatch.PlanInvalid as error:
    print(error)
"""


def test_dir_lists_what_can_be_had() -> None:
    listed = dir(distwatch)
    assert {"initialize", "check", "load", "snapshot", "InitTimeout", "ray"} <= set(listed)
    assert all(hasattr(distwatch, name) for name in listed)


def without_torch(call: str) -> str:
    code = WITHOUT.format(call=call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_load_without_transformers_says_what_to_install() -> None:
    said = without_torch("distwatch.load('org/model')")
    assert said.startswith("distwatch.load needs transformers, which cannot be imported")
    assert "pip install transformers" in said


def test_a_world_without_torch_says_what_to_install() -> None:
    said = without_torch("distwatch.initialize('gloo', rank=0, world_size=1)")
    assert said.startswith("distwatch.initialize needs torch, which cannot be imported")
