"""Pages that cannot lie: every block of code and commands is run, or says why it cannot be."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import REPOSITORY, Block, assert_shown, blocks, shell
from tests.support.checkpoints import make_checkpoint
from tests.support.ranks import JOBS, PATIENT, launch_ranks

ALL = blocks()
LANGUAGES = {"sh", "console", "python", "yaml", "json", "text"}
IN_RANKS = re.compile(r"(?P<ranks>\d+) ranks?(?:, with (?P<double>tests/doubles/\w+))?")
IN_A_TEST = re.compile(r"in (?P<path>tests/[\w/]+\.py)")


def chosen(*languages: str, how: str = "") -> list[Block]:
    return [block for block in ALL if block.language in languages and block.how == how]


@pytest.mark.parametrize("block", ALL, ids=str)
def test_every_block_has_a_language_and_runs_or_says_why_not(block: Block) -> None:
    assert block.language in LANGUAGES, "name its language"
    if block.how == "not run":
        assert len(block.words.split()) >= 3, "say why it cannot run"
    elif inside := IN_A_TEST.fullmatch(block.words):
        source = (REPOSITORY / inside["path"]).read_text()
        assert "blocks_for(" in source, f"{inside['path']} does not run it"
    elif block.language == "python":
        assert IN_RANKS.fullmatch(block.words), "say in how many ranks: <!-- run: 4 ranks -->"
    else:
        assert not block.how, "only Python runs in ranks"
        assert block.language != "text", "text is no code: say what runs it, or why nothing can"


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=str)
def test_python_parses_and_names_what_there_is(block: Block) -> None:
    import distwatch

    for call in ast.walk(ast.parse(block.text)):
        if isinstance(call, ast.Attribute) and ast.unparse(call.value) == "distwatch":
            assert hasattr(distwatch, call.attr), call.attr


@pytest.mark.parametrize("block", chosen("yaml", "json") + chosen("yaml", how="not run"), ids=str)
def test_data_can_be_read(block: Block, tmp_path: Path) -> None:
    assert yaml.safe_load(block.text)  # JSON is YAML
    if block.language == "yaml" and block.runs:
        (tmp_path / "plan.yaml").write_text(block.text)
        code, output = shell("distwatch check plan.yaml", tmp_path)
        assert code == 0, output


@pytest.mark.parametrize("block", chosen("sh", "console"), ids=str)
def test_commands_run_and_print_what_is_shown(block: Block, tmp_path: Path) -> None:
    if block.language == "sh":
        code, output = shell(f"set -e\n{block.text}", tmp_path)
        assert code == 0, output
        return
    for session in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = session.partition("\n")
        assert_shown(shown, shell(command, tmp_path)[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages call org/model."""
    folder = tmp_path_factory.mktemp("models")
    make_checkpoint(folder / "org" / "model")
    return folder


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "block", [b for b in chosen("python", how="run") if IN_RANKS.fullmatch(b.words)], ids=str
)
def test_python_runs_and_gives_what_is_shown(
    block: Block, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "org/model" in block.text:
        tmp_path = request.getfixturevalue("model")
    ranks, double = IN_RANKS.fullmatch(block.words).groups()  # type: ignore[union-attr]
    (tmp_path / "block.py").write_text(block.text)
    paths = (str(REPOSITORY), str(JOBS), *([str(REPOSITORY / double)] if double else []))
    env = {
        "PYTHONPATH": os.pathsep.join(paths),
        "DISTWATCH_DEADLINES": PATIENT,
        "TEST_FOLDER": str(tmp_path),
    }
    with launch_ranks("../../docs/run_block", int(ranks), env=env, args=["block.py"]) as job:
        assert job.wait_ended() == [0] * int(ranks), job.describe()
        said = re.findall(r"^\[\".*\]$", job.output("rank0.log"), re.MULTILINE)
    for shown, value in map(json.loads, said):
        assert_shown(shown, value)
    assert len(said) == block.text.count("# → ")
