"""A model load as data: its arguments, its progress, and where the parameters are."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.state.bounds import Finite

MODULES_KEPT = 256
NAMES_KEPT = 32

Waiting = Literal["request", "download", "lock", "file"]
"""What a thread of a load can wait for: an HTTP request, its body, a lock file, a read."""


class Outstanding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A call of a load's thread that has not returned yet."""

    waiting: Waiting
    what: str
    """`HEAD http://host/org/model/…`, the path of a file or of a lock file."""
    since_ns: int
    attempts: int = 1
    """The number of attempts, including this one."""
    last_error: str = ""
    """The error of the previous attempt."""


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One load in the pulse; its phases are steps in the journal."""

    step: int
    parameters: int = 0
    """Tensors placed so far."""
    parameters_total: int | None = None
    bytes: int = 0
    """Size of those tensors, or of the fetched files while the load is still fetching."""
    bytes_total: int | None = None
    """Size of the checkpoint's files; a model loaded in another dtype takes more or less."""
    bytes_per_s: Finite = 0.0
    """Over the last seconds."""
    outstanding: tuple[Outstanding, ...] = ()
    """The oldest first; a bounded number."""


class LoadArguments(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The arguments of a load that decide where parameters go and what the load costs."""

    checkpoint: str
    device_map: str = ""
    """As given: `auto`, `{'': 'cpu'}`, or the number of entries of a long one."""
    spreads: bool = False
    """Whether that map may split the model over several devices."""
    parallel_plan: str = ""
    """tp_plan or distributed_config, where one was given."""
    offload_folder: str = ""
    offload_state_dict: bool = False
    max_memory: str = ""
    dtype: str = ""
    quantization: str = ""
    versions: dict[str, str] = {}
    """Of transformers, accelerate, huggingface_hub, safetensors and peft, where loaded."""


class ModuleDevice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One entry of a device map: everything below this module is on that device."""

    module: str
    """'' is the whole model."""
    device: str
    """`cuda:0`, `cpu`; `ram` or `disk` if offloaded; `meta` if not loaded at all."""
    bytes: int = 0


class DeviceBytes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one device holds of a model."""

    device: str
    parameters: int = 0
    """Bytes of parameters; of sharded ones, only the local shards."""
    buffers: int = 0
    """Bytes of buffers."""
    tensors: int = 0


class Placement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where a model's parameters are after a load. Derived from the parameters themselves."""

    model_class: str
    modules: tuple[ModuleDevice, ...] = ()
    """The shortest complete map; at most MODULES_KEPT entries."""
    modules_left_out: int = 0
    devices: tuple[DeviceBytes, ...] = ()
    dtypes: dict[str, int] = {}
    """Bytes of parameters by dtype."""
    tied: int = 0
    """Parameter names that share another one's tensor."""
    leaked: tuple[str, ...] = ()
    """Names of parameters on meta that nothing will ever fill; at most NAMES_KEPT."""
    leaked_count: int = 0
    offload_places: tuple[str, ...] = ()
    """Folders with the parameters that are offloaded to disk."""
    generation: str = ""
    """loaded, default (the checkpoint has none), lost (it could not be read); '' where unknown."""
    notes: tuple[str, ...] = ()
    """Other things to know: no pad token, …"""

    def bytes_on(self, device: str) -> int:
        """Parameters and buffers on one device."""
        return sum(d.parameters + d.buffers for d in self.devices if d.device == device)
