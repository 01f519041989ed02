"""Recorded jobs that load models, told event by event as `recorded.py` tells the others."""

from __future__ import annotations

from typing import NamedTuple

from distwatch.state import events as ev
from distwatch.state.frames import FileHeader
from distwatch.state.loads import (
    DeviceBytes,
    LoadArguments,
    LoadProgress,
    ModuleDevice,
    Outstanding,
    Placement,
    Waiting,
)
from tests.diagnosis.recorded import SECOND, RecordedJob

GIB = 1 << 30
FILE = "model-00003-of-00007.safetensors"


class Entry(NamedTuple):
    """One record of one stream."""

    header: FileHeader
    seq: int
    time_ns: int
    event: ev.Event


class LoadingJob(RecordedJob):
    """A recorded job whose ranks load models."""

    @property
    def entries(self) -> list[Entry]:
        """All records in order of time."""
        found = [
            Entry(self.headers[stream], *record)
            for stream, records in self.records.items()
            for record in records
        ]
        return sorted(found, key=lambda entry: entry.time_ns)

    def load(
        self, rank: int, at: float, *, step: int = 50, call: str = "from_pretrained",
        checkpoint: str = "/models/llama", **asked: object,
    ) -> None:  # fmt: skip
        """A rank begins to load a model; its phases are steps from `step` + 1 on."""
        if self.key(rank) not in self.state.processes:
            self.start(rank)
        self.begin(rank, step, call, at, label=checkpoint)
        arguments = LoadArguments(checkpoint=checkpoint, **asked)  # type: ignore[arg-type]
        self.say(rank, at, ev.LoadPlanned(step=step, arguments=arguments))

    def phase(
        self, rank: int, step: int, name: str, at: float, until: float | None = None, *,
        parent: int = 50, error: str | None = None, **more: object,
    ) -> None:  # fmt: skip
        """A part of a load; under way where it has no end."""
        started = ev.StepStarted(step=step, name=name, parent=parent, **more)  # type: ignore[arg-type]
        self.say(rank, at, started)
        if until is not None:
            self.say(rank, until, ev.StepEnded(step=step, error=error))

    def place(self, rank: int, at: float, placement: Placement, *, step: int = 50) -> None:
        """A load ends well."""
        self.say(rank, at, ev.ModelPlaced(step=step, placement=placement))
        self.say(rank, at, ev.StepEnded(step=step))

    def outstanding(self, waiting: Waiting, what: str, since: float, **more: object) -> Outstanding:
        return Outstanding(waiting=waiting, what=what, since_ns=int(since * SECOND), **more)  # type: ignore[arg-type]


def placement_on(device: str) -> Placement:
    """The whole model on one device."""
    return Placement(
        model_class="LlamaForCausalLM",
        modules=(ModuleDevice(module="", device=device, bytes=16 * GIB),),
        devices=(DeviceBytes(device=device, parameters=16 * GIB, buffers=512, tensors=291),),
        dtypes={"bfloat16": 16 * GIB},
        generation="loaded",
    )


def spread_placement() -> Placement:
    """Over two GPUs, RAM and disk; some parameters lie nowhere."""
    layers = [
        ModuleDevice(module=f"model.layers.{n}", device="cuda:0" if n < 10 else "cuda:1", bytes=GIB)
        for n in range(16)
    ]
    return Placement(
        model_class="LlamaForCausalLM",
        modules=(
            ModuleDevice(module="model.embed_tokens", device="cuda:0", bytes=2 * GIB),
            *layers,
            ModuleDevice(module="model.layers.16", device="ram", bytes=GIB),
            ModuleDevice(module="model.layers.17", device="disk", bytes=GIB),
            ModuleDevice(module="model.norm", device="cuda:1", bytes=8192),
            ModuleDevice(module="lm_head", device="meta", bytes=2 * GIB),
        ),
        devices=(
            DeviceBytes(device="cuda:0", parameters=12 * GIB, tensors=91),
            DeviceBytes(device="cuda:1", parameters=6 * GIB + 8192, buffers=256, tensors=56),
            DeviceBytes(device="ram", parameters=GIB, tensors=9),
            DeviceBytes(device="disk", parameters=GIB, tensors=9),
            DeviceBytes(device="meta", parameters=2 * GIB, tensors=1),
        ),
        dtypes={"bfloat16": 20 * GIB, "float32": 2 * GIB},
        tied=1,
        leaked=("lm_head.weight",),
        leaked_count=1,
        offload_places=("/scratch/offload",),
        generation="default",
        notes=("no pad token: generate() on a batch of uneven lengths warns or pads with eos",),
    )


def loading_job() -> LoadingJob:
    """0 waits for a file, 1 for the hub, 2 moves, 3 to 5 are loaded, 6 has failed, 7 is spread."""
    job = LoadingJob(8)
    _reads_a_file(job, 0)
    _asks_the_hub(job, 1)
    _moves(job, 2)
    for rank in (3, 4, 5):
        _loads(job, rank, 20.0 + rank)
    _fails(job, 6)
    job.load(7, 2.0, device_map="auto", spreads=True, offload_folder="/scratch/offload")
    for number, (name, began, ended) in enumerate(
        (("config", 2.0, 2.2), ("device map", 2.3, 4.0), ("shards", 4.0, 40.0), ("dispatch", 40, 52)), 51
    ):  # fmt: skip
        job.phase(7, number, name, began, ended)
    job.place(7, 52.5, spread_placement())
    job.tick(60.0)
    return job


def _begin_shards(job: LoadingJob, rank: int) -> None:
    job.load(rank, 2.0)
    job.phase(rank, 51, "config", 2.0, 2.2)
    job.phase(rank, 52, "files", 2.2, 3.0)
    job.phase(rank, 53, "model", 6.0, 9.0)


def _reads_a_file(job: LoadingJob, rank: int) -> None:
    _begin_shards(job, rank)
    job.phase(rank, 54, "shards", 9.0, total=7)
    said = ev.StepProgressed(
        step=54, done=3, total=7, label=FILE, parameters=120, parameters_total=291, bytes=6 * GIB,
        bytes_total=16 * GIB,
    )  # fmt: skip
    job.say(rank, 18.0, said)
    read = job.outstanding("file", f"/models/llama/{FILE}", 18.0)
    told = LoadProgress(
        step=50, parameters=120, parameters_total=291, bytes=6 * GIB, bytes_total=16 * GIB,
        bytes_per_s=0.0, outstanding=(read,),
    )  # fmt: skip
    job.pulse(rank, at=59.5, loads=(told,))


def _asks_the_hub(job: LoadingJob, rank: int) -> None:
    job.load(rank, 2.0, checkpoint="org/model")
    job.phase(rank, 51, "config", 2.0)
    head = job.outstanding(
        "request", "HEAD https://hub.example/org/model/resolve/main/config.json", 42.0, attempts=3,
        last_error="ConnectTimeout: timed out",
    )  # fmt: skip
    lock = job.outstanding("lock", "/hub/.locks/models--org--model/5f.lock", 30.0)
    told = LoadProgress(step=50, outstanding=(lock, head))
    job.pulse(rank, at=59.5, loads=(told,))


def _moves(job: LoadingJob, rank: int) -> None:
    _begin_shards(job, rank)
    job.phase(rank, 54, "shards", 9.0, total=7)
    said = ev.StepProgressed(step=54, done=6, total=7, label="model-00006-of-00007.safetensors")
    job.say(rank, 59.0, said)
    told = LoadProgress(
        step=50, parameters=250, parameters_total=291, bytes=14 * GIB, bytes_total=16 * GIB,
        bytes_per_s=2.0 * GIB,
    )  # fmt: skip
    job.pulse(rank, at=59.5, loads=(told,))


def _loads(job: LoadingJob, rank: int, until: float) -> None:
    _begin_shards(job, rank)
    job.phase(rank, 54, "shards", 9.0, until - 1.0, total=7)
    job.phase(rank, 55, "generation config", until - 1.0, until)
    job.place(rank, until, placement_on("cpu"))


def _fails(job: LoadingJob, rank: int) -> None:
    _begin_shards(job, rank)
    error = "SafetensorError: incomplete metadata, file not fully covered"
    job.phase(rank, 54, "shards", 9.0, total=7)
    job.say(
        rank, 12.0, ev.StepProgressed(step=54, done=4, total=7, label=FILE.replace("3", "4", 1))
    )
    job.say(rank, 12.0, ev.StepEnded(step=54, error=error))
    job.say(rank, 12.5, ev.StepEnded(step=50, error=error))


def many_loads(world: int, ended: int) -> LoadingJob:
    """A large job: the first ranks have ended, the others are at their shards."""
    job = LoadingJob(world)
    for rank in range(world):
        if rank < ended:
            _loads(job, rank, 20.0)
        else:
            _begin_shards(job, rank)
            job.phase(rank, 54, "shards", 9.0, total=7)
            job.say(rank, 9.0 + rank / world, ev.StepProgressed(step=54, done=2, total=7))
    job.tick(60.0)
    return job
