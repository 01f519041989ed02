"""Whether distwatch may read other processes and GPUs here."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from distwatch.preflight.check_result import Checked, failed, passed, warned
from distwatch.preflight.container import container_kind, how_to_trace
from distwatch.probes.devices import Devices
from distwatch.probes.ptrace import explain_rights, has_ptrace_capability, yama_scope
from distwatch.probes.stacks import find_py_spy, take_stack
from distwatch.state.events import DevicesSampled, StackTaken

_PROGRAM = """
import sys
from distwatch.agent.ptrace import allow_tracing_by, yama_asks_for_consent
if yama_asks_for_consent():
    allow_tracing_by(int(sys.argv[1]))
def waits_to_be_seen():
    print(flush=True)
    sys.stdin.read()
waits_to_be_seen()
"""


def ptrace_rights() -> Checked:
    """Whether distwatch may read the stacks of other processes."""
    return judge_rights(os.geteuid(), has_ptrace_capability(), yama_scope(), container_kind())


def judge_rights(uid: int, capable: bool, scope: int | None, container: str) -> Checked:
    """The rule behind `ptrace_rights`."""
    what = "right to read processes"
    allowed, why = explain_rights(uid=uid, capable=capable, scope=scope)
    if allowed:
        return passed(what, why)
    if scope == 1:
        detail = (
            "kernel.yama.ptrace_scope is 1: the observer can read processes that run distwatch, "
            "and no others"
        )
        return warned(
            what, detail, f"To attach to jobs without distwatch: {how_to_trace(container)}"
        )
    return failed(what, why, how_to_trace(container))


def stack_of_a_child() -> Checked:
    """py-spy, tried on a child process in the way that the observer reads ranks."""
    program = find_py_spy()
    if program is None:
        return failed("py-spy", "neither beside this Python nor on PATH", "pip install py-spy")
    asked = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=False
    )
    version = asked.stdout.strip() or "py-spy of an unknown version"
    return judge_stack(version, _take_stack_of_child(), container_kind())


def judge_stack(version: str, taken: StackTaken, container: str) -> Checked:
    """The rule behind `stack_of_a_child`."""
    functions = {frame.function for thread in taken.threads for frame in thread.frames}
    if "waits_to_be_seen" in functions:
        return passed("py-spy", f"{version}: reads the stack of another process")
    if not taken.error:
        seen = f"{version} read a process but did not see its function: {sorted(functions)[:5]}"
        return failed(
            "py-spy", seen, "pip install --upgrade py-spy: this version may not know this Python."
        )
    denied = "permitted" in taken.error or "permission" in taken.error.lower()
    fix = how_to_trace(container) if denied else "pip install --upgrade py-spy"
    return failed("py-spy", f"{version}: {taken.error}", fix)


def _take_stack_of_child() -> StackTaken:
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [package, os.environ.get("PYTHONPATH", "")]
    child = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "DISTWATCH": "0", "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        taken = asyncio.run(take_stack("doctor", child.pid))
        child.kill()
    return taken


def nvml() -> Checked:
    """NVML, NVIDIA's management library, which reports on GPUs."""
    devices = Devices()
    try:
        return judge_devices(devices.sample("here"), _has_nvidia_device())
    finally:
        devices.close()


def judge_devices(sampled: DevicesSampled, has_device: bool) -> Checked:
    """What the sample says. `has_device`: whether the kernel shows an NVIDIA device."""
    why = sampled.not_observed
    if why is None:
        names = sorted({device.name for device in sampled.devices})
        return passed("GPUs (NVML)", f"{len(sampled.devices)}: {', '.join(names)}")
    if has_device:
        fix = "Make the driver's libraries visible (containers: --gpus all, with the utility capability)."
        return warned("GPUs (NVML)", f"the NVIDIA device here cannot be watched: {why}", fix)
    return passed("GPUs (NVML)", f"none to watch ({why})")


def _has_nvidia_device() -> bool:
    return os.path.exists("/dev/nvidiactl") or os.path.isdir("/proc/driver/nvidia")
