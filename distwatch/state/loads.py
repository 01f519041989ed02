"""A model load as data: what was asked for, how far it is, and where the parameters came to lie."""

from __future__ import annotations

from typing import Literal

import msgspec

from distwatch.state.bounds import Finite

MODULES_KEPT = 256
NAMES_KEPT = 32

Waiting = Literal["request", "download", "lock", "file"]
"""What a thread of a load can be in: an HTTP request, the body of one, a lock file, a read."""


class Outstanding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Something that a thread of a load has begun and that has not come back."""

    waiting: Waiting
    what: str
    """`HEAD http://host/org/model/…`, the path of a file or of a lock file."""
    since_ns: int
    attempts: int = 1
    """How often it was tried, this time included."""
    last_error: str = ""
    """What the attempt before it ended with."""


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the pulse says of one load; its phases are steps of the journal."""

    step: int
    parameters: int = 0
    """Tensors placed so far."""
    parameters_total: int | None = None
    bytes: int = 0
    """Of those tensors, or of the files fetched where the load is still fetching."""
    bytes_total: int | None = None
    """Of the checkpoint's files; a model that is loaded in another dtype takes more or less."""
    bytes_per_s: Finite = 0.0
    """Over the last seconds."""
    outstanding: tuple[Outstanding, ...] = ()
    """The oldest first; a bounded number."""


class LoadArguments(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The arguments of a load that decide where parameters go and what it costs."""

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
    """transformers, accelerate, huggingface_hub, safetensors, peft; those that are loaded."""


class ModuleDevice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One entry of a device map: everything below this module lies there."""

    module: str
    """'' is the whole model."""
    device: str
    """`cuda:0`, `cpu`; `ram` and `disk` for what is offloaded; `meta` for what is nowhere."""
    bytes: int = 0


class DeviceBytes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one device holds of a model."""

    device: str
    parameters: int = 0
    """Bytes of parameters; of a sharded one, the local shard's."""
    buffers: int = 0
    """Bytes of buffers."""
    tensors: int = 0


class Placement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where a model's parameters lie once a load has ended. Derived from the parameters."""

    model_class: str
    modules: tuple[ModuleDevice, ...] = ()
    """The shortest map that says it; at most MODULES_KEPT entries."""
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
    """Folders that hold what is offloaded to disk."""
    generation: str = ""
    """loaded, default (the checkpoint has none), lost (it could not be read); '' where unknown."""
    notes: tuple[str, ...] = ()
    """Other things to know: no pad token, …"""

    def bytes_on(self, device: str) -> int:
        """Parameters and buffers on one device."""
        return sum(d.parameters + d.buffers for d in self.devices if d.device == device)
