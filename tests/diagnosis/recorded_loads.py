"""A recorded job of eight ranks whose model loads stand as differently as they can."""

from __future__ import annotations

from distwatch.state import events as ev
from distwatch.state.loads import DeviceBytes, LoadProgress, ModuleDevice, Placement
from tests.diagnosis.recorded import RecordedJob

GIB = 1 << 30
FILE = "model-00003-of-00007.safetensors"


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


def loading_job() -> RecordedJob:
    """0 waits for a file, 1 for the hub, 2 moves, 3 to 5 are loaded, 6 has failed, 7 is spread."""
    job = RecordedJob(8)
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


def _begin_shards(job: RecordedJob, rank: int) -> None:
    job.load(rank, 2.0)
    job.phase(rank, 51, "config", 2.0, 2.2)
    job.phase(rank, 52, "files", 2.2, 3.0)
    job.phase(rank, 53, "model", 6.0, 9.0)


def _reads_a_file(job: RecordedJob, rank: int) -> None:
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


def _asks_the_hub(job: RecordedJob, rank: int) -> None:
    job.load(rank, 2.0, checkpoint="org/model")
    job.phase(rank, 51, "config", 2.0)
    head = job.outstanding(
        "request", "HEAD https://hub.example/org/model/resolve/main/config.json", 42.0, attempts=3,
        last_error="ConnectTimeout: timed out",
    )  # fmt: skip
    lock = job.outstanding("lock", "/hub/.locks/models--org--model/5f.lock", 30.0)
    told = LoadProgress(step=50, outstanding=(lock, head))
    job.pulse(rank, at=59.5, loads=(told,))


def _moves(job: RecordedJob, rank: int) -> None:
    _begin_shards(job, rank)
    job.phase(rank, 54, "shards", 9.0, total=7)
    said = ev.StepProgressed(step=54, done=6, total=7, label="model-00006-of-00007.safetensors")
    job.say(rank, 59.0, said)
    told = LoadProgress(
        step=50, parameters=250, parameters_total=291, bytes=14 * GIB, bytes_total=16 * GIB,
        bytes_per_s=2.0 * GIB,
    )  # fmt: skip
    job.pulse(rank, at=59.5, loads=(told,))


def _loads(job: RecordedJob, rank: int, until: float) -> None:
    _begin_shards(job, rank)
    job.phase(rank, 54, "shards", 9.0, until - 1.0, total=7)
    job.phase(rank, 55, "generation config", until - 1.0, until)
    job.place(rank, until, placement_on("cpu"))


def _fails(job: RecordedJob, rank: int) -> None:
    _begin_shards(job, rank)
    error = "SafetensorError: incomplete metadata, file not fully covered"
    job.phase(rank, 54, "shards", 9.0, total=7)
    job.say(
        rank, 12.0, ev.StepProgressed(step=54, done=4, total=7, label=FILE.replace("3", "4", 1))
    )
    job.say(rank, 12.0, ev.StepEnded(step=54, error=error))
    job.say(rank, 12.5, ev.StepEnded(step=50, error=error))


def many_loads(world: int, ended: int) -> RecordedJob:
    """A large job: the first ranks have ended, the others are at their shards."""
    job = RecordedJob(world)
    for rank in range(world):
        if rank < ended:
            _loads(job, rank, 20.0)
        else:
            _begin_shards(job, rank)
            job.phase(rank, 54, "shards", 9.0, total=7)
            job.say(rank, 9.0 + rank / world, ev.StepProgressed(step=54, done=2, total=7))
    job.tick(60.0)
    return job
