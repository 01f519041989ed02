"""Of what py-spy reads, only the arguments of torch's own calls that decide are kept."""

from __future__ import annotations

import json

from distwatch.probes.call_arguments import parse_arguments

TORCH = "/venv/lib/python3.11/site-packages/torch/distributed/"


def a_frame(name: str, file: str, **values: str) -> dict[str, object]:
    listed = [{"name": key, "addr": 1, "arg": True, "repr": value} for key, value in values.items()]
    return {"name": name, "filename": file, "line": 1, "module": None, "locals": listed}


def dump(*frames: dict[str, object], thread: str = "MainThread") -> str:
    return json.dumps([{"pid": 7, "thread_id": 1, "thread_name": thread, "frames": frames}])


def a_recv(kwargs: str, **values: str) -> str:
    return dump(
        a_frame("recv", TORCH + "distributed_c10d.py", tensor="<Tensor at 0x7f>", **values),
        a_frame("_exception_logger.<locals>.wrapper", TORCH + "c10d_logger.py", args="()", kwargs=kwargs),
        a_frame("load", "/job/train.py", src='"s3://token@bucket"', password='"hunter2"', tag="9"),
    )  # fmt: skip


def test_what_decides_is_kept_and_nothing_of_the_users() -> None:
    text = a_recv("{}", src="3", group="None", tag="7", group_src="None")
    assert parse_arguments(text) == {"src": "3", "tag": "7", "group": "default"}


def test_a_group_that_the_caller_gave_is_told() -> None:
    text = a_recv('{"group": <torch._C._distributed_c10d.ProcessGroup at 0x7f>}', src="3")
    assert parse_arguments(text)["group"] == "given"


def test_the_innermost_frame_knows_best() -> None:
    file = TORCH + "distributed_c10d.py"
    text = dump(
        a_frame("_new_process_group_helper", file, group_name='"12"'),
        a_frame("new_group", file, ranks="[0, 1]", group_name='"other"'),
    )
    assert parse_arguments(text) == {"group_name": "12", "ranks": "[0, 1]"}


def test_values_of_other_kinds_other_threads_and_other_texts_are_dropped() -> None:
    file = TORCH + "distributed_c10d.py"
    assert parse_arguments(dump(a_frame("send", file, dst="<Evil>", tag='"\x1b[31m"'))) == {}
    assert parse_arguments(dump(a_frame("send", file, dst="1"), thread="saver")) == {}
    for text in ("", "{}", "[" * 10_000, '[{"frames": 3}]'):
        assert parse_arguments(text) == {}
