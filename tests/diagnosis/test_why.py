"""Why ranks part: each program really runs on two or three ranks, and its recorded job is judged."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from distwatch.diagnosis.verdict.diagnose import diagnose
from distwatch.diagnosis.why.parting import part
from distwatch.diagnosis.why.source import read_source
from distwatch.diagnosis.why.trails import Step, Trail
from distwatch.state import events as ev
from distwatch.state.finding import Finding
from tests.diagnosis.acted_job import ActedJob
from tests.diagnosis.parted_programs import Program, read_programs


def marked_line(job: ActedJob) -> int:
    lines = job.text.splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.endswith("# <"))


def judged_root(job: ActedJob, **seen: bool) -> Finding:
    findings = diagnose(job.recorded(**seen).state)
    assert findings, "nothing was found"
    return findings[0]


def complaint_about(program: Program, job: ActedJob, finding: Finding) -> str:
    """What is wrong with the answer; '' where it is right."""
    told = [(w.kind, w.condition_line, w.about or "unknown") for w in finding.why if w.condition]
    line = marked_line(job)
    if any(k in program.kinds and at == line and a in program.about for k, at, a in told):
        return ""
    return f"{program.name}: {told} in {finding.code}, not line {line}: {finding.summary}"


@pytest.mark.parametrize("program", read_programs(), ids=lambda program: program.name)
def test_what_separates_the_ranks_is_named(program: Program, tmp_path: Path) -> None:
    job = ActedJob(tmp_path / "train.py", program.text, program.world).act()
    finding = judged_root(job)
    assert not complaint_about(program, job, finding)
    shown = next(way for way in finding.why if way.condition)
    assert any(number == shown.condition_line for number, _ in shown.lines)
    assert f"train.py:{shown.condition_line}" in finding.summary


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("branch", {"calls": False}),
        ("busy_in_branch", {"calls": False}),
        ("except_calls", {"calls": False}),
        ("branch", {"stacks": False}),
        ("callback_of_a_class", {"stacks": False}),
        ("return_then_end", {"stacks": False}),
        ("size_by_rank", {"stacks": False}),
    ],
)
def test_stacks_alone_are_enough_and_so_are_calls_alone(
    name: str, seen: dict[str, bool], tmp_path: Path
) -> None:
    program = next(p for p in read_programs() if p.name == name)
    job = ActedJob(tmp_path / "train.py", program.text, program.world).act()
    assert not complaint_about(program, job, judged_root(job, **seen))


def test_a_stack_from_before_the_last_call_says_nothing(tmp_path: Path) -> None:
    text = "if rank == 0:\n    warm = [1]\ndist.all_reduce([1])\nif rank == 0:\n    stuck()\ndist.barrier()"
    recorded = (job := ActedJob(tmp_path / "train.py", text).act()).recorded(stacks=False)
    recorded.stack(0, 1.0, (ev.Frame(file=str(job.path), line=2, function="<module>"),))
    finding = diagnose(recorded.state)[0]
    assert (finding.code, finding.culprit_ranks, finding.why) == (
        "collective.rank_missing", (0,), (),
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "x = [1]\nif world_size > 1:\n    x = [2]\nfor n in range(4):\n    dist.all_reduce([n])\n"
        "dist.all_reduce([1 / (1 - rank)])",
        "dist.all_reduce([1])\ndef read():\n    for shard in range(9):\n        if shard == 2: stuck_on_one()\n"
        "dist.barrier()\nstuck_on_one()\ndist.barrier()",
        "for n in range(4):\n    stuck_on_one()\n    if n == 2 and rank == 0:\n        dist.barrier()\n"
        "    else:\n        dist.all_reduce([n])",
    ],
)
def test_where_the_code_does_not_part_nothing_is_said(text: str, tmp_path: Path) -> None:
    job = ActedJob(tmp_path / "train.py", text)
    job.given = {"stuck_on_one": lambda: job.fabric.rank == 1 and job.fabric.stuck()}
    assert not judged_root(job.act()).why


def test_who_passes_by_an_else_is_said_not_to_take_the_else(tmp_path: Path) -> None:
    program = next(p for p in read_programs() if p.name == "not_in_the_else")
    finding = judged_root(ActedJob(tmp_path / "train.py", program.text, program.world).act())
    assert "rank 2 does not take the else of `if rank == 2:`, train.py:3, where" in finding.summary


def test_a_branch_says_nothing_where_something_else_decides_who_is_called(tmp_path: Path) -> None:
    """Every rank comes to `logger.info`; its level, which this rule does not read, is what differs."""
    text = """
import logging
class Gathering(logging.Handler):
    def emit(self, record):
        dist.all_gather([1])
logger = logging.Logger("train", [logging.WARNING, logging.INFO][rank == 0])
logger.addHandler(Gathering())
for number in range(3):
    dist.all_reduce([1, 2])
    if number == 1:
        logger.info("step")
"""
    finding = judged_root(ActedJob(tmp_path / "train.py", text, 3).act())
    assert (finding.culprit_ranks, finding.why) == ((0,), ())


def test_a_source_of_endless_branches_costs_only_the_why(tmp_path: Path) -> None:
    branches = "".join(f"elif rank == {n}:\n    dist.barrier()\n" for n in range(3, 1500))
    text = (
        f"dist.barrier()\nif rank == 2:\n    pass\n{branches}elif rank == 0:\n    dist.barrier()\n"
    )
    job = ActedJob(tmp_path / "train.py", text + "else:\n    dist.all_reduce([1])\n").act()
    assert judged_root(job).code == "collective.op_mismatch"


def test_without_the_source_there_is_no_why(tmp_path: Path) -> None:
    program = read_programs()[0]
    job = ActedJob(tmp_path / "train.py", program.text, program.world).act()
    state = job.recorded().state
    state.source_files.clear()
    assert not diagnose(state)[0].why


def test_a_file_that_is_not_what_the_ranks_run_says_nothing(tmp_path: Path) -> None:
    program = read_programs()[0]
    job = ActedJob(tmp_path / "train.py", program.text, program.world).act()
    state = job.recorded().state
    other = "\n" * 20 + "def main():\n    if rank == 0:\n        pass\n"
    read = state.source_files[str(job.path)]
    state.source_files[str(job.path)] = msgspec.structs.replace(read, text=other)
    assert not diagnose(state)[0].why


EXTRA = """
def train():
    dist.all_reduce([1])
    if rank == 0:
        dist.broadcast([1], 0)
try:
    train()
finally:
    dist.barrier()
"""
LOOP = "try:\n    for n in range(1 + rank):\n        dist.all_reduce([n])\nfinally:\n    dist.barrier()"


@pytest.mark.parametrize(
    ("name", "blamed"),
    [("except_calls", (1,)), ("finally_calls", (1,)), (LOOP, (0, 1))],
)
def test_who_has_left_a_try_that_others_are_still_in_is_to_blame(
    name: str, blamed: tuple[int, ...], tmp_path: Path
) -> None:
    text = next((p.text for p in read_programs() if p.name == name), name)
    job = ActedJob(tmp_path / "train.py", text).act()
    finding = judged_root(job)
    assert (finding.code, finding.culprit_ranks) == ("collective.op_mismatch", blamed)
    assert set(finding.waiting_ranks) == {0, 1} - set(blamed)


def test_who_has_ended_the_body_of_a_try_is_not_blamed_for_what_another_rank_does_in_it(
    tmp_path: Path,
) -> None:
    finding = judged_root(ActedJob(tmp_path / "train.py", EXTRA).act())
    assert (finding.code, finding.culprit_ranks) == ("collective.op_mismatch", (0, 1))
    assert [(way.global_ranks, way.condition) for way in finding.why] == [
        ((0,), "if rank == 0:"),
        ((1,), ""),
    ]


@pytest.mark.parametrize(("alike", "separates"), [(False, "loop"), (True, "return")])
def test_a_loop_does_not_part_ranks_that_are_at_one_step_of_their_training(
    alike: bool, separates: str
) -> None:
    """Of one rank a call is missing: its loop was shorter, or it left the function once before the call."""
    text = """
def step(batch):
    if not finite(batch):
        return
    all_reduce(batch)

def main(batches):
    for batch in batches:
        step(batch)
    barrier()
"""
    in_step = Trail(
        steps=(Step("train.py", 9, "main"), Step("train.py", 5, "step")), called=("all_reduce",)
    )
    after = Trail(steps=(Step("train.py", 10, "main"),), called=("barrier",))
    parting = part((in_step, after), lambda _: read_source(text), (6, 5), alike_rounds=alike)
    assert parting is not None
    assert parting.guard.kind == separates


def test_a_source_of_hundreds_of_branches_costs_the_why_and_not_the_verdict(tmp_path: Path) -> None:
    branches = "".join(f"    elif a == {number}:\n        pass\n" for number in range(400))
    text = (
        f"def main(a, x):\n    if a == -2:\n        pass\n{branches}    else:\n        dist.all_reduce(x)\n"
        "main(-1, sizes())"
    )
    job = ActedJob(tmp_path / "train.py", text)
    job.given = {"sizes": lambda: [1] * (1 + job.fabric.rank)}
    finding = judged_root(job.act())
    assert (finding.code, finding.why) == ("collective.shape_mismatch", ())


IN_BOTH_ARMS = """
class Shards:
    def __init__(self, download): pass
    def __getitem__(self, number):
        if number == 2: stuck_on_one()
        return [number]
if rank == 0:
    data = Shards(True)
    dist.barrier()
else:
    dist.barrier()
    data = Shards(False)
for number in range(4):
    dist.all_reduce(data[number])
"""
PASSED_IN_BOTH = """
class Hooks:
    def __init__(self, hook, verbose): self.hooks = [hook]
    def run(self, number):
        for hook in self.hooks: hook(number)
def on_step(number):
    dist.all_reduce([number])
if rank == 0:
    hooks = Hooks(on_step, verbose=True)
else:
    hooks = Hooks(on_step, verbose=False)
dist.barrier()
stuck_on_one()
hooks.run(0)
"""
OF_THE_SAME_NAME = """
import types
args = types.SimpleNamespace(save=True)
def save(number):
    dist.all_reduce([number])
hooks = [globals()["save"]]
if rank == 0 and args.save:
    print("saving")
dist.barrier()
stuck_on_one()
run = hooks[0]
run(0)
"""
BY_ANOTHER_WAY = """
hooks = []
def save(number):
    stuck_on_one()
if rank == 0:
    hooks.append(save)
else:
    hooks.append(globals()["save"])
for number in range(4):
    dist.all_reduce([number])
    for hook in hooks: hook(number)
"""


def rank_1_is_stuck(text: str, tmp_path: Path) -> Finding:
    """The verdict on a program in which rank 1 does not come back from `stuck_on_one`."""
    job = ActedJob(tmp_path / "train.py", text)
    job.given = {"stuck_on_one": lambda: job.fabric.rank == 1 and job.fabric.stuck()}
    finding = judged_root(job.act())
    assert (finding.code, finding.culprit_ranks) == ("collective.rank_missing", (1,))
    return finding


@pytest.mark.parametrize("text", [IN_BOTH_ARMS, PASSED_IN_BOTH, OF_THE_SAME_NAME, BY_ANOTHER_WAY])
def test_where_all_ranks_make_or_pass_on_a_thing_that_does_not_part_them(
    text: str, tmp_path: Path
) -> None:
    finding = rank_1_is_stuck(text, tmp_path)
    assert not [way for way in finding.why if "rank" in way.condition or "save" in way.condition]


def test_an_expression_over_several_lines_of_any_script_is_shown_in_one() -> None:
    source = read_source('größe = "é"; check(\n    "ü", größe,\f\r\n    rank)  # ende\n')
    assert source is not None
    assert source.segment(source.calls_named("check")[0]) == 'check( "ü", größe, rank)'


SWALLOWED = """
import contextlib
for number in range(6):
    with contextlib.suppress(StopIteration):
        dist.all_reduce([number])
    if number == 3: stuck_on_one()
"""
RETRIED = """
for number in range(6):
    for attempt in range(3):
        try:
            dist.all_reduce([number])
            break
        except RuntimeError:
            pass
    if number == 3: stuck_on_one()
"""
SWALLOWED_BELOW = """
def reduce(number):
    try:
        dist.all_reduce([number])
    except RuntimeError:
        pass
for number in range(6):
    reduce(number)
    if number == 3: stuck_on_one()
"""
ON_DATA_BELOW = """
def reduce(losses):
    if len(losses) > 0:
        dist.all_reduce(losses)
for number in range(6):
    if number == 3: stuck_on_one()
    reduce([number])
"""


@pytest.mark.parametrize("text", [SWALLOWED, RETRIED, SWALLOWED_BELOW, ON_DATA_BELOW])
def test_who_is_held_up_in_the_same_loop_is_not_parted_by_what_it_has_yet_to_come_to(
    text: str, tmp_path: Path
) -> None:
    finding = rank_1_is_stuck(text, tmp_path)
    assert finding.why == ()


@pytest.mark.parametrize(
    ("switched", "called"),
    [
        (
            "context = model.no_sync() if (n + 1) % 2 else contextlib.nullcontext()",
            "with context: ",
        ),
        ("model.require_backward_grad_sync = (n + 1) % 2 == 0", ""),
    ],
)
def test_a_switch_that_is_the_same_on_every_rank_parts_nobody(
    switched: str, called: str, tmp_path: Path
) -> None:
    text = (
        f"import contextlib\nfor n in range(6):\n    {switched}\n    {called}model(n).backward()\n"
        "    if n == 3: stuck_on_one()"
    )
    job = ActedJob(tmp_path / "train.py", text)
    job.given = {"stuck_on_one": lambda: job.fabric.rank == 1 and job.fabric.stuck()}
    finding = judged_root(job.act())
    assert (finding.culprit_ranks, finding.why) == ((1,), ())


@pytest.mark.parametrize(
    ("made", "about"),
    [
        ("os.listdir('/')", "files"),
        ("os.listdir('/')\nnames.sort()", ""),
        ("os.listdir('/')\nrandom.Random(1).shuffle(names)", ""),
        ("{'a', 'b'}", "randomness"),
        ("{1, 2, -4}", ""),
        ("set(range(3)) | {7}", ""),
        ("{2 * n for n in range(3)}", ""),
        ("{1} | {'a'}", "randomness"),
    ],
)
def test_only_names_in_an_order_of_their_own_part_ranks(
    made: str, about: str, tmp_path: Path
) -> None:
    text = f"import os, random\nnames = {made}\nfor name in names:\n    dist.all_reduce(read(name))"
    job = ActedJob(tmp_path / "train.py", text)
    job.given = {"read": lambda name: [1] * (1 + job.fabric.rank)}
    finding = judged_root(job.act())
    assert finding.code == "collective.shape_mismatch"
    assert {way.about for way in finding.why} == ({about} if about else set())
