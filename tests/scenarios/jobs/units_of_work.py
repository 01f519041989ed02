"""Pieces of legitimate work of one rank, each of some seconds at most, by name; and what only looks like work."""

import asyncio
import collections
import concurrent.futures as futures
import gc
import gzip
import hashlib
import json
import multiprocessing as mp
import os
import pickle
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import torch
import torch.distributed.checkpoint as dcp
from steps import WORK

_SPAWN = mp.get_context("spawn")


def spin(seconds: float) -> int:
    """Python code that computes."""
    until, done = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        done += sum(range(1000))
    return done


def pause(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def save_with_torch() -> None:
    torch.save({"weights": torch.zeros(4_000_000)}, os.path.join(WORK, "model.pt"))


def save_distributed() -> None:
    """A checkpoint that a thread writes while the main thread waits for it."""
    state = {f"layer.{n}": torch.zeros(500_000) for n in range(8)}
    with futures.ThreadPoolExecutor(1) as pool, tempfile.TemporaryDirectory(dir=WORK) as folder:
        for n in range(6):
            pool.submit(dcp.save, state, checkpoint_id=f"{folder}/{n}", no_dist=True).result()


def tokenize() -> None:
    words = collections.Counter(("a b c d e f g " * 20_000).split())
    spin(1.0 + len(words) * 0.01)


def replace_workers() -> None:
    """A pool that ends each of its workers after one task."""
    with _SPAWN.Pool(2, maxtasksperchild=1) as pool:
        pool.map(spin, [0.5] * 4, chunksize=1)


def autotune() -> None:
    matrix = torch.ones(256, 256)
    for size in (32, 64, 128, 256):
        began = time.perf_counter()
        for _ in range(200):
            matrix[:size, :size] @ matrix[:size, :size]
        print(f"size {size}: {time.perf_counter() - began:.3f} s", flush=True)


def run_one_long_kernel() -> None:
    """Seconds in one call of native code, in which Python does not move."""
    torch.linalg.svd(torch.rand(1400, 1400))


def collect_garbage() -> None:
    kept = [[n] for n in range(400_000)]
    for _ in range(20):
        gc.collect()
    del kept


def profile() -> None:
    with torch.profiler.profile() as seen:
        for _ in range(200):
            torch.ones(64, 64) @ torch.ones(64, 64)
    seen.export_chrome_trace(os.path.join(WORK, "trace.json"))


def compress() -> None:
    gzip.compress(os.urandom(8_000_000), compresslevel=9)


def build_index() -> None:
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        with sqlite3.connect(os.path.join(folder, "index")) as database:
            database.execute("create table rows (n integer)")
            database.executemany("insert into rows values (?)", ((n,) for n in range(300_000)))
        database.close()


def work_in_threads() -> None:
    with futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(spin, [2.0, 2.0]))


def work_in_processes() -> None:
    with futures.ProcessPoolExecutor(2, mp_context=_SPAWN) as pool:
        list(pool.map(spin, [2.0, 2.0]))


def wait_for_a_busy_child() -> None:
    code = "import time; t = time.monotonic() + 6\nwhile time.monotonic() < t: sum(range(1000))"
    environment = {**os.environ, "DISTWATCH": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def download() -> None:
    """Bytes that come slowly, from a server in another thread."""

    def send(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            for _ in range(40):
                connection.sendall(b"x" * 4096)
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        sender = threading.Thread(target=send, args=(server,), daemon=True)
        sender.start()
        with socket.create_connection(server.getsockname()) as client:
            while client.recv(65536):
                pass
        sender.join()


def read_slowly() -> None:
    """A read in small pieces, as from a file server under load."""
    path = os.path.join(WORK, "dataset")
    if not os.path.exists(path):
        with open(path, "wb") as file:
            file.write(b"x" * 400_000)
    with open(path, "rb", buffering=0) as file:
        while file.read(10_000):
            time.sleep(0.1)


def hash_files() -> None:
    data = b"x" * 50_000_000
    for _ in range(20):
        hashlib.sha256(data).hexdigest()


def parse() -> None:
    text = json.dumps([{"text": "word " * 20, "n": n} for n in range(60_000)])
    for _ in range(4):
        json.loads(text)


def parse_leniently() -> None:
    """Rows that are not numbers are left out, by an exception each."""
    bad = []
    for row in ["17", "n/a", "4", ""] * 400_000:
        try:
            int(row)
        except ValueError:
            bad.append(row)


def print_a_large_number() -> None:
    """Seconds in one call that holds the GIL."""
    sys.set_int_max_str_digits(0)
    str(3**1_000_000)


def unpickle() -> None:
    content = pickle.dumps([(n, str(n)) for n in range(600_000)])
    for _ in range(4):
        pickle.loads(content)


def copy_files() -> None:
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        source = os.path.join(folder, "from")
        with open(source, "wb") as file:
            file.write(b"x" * 30_000_000)
        for n in range(8):
            shutil.copy(source, os.path.join(folder, f"to-{n}"))


def sort() -> None:
    for _ in range(4):
        sorted((str(n * 7919 % 1_000_003) for n in range(400_000)), key=len)


def step_an_optimizer() -> None:
    weights = [torch.nn.Parameter(torch.ones(200_000)) for _ in range(40)]
    optimizer = torch.optim.AdamW(weights, foreach=False)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    for _ in range(10):
        optimizer.step()


class _Batches(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, item: int) -> int:
        return spin(0.3) * 0 + item


def replace_loader_workers() -> None:
    """Each epoch has workers of its own."""
    for _ in torch.utils.data.DataLoader(_Batches(), num_workers=2):
        pass


def evaluate_silently() -> None:
    """One batch after the other, without a word."""
    model, batch = (
        torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.ReLU()),
        torch.ones(64, 256),
    )
    with torch.no_grad():
        for _ in range(2000):
            model(batch)


UNITS: dict[str, Callable[[], object]] = {
    "torch.save": save_with_torch,
    "dcp": save_distributed,
    "tokenize": tokenize,
    "replaced workers": replace_workers,
    "autotune": autotune,
    "long kernel": run_one_long_kernel,
    "garbage": collect_garbage,
    "profiler": profile,
    "compress": compress,
    "index": build_index,
    "threads": work_in_threads,
    "processes": work_in_processes,
    "busy child": wait_for_a_busy_child,
    "download": download,
    "slow read": read_slowly,
    "hash": hash_files,
    "parse": parse,
    "lenient parse": parse_leniently,
    "large number": print_a_large_number,
    "unpickle": unpickle,
    "copy": copy_files,
    "sort": sort,
    "optimizer": step_an_optimizer,
    "loader workers": replace_loader_workers,
    "silent evaluation": evaluate_silently,
}


async def _serve_until(descriptor: int) -> None:
    enough = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, enough.set)
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0):
        await enough.wait()


def serve_by_event_loop(descriptor: int) -> None:
    """An engine on asyncio, as vLLM's and SGLang's front ends are."""
    asyncio.run(_serve_until(descriptor))
