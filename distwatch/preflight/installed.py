"""The versions of distwatch, torch and their companions, from metadata: nothing is imported."""

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
"""The oldest torch whose TCPStore protocol was tested."""
_FIRST_RECORDER = (2, 8)
"""The first torch whose flight recorder sees gloo's collectives."""


def version_of(name: str) -> str | None:
    """The installed version of a distribution; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions(version: Callable[[str], str | None] = version_of) -> list[Checked]:
    """The installed versions in one line, and a line for each combination that is known not to work.

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
        fix = "Activate the job's environment, or pip install torch, before you start a job from here."
        yield warned(
            "torch",
            "not installed in this Python: you can still watch jobs of other environments",
            fix,
        )
    elif (number := _numbers(torch)) < _FIRST_STORE:
        yield warned(
            "torch", f"{torch} is older than distwatch supports", "Use torch 2.4 or newer."
        )
    elif number < _FIRST_RECORDER:
        detail = f"{torch}: its flight recorder does not see gloo's collectives"
        yield warned(
            "torch",
            detail,
            "Use torch 2.8 or newer to see them; steps and stacks are seen with any version.",
        )
    if version("neuronx-distributed") == "0.1":
        detail = "0.1 is PyPI's empty placeholder, which fails on import"
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
        detail = f"{textual or 'not installed'}; the TUI needs 8.2.8 or newer, below 9"
        yield failed("textual", detail, "pip install 'textual>=8.2.8,<9'")


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` → (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
