"""The hub on loopback: what the real library loads from it, and each of its faults."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import Hub, held_lock, hub, hub_environment, refusing_endpoint
from tests.support.without_torch import needs_torch

MAKE = """
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                     num_attention_heads=4, num_key_value_heads=4)
LlamaForCausalLM(config).save_pretrained(FOLDER, max_shard_size="40KB")
"""
LOAD = """
from transformers import AutoModelForCausalLM
print(type(AutoModelForCausalLM.from_pretrained("org/model")).__name__)
"""
SHARD = "model-00001-of-00002.safetensors"
URL = "/org/model/resolve/main"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What looks like a checkpoint to someone who only downloads it."""
    made = tmp_path / "checkpoint"
    made.mkdir()
    (made / "config.json").write_text('{"model_type": "llama"}')
    (made / SHARD).write_bytes(bytes(range(256)) * 4)
    return made


@pytest.fixture
def serving(folder: Path) -> Iterator[Hub]:
    with hub(folder) as served:
        yield served


@pytest.fixture
def client(serving: Hub) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(serving.endpoint.removeprefix("http://"), timeout=60)
    yield connection
    connection.close()


@needs_torch
def test_from_pretrained_downloads_and_loads_from_it(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    run_python(MAKE.replace("FOLDER", repr(str(folder))), {})
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 1
    with hub(folder) as serving:
        variables = hub_environment(serving.endpoint, tmp_path / "cache")
        assert run_python(LOAD, variables) == "LlamaForCausalLM\n"
        for name in ["config.json", "generation_config.json", *shards]:
            serving.wait_request(f"GET .*/{name}$", timeout_s=0)


def test_a_file_is_served_with_what_the_library_asks_for(
    serving: Hub, client: http.client.HTTPConnection, folder: Path
) -> None:
    whole = (folder / SHARD).read_bytes()
    client.request("HEAD", f"{URL}/{SHARD}")
    head = client.getresponse()
    assert (head.status, head.read(), head.headers["Content-Length"]) == (200, b"", "1024")
    assert head.headers["X-Repo-Commit"] == serving.commit
    assert head.headers["ETag"].strip('"') in str(serving.lock_file(folder, SHARD))
    client.request("GET", f"/org/model/resolve/{serving.commit}/{SHARD}")
    assert client.getresponse().read() == whole
    client.request("GET", f"{URL}/{SHARD}", headers={"Range": "bytes=1000-"})
    rest = client.getresponse()
    assert (rest.status, rest.read()) == (206, whole[1000:])
    assert serving.requests[0] == f"HEAD {URL}/{SHARD}"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (f"{URL}/no_such_file.json", "EntryNotFound"),
        ("/org/model/resolve/no-such-branch/config.json", "RevisionNotFound"),
        ("/api/models/org/other", "RepoNotFound"),
    ],
)
def test_what_is_not_there_is_told_as_the_hub_tells_it(
    client: http.client.HTTPConnection, path: str, error: str
) -> None:
    client.request("GET", path)
    answer = client.getresponse()
    assert (answer.status, answer.headers["X-Error-Code"]) == (404, error)


def test_a_blackhole_answers_when_it_heals(
    serving: Hub, client: http.client.HTTPConnection
) -> None:
    serving.fault("HEAD .*config", "blackhole")
    client.request("HEAD", f"{URL}/config.json")
    assert serving.wait_request("config") == f"HEAD {URL}/config.json"
    serving.heal()
    assert client.getresponse().status == 200


def test_the_end_releases_who_waits(folder: Path) -> None:
    with hub(folder) as serving:
        serving.fault(".", "blackhole")
        client = http.client.HTTPConnection(serving.endpoint.removeprefix("http://"), timeout=60)
        client.request("GET", f"{URL}/config.json")
        serving.wait_request("config")
    with pytest.raises(http.client.RemoteDisconnected):
        client.getresponse()
    client.close()


def test_a_drip_sends_half_and_the_rest_when_it_heals(
    serving: Hub, client: http.client.HTTPConnection, folder: Path
) -> None:
    serving.fault("GET .*safetensors", "drip")
    client.request("GET", f"{URL}/{SHARD}")
    answer = client.getresponse()
    half = answer.read(512)
    serving.heal()
    assert half + answer.read() == (folder / SHARD).read_bytes()


def test_a_drip_that_never_heals_is_cut(folder: Path) -> None:
    with hub(folder) as serving:
        serving.fault(".", "drip")
        client = http.client.HTTPConnection(serving.endpoint.removeprefix("http://"), timeout=60)
        client.request("GET", f"{URL}/{SHARD}")
        answer = client.getresponse()
        assert len(answer.read(512)) == 512
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    client.close()


def test_refuse_resets_the_connection(serving: Hub, client: http.client.HTTPConnection) -> None:
    serving.fault("GET", "refuse")
    client.request("GET", f"{URL}/config.json")
    with pytest.raises(ConnectionResetError):
        client.getresponse()


def test_an_error_is_a_503_and_only_where_it_matches(
    serving: Hub, client: http.client.HTTPConnection
) -> None:
    serving.fault("/api/", "error")
    client.request("GET", "/api/models/org/model")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (503, b"")
    client.request("GET", f"{URL}/config.json")
    assert json.load(client.getresponse()) == {"model_type": "llama"}


def test_a_refusing_endpoint_refuses() -> None:
    with refusing_endpoint() as endpoint:
        client = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=60)
        with pytest.raises(ConnectionRefusedError):
            client.request("GET", "/")
        client.close()


def test_a_held_lock_is_held_for_the_library(serving: Hub, tmp_path: Path) -> None:
    lock = serving.lock_file(tmp_path / "cache", "config.json")
    ask = f"""
from filelock import FileLock, Timeout
try:
    FileLock({str(lock)!r}).acquire(timeout=0)
except Timeout:
    print("held")
"""
    with held_lock(lock):
        assert run_python(ask, {}) == "held\n"


def test_a_request_that_does_not_come_is_told_with_those_that_came(
    serving: Hub, client: http.client.HTTPConnection
) -> None:
    client.request("GET", f"{URL}/config.json")
    client.getresponse().read()
    with pytest.raises(AssertionError, match=r"1 of 2 requests for 'config'.*config\.json"):
        serving.wait_request("config", timeout_s=0, times=2)


def run_python(source: str, variables: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
