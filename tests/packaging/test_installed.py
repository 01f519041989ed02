"""The wheel and the sdist, built and installed into an environment that holds nothing else, not even torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.blocks import REPOSITORY

LOG = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "/job/train.py", line 12, in main
[rank1]:     loss = step(batch)
[rank1]: ValueError: batch of 0 tokens
"""
Installed = Callable[..., subprocess.CompletedProcess[str]]


def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [str(argument) for argument in arguments],
        capture_output=True, text=True, timeout=110, check=False, stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made of the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--outdir", folder, REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    (wheel,) = built.glob("*.whl")
    assert run(sys.executable, "-m", "venv", folder).returncode == 0
    done = run(folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def installed(environment: Path, tmp_path: Path) -> Installed:
    """Calls a program of that environment, from a folder without the sources."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}

    def call(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        env = {**kept, "DISTWATCH_DIR": str(tmp_path / "runs"), "COLUMNS": "80"}
        return run(environment / "bin" / program, *arguments, cwd=tmp_path, env=env)

    return call


@pytest.mark.timeout(300)
def test_the_wheel_has_the_license_the_pages_and_the_completions(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "distwatch.pth" in names
    base = next(name for name in names if name.endswith("/METADATA")).removesuffix(
        "dist-info/METADATA"
    )
    assert f"{base}dist-info/licenses/LICENSE" in names
    for path in (REPOSITORY / "share").rglob("*"):
        if path.is_file():
            assert f"{base}data/data/{path.relative_to(REPOSITORY)}" in names


@pytest.mark.timeout(300)
def test_the_sdist_has_what_its_pages_name(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "LICENSE",
        "CHANGELOG.md",
        "README.md",
        "docs/findings.md",
        "share/man/man1/distwatch.1",
    } <= names


@pytest.mark.timeout(300)
def test_commands_run_without_torch(installed: Installed, tmp_path: Path) -> None:
    assert installed("python", "-c", "import torch").returncode == 1
    assert "Look at a job:" in installed("distwatch", "--help").stdout
    assert (
        installed(
            "python", "-c", "import distwatch.auto, sys; assert 'torch' not in sys.modules"
        ).returncode
        == 0
    )
    checks = json.loads(installed("distwatch", "doctor", "-o", "json").stdout)["checks"]
    assert {"py-spy", "torch"} & {check["what"] for check in checks}


@pytest.mark.timeout(300)
def test_the_demo_says_what_it_needs(installed: Installed) -> None:
    done = installed("distwatch", "demo")
    assert done.returncode == 1
    assert "the demo needs torch" in done.stderr
    assert "Install torch, numpy, transformers and safetensors" in done.stderr


@pytest.mark.timeout(300)
def test_a_log_is_diagnosed_without_torch(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "train.out").write_text(LOG)
    done = installed("distwatch", "import", "train.out")
    assert done.returncode == 3, done.stderr
    assert "rank 1" in done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_asks_the_commands_themselves(installed: Installed, shell: str) -> None:
    printed = installed("distwatch", "completion", shell).stdout
    shipped = REPOSITORY / "share"
    assert printed in {path.read_text() for path in shipped.rglob("*distwatch*") if path.is_file()}
    assert "_DISTWATCH_COMPLETE" in printed
