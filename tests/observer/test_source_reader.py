"""Source files that show why ranks part: read at once, or recorded when they come."""

from __future__ import annotations

import asyncio
import threading

from distwatch.diagnosis.verdict.probe_requests import WantedFile
from distwatch.observer.looks.source_files import SourceReader
from distwatch.state.events import SourceFileRead
from distwatch.state.model import Process

HOST = "node1"


def wanted(file: str) -> WantedFile:
    return WantedFile(file=file, process=Process(key="p"), started_s=0.0, functions=())


async def reader_of_late_file(
    recorded: list[SourceFileRead], answers: threading.Event
) -> SourceReader:
    """One that has gone on without a file, which is there once `answers` is set."""

    def read(host: str, one: WantedFile) -> SourceFileRead:
        answers.wait(60)
        return SourceFileRead(host=host, file=one.file, text="x = 1\n")

    reader = SourceReader(recorded.append, read, within_s=0.0)
    await reader.read(HOST, [wanted("train.py")])
    return reader


async def test_a_file_that_comes_late_is_recorded_when_it_comes() -> None:
    """A thread of a busy machine may not run for seconds: that is no reason to have no source for ever."""
    answers = threading.Event()
    recorded: list[SourceFileRead] = []
    reader = await reader_of_late_file(recorded, answers)
    assert [(one.file, one.text, bool(one.not_read)) for one in recorded] == [
        ("train.py", "", True)
    ]
    late = set(reader.late)
    answers.set()
    await asyncio.wait_for(asyncio.gather(*late), 60)
    assert [one.text for one in recorded[1:]] == ["x = 1\n"]
    assert not reader.late


async def test_files_that_are_there_are_recorded_in_their_order() -> None:
    recorded: list[SourceFileRead] = []
    reader = SourceReader(
        recorded.append,
        lambda host, one: SourceFileRead(host=host, file=one.file, text=f"# {one.file}\n"),
        within_s=20.0,
    )
    await reader.read(HOST, [wanted("a.py"), wanted("b.py")])
    assert [one.file for one in recorded] == ["a.py", "b.py"]


async def test_a_file_that_comes_after_the_end_is_not_recorded() -> None:
    """A journal that is closed would be opened again."""
    answers = threading.Event()
    recorded: list[SourceFileRead] = []
    reader = await reader_of_late_file(recorded, answers)
    late = set(reader.late)
    reader.close()
    answers.set()
    await asyncio.wait(late)
    assert [one.text for one in recorded] == [""]
