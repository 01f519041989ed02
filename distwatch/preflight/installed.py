"""The versions of what a job and distwatch are made of, from their metadata: nothing is imported."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable
from importlib import metadata

from distwatch import __version__
from distwatch.preflight.check_result import Checked, failed, passed, warned

_SHOWN = (
    "torch", "transformers", "accelerate", "megatron-core", "sglang", "neuronx-distributed", "ray",
    "textual", "msgspec", "psutil", "nvidia-ml-py",
)  # fmt: skip
_FIRST_STORE = (2, 4)
"""The oldest torch whose store's protocol was compared."""
_FIRST_RECORDER = (2, 8)
"""The first torch whose flight recorder sees gloo's collectives."""


def version_of(name: str) -> str | None:
    """The installed version of a distribution; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions(version: Callable[[str], str | None] = version_of) -> list[Checked]:
    """What is installed, in one line, and a line for each combination that is known not to work.

    Args:
        version: of a distribution by name; None where it is not installed.
    """
    found = {name: text for name in _SHOWN if (text := version(name)) is not None}
    told = ", ".join(f"{name} {text}" for name, text in found.items())
    line = f"distwatch {__version__}, Python {platform.python_version()}, {told}"
    return [passed("versions", line), *_known_bad(version)]


def _known_bad(version: Callable[[str], str | None]) -> Iterable[Checked]:
    torch = version("torch")
    if torch is None:
        fix = "Activate the job's environment, or pip install torch, before a job is started from here."
        yield warned("torch", "not installed in this Python: jobs of others can be watched", fix)
    elif (number := _numbers(torch)) < _FIRST_STORE:
        yield warned(
            "torch", f"{torch} is older than distwatch was made for", "Use torch 2.4 or newer."
        )
    elif number < _FIRST_RECORDER:
        detail = f"{torch}: its flight recorder does not see gloo's collectives"
        yield warned(
            "torch", detail, "With torch 2.8 or newer they are seen; steps and stacks are anyway."
        )
    if version("neuronx-distributed") == "0.1":
        detail = "0.1 is PyPI's empty stand-in, which fails on import"
        fix = "pip install neuronx-distributed --index-url https://pip.repos.neuron.amazonaws.com"
        yield failed("neuronx-distributed", detail, fix)
    if version("pynvml") is not None and version("nvidia-ml-py") is not None:
        detail = "pynvml and nvidia-ml-py both install the module pynvml"
        yield warned(
            "NVML bindings",
            detail,
            "pip uninstall pynvml; pip install --force-reinstall nvidia-ml-py",
        )
    textual = version("textual")
    if textual is None or not (8, 2, 8) <= _numbers(textual) < (9,):
        detail = f"{textual or 'not installed'}; the TUI is made for 8.2.8 up to 9"
        yield failed("textual", detail, "pip install 'textual>=8.2.8,<9'")


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` → (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
