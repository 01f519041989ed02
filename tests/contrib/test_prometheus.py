"""contrib/: checked by the real promtool, and a real Prometheus that scrapes a real `distwatch serve`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distwatch.report.document import build_report
from distwatch.report.prometheus import render_metrics
from distwatch.runfolder import RunFolder, start_ticks
from tests.cli.runs import rings
from tests.diagnosis.recorded import RecordedJob, hung_job, judged
from tests.support.ranks import free_port
from tests.support.waiting import wait_until

CONTRIB = Path(__file__).resolve().parents[2] / "contrib"
pytestmark = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="no prometheus and promtool here: .ci/run installs the package",
)


def promtool(*arguments: str, given: bytes = b"") -> None:
    done = subprocess.run(
        ["promtool", *arguments], input=given, capture_output=True, cwd=CONTRIB / "prometheus", timeout=60
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said


def test_the_alerts_fire_when_they_should() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_the_metrics_follow_the_conventions() -> None:
    job = hung_job()
    report = build_report(job.state, judged(job), "r")
    promtool("check", "metrics", given=render_metrics([report], ["unreadable"]))


def expressions() -> list[str]:
    """What the dashboard asks, for every run."""
    board = json.loads((CONTRIB / "grafana" / "distwatch.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [expr.replace("$run", ".*") for expr in asked]


@contextmanager
def running(argv: list[str], folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, cwd=folder)
    try:
        yield process
    except BaseException:
        print((folder / f"{name}.log").read_text()[-4000:])
        raise
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


def api(port: int, path: str, **asked: str) -> Any:
    query = urllib.parse.urlencode(asked)
    with urllib.request.urlopen(
        f"http://127.0.0.1:{port}/api/v1/{path}?{query}", timeout=30
    ) as got:
        return json.load(got)["data"]


def wait_for(port: int, path: str, key: str, most_s: float = 60.0, **asked: str) -> list[Any]:
    """Asks until there is something; a Prometheus that starts refuses connections first."""
    found: list[Any] = []

    def is_there() -> bool:
        with contextlib.suppress(OSError):
            found.extend(api(port, path, **asked)[key])
        return bool(found)

    wait_until(is_there, f"{path} {asked} has a {key}", within_s=most_s)
    return found


def test_a_real_prometheus_scrapes_the_metrics(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    job = RecordedJob(1)
    job.initialize(0)
    me = os.getpid()
    rings(RunFolder(str(root / "llama")), job, {0: (me, start_ticks(me))})
    port = free_port()
    argv = [sys.executable, "-m", "distwatch", "serve", "--port", "0", "--dir", str(root)]
    with running(argv, tmp_path, "serve") as serve:
        assert serve.stdout is not None
        address = urllib.parse.urlsplit(serve.stdout.readline().decode().strip()).netloc
        config = (CONTRIB / "prometheus" / "prometheus.yml").read_text()
        config = config.replace("127.0.0.1:29601", address).replace("15s", "1s")
        (tmp_path / "prometheus.yml").write_text(config)
        shutil.copy(CONTRIB / "prometheus" / "alerts.yml", tmp_path)
        argv = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        with running([*argv, f"--web.listen-address=127.0.0.1:{port}"], tmp_path, "prometheus"):
            found = wait_for(port, "query", "result", query="distwatch_ranks_observed")
            assert [one["metric"]["run"] for one in found] == ["llama"]
            assert found[0]["value"][1] == "1"
            (target,) = api(port, "targets")["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            rules = api(port, "rules")["groups"]
            assert {rule["health"] for group in rules for rule in group["rules"]} <= {
                "ok",
                "unknown",
            }
            for expression in expressions():
                assert api(port, "query", query=expression)["resultType"] == "vector"
            answered = {e for e in expressions() if api(port, "query", query=e)["result"]}
            assert any("distwatch_run_blocked" in one for one in answered)
            assert any("distwatch_ranks{" in one for one in answered)
