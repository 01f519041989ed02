"""`distwatch mcp`, asked by the official SDK's own client over real pipes."""

from __future__ import annotations

import json
import os
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client

from distwatch.state import events as ev
from tests.cli.runs import save
from tests.diagnosis.recorded import HOST, RecordedJob, hung_job
from tests.support.terminals import in_terminal, interrupt

TOOLS = {"runs", "verdict", "ranks", "stacks", "source", "report"}
TRAIN = "import os\n\n\ndef main():\n    token = 'hf_abcdefghijklmnopqrstuvwx'\n    read_shard()\n"


@asynccontextmanager
async def asking(root: Path) -> AsyncIterator[ClientSession]:
    given = StdioServerParameters(
        command=sys.executable,
        args=["-m", "distwatch", "mcp", "--dir", str(root)],
        env={**os.environ, "DISTWATCH": "0", "DISTWATCH_HOST": HOST},
    )
    async with stdio_client(given) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


async def ask(session: ClientSession, tool: str, **arguments: Any) -> str:
    result = await session.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return str(result.content[0].text)


async def refusal(session: ClientSession, tool: str, **arguments: Any) -> str:
    result = await session.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


def with_stack(job: RecordedJob, *files: str) -> RecordedJob:
    frames = tuple(ev.Frame(function="main", file=file, line=6) for file in files)
    thread = ev.ThreadStack(name="MainThread", frames=frames)
    job.see(31.0, ev.StackTaken(process=job.key(2), threads=(thread,)))
    return job


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    os.utime(path, (0, 0))
    return path


async def test_what_an_agent_can_ask(root: Path, train: Path) -> None:
    save(with_stack(hung_job(), str(train)), root, "llama")
    async with asking(root) as session:
        listed = (await session.list_tools()).tools
        assert {tool.name for tool in listed} == TOOLS
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in listed)
        assert "llama" in await ask(session, "runs")
        verdict = json.loads(await ask(session, "verdict"))
        assert verdict["verdict"]["word"] == "hang"
        assert verdict["findings"][0]["culprit_ranks"] == [2]
        ranks = json.loads(await ask(session, "ranks", run="llama", first=2))
        assert [rank["global_rank"] for rank in ranks["ranks"]] == [2, 3]
        assert str(train) in await ask(session, "stacks")
        assert (await ask(session, "report")).startswith("## ")
        assert "there is no such run" in await refusal(session, "verdict", run="../../etc")


async def test_only_source_that_the_stacks_name(root: Path, train: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("x = 1\n")
    secret = tmp_path / "id_rsa"
    secret.write_text("a key")
    save(with_stack(hung_job(), str(train), str(secret), "/etc/passwd"), root, "llama")
    async with asking(root) as session:
        shown = await ask(session, "source", file=str(train), line=6, around=1)
        assert shown.splitlines()[1] == ">     6     read_shard()"
        assert "def main" not in shown
        whole = await ask(session, "source", file=str(train), line=6)
        assert "hf_" not in whole
        for path in (other, secret, "/etc/passwd", f"{tmp_path}/../{tmp_path.name}/other.py"):
            why = await refusal(session, "source", file=str(path), line=1)
            assert "no stack of that run names this Python file" in why
        os.utime(train)  # it is not what the job loaded any more
        assert "changed since" in await refusal(session, "source", file=str(train), line=6)


def test_ctrl_c_ends_it_while_it_waits_for_the_next_question(tmp_path: Path) -> None:
    question = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "a person", "version": "1"},
        },
    }  # fmt: skip

    def interrupt_after_an_answer(pid: int, terminal: int) -> None:
        quiet = termios.tcgetattr(terminal)
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSANOW, quiet)
        os.write(terminal, json.dumps(question).encode() + b"\n")
        said = b""
        while b"serverInfo" not in said:
            said += os.read(terminal, 65536)
        interrupt(pid, terminal)

    code, said = in_terminal(
        [sys.executable, "-m", "distwatch", "mcp", "--dir", str(tmp_path)],
        until=b"on stdin; Ctrl-C ends it",
        then=interrupt_after_an_answer,
    )
    assert code == 130
    assert b"Traceback" not in said
