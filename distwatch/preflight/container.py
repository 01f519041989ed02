"""Which kind of container this is, and how to start it with more rights or memory."""

from __future__ import annotations

import os
from collections.abc import Mapping

from distwatch.probes.procfs import read_text


def container_kind(environ: Mapping[str, str] | None = None) -> str:
    """kubernetes, docker, podman, singularity, or '' where none is recognized."""
    env = os.environ if environ is None else environ
    if env.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if env.get("SINGULARITY_NAME") or env.get("APPTAINER_NAME"):
        return "singularity"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    if os.path.exists("/.dockerenv"):
        return "docker"
    groups = read_text("/proc/1/cgroup")
    marks = {"kubepods": "kubernetes", "docker": "docker", "libpod": "podman"}
    return next((kind for mark, kind in marks.items() if mark in groups), "")


def how_to_trace(kind: str) -> str:
    """How to let such a container read other processes."""
    return {
        "kubernetes": "Add SYS_PTRACE to securityContext.capabilities.add of the container.",
        "docker": "Start the container with --cap-add SYS_PTRACE.",
        "podman": "Start the container with --cap-add SYS_PTRACE.",
        "singularity": "Run distwatch as the user who started the job, in the same container.",
    }.get(kind, "Run distwatch as root, or: sysctl kernel.yama.ptrace_scope=0.")


def how_to_share_memory(kind: str) -> str:
    """How to give such a container a larger /dev/shm."""
    return {
        "kubernetes": "Mount an emptyDir with medium: Memory on /dev/shm.",
        "docker": "Start the container with --shm-size=16g or --ipc=host.",
        "podman": "Start the container with --shm-size=16g or --ipc=host.",
    }.get(kind, "mount -o remount,size=16G /dev/shm")
