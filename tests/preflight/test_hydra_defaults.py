"""Plans that are composed of several files by Hydra's defaults list, as RLinf's and verl's are."""

from __future__ import annotations

from pathlib import Path

import pytest

from distwatch.errors import PlanInvalid
from distwatch.preflight.plan_file import read_plans
from distwatch.preflight.values import Section

PLAN = """
defaults:
  - env/train: maniskill
  - model/openvla@actor.model
  - training_backend/megatron@actor.megatron
  - override hydra/job_logging: stdout

hydra:
  searchpath:
    - file://${oc.env:EMBODIED_PATH}/config/

cluster: {num_nodes: 1, num_gpus_per_node: 8, component_placement: {actor: 0-7}}
actor:
  training_backend: megatron
  model: {tensor_model_parallel_size: 4}
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def read(folder: Path, text: str = PLAN) -> dict[str, Section]:
    write(folder, {"plan.yaml": text})
    file = str(folder / "plan.yaml")
    return {one.name: one for one in read_plans(text, file, composes=True)}


def test_the_files_of_the_list_are_part_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBODIED_PATH", str(tmp_path / "elsewhere"))
    write(
        tmp_path,
        {
            "model/openvla.yaml": "tensor_model_parallel_size: 2\npipeline_model_parallel_size: 2\n"
            "num_attention_heads: 6\n",
            "env/train/maniskill.yaml": "total_num_envs: 128\n",
            "elsewhere/config/training_backend/megatron.yaml": "use_distributed_optimizer: true\n",
        },
    )
    section = read(tmp_path)["actor.model"]
    # What the file says itself overrides what it is composed of.
    assert (section.plan.tensor, section.plan.pipeline) == (4, 2)
    assert section.plan.num_attention_heads == 6
    assert not any("defaults" in note or "searchpath" in note for note in section.notes)


def test_what_is_not_there_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    section = read(tmp_path, PLAN.replace("${oc.env:EMBODIED_PATH}", "${oc.env:DW_NOT_SET}"))[
        "actor.model"
    ]
    assert section.plan.tensor == 4
    told = "; ".join(section.notes)
    assert "there is no readable model/openvla.yaml" in told
    assert "hydra.searchpath needs DW_NOT_SET, which is not set" in told
    assert "job_logging" not in told


@pytest.mark.parametrize(
    ("order", "tensor"), [("[_self_, base]", 8), ("[base, _self_]", 2), ("[base]", 2)]
)
def test_a_later_file_overrides_an_earlier_one(tmp_path: Path, order: str, tensor: int) -> None:
    write(tmp_path, {"base.yaml": "actor: {tensor_model_parallel_size: 8}\n"})
    text = f"defaults: {order}\nactor: {{tensor_model_parallel_size: 2}}\n"
    assert read(tmp_path, text)["actor"].plan.tensor == tensor


def test_a_file_of_the_list_has_a_list_of_its_own_and_a_package(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "model/large.yaml": "defaults: [small]\npipeline_model_parallel_size: 4\n",
            "model/small.yaml": "tensor_model_parallel_size: 2\n",
            "sizes/top.yaml": "# @package _global_\nrollout: {tensor_parallel_size: 8, pipeline_parallel_size: 1}\n",
        },
    )
    found = read(tmp_path, "defaults:\n  - model: large\n  - sizes: top\n")
    assert (found["model"].plan.tensor, found["model"].plan.pipeline) == (2, 4)
    assert found["rollout"].plan.tensor == 8


def test_an_error_in_such_a_file_names_it_and_its_line(tmp_path: Path) -> None:
    write(tmp_path, {"model/bad.yaml": "a: 1\ntensor_model_parallel_size: none\n"})
    with pytest.raises(PlanInvalid, match=r"model/bad\.yaml line 2"):
        read(tmp_path, "defaults:\n  - model/bad@actor.model\nactor: {}\n")


def test_a_circle_ends_and_nothing_outside_is_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"a.yaml": "defaults: [b]\n", "b.yaml": "defaults: [a]\ntensor_model_parallel_size: 2\n"},
    )
    write(tmp_path.parent, {"secret.yaml": "tensor_model_parallel_size: 64\n"})
    found = read(tmp_path, "defaults: [a, ../secret]\nactor: {tensor_model_parallel_size: 2}\n")
    assert {section.plan.tensor for section in found.values()} == {2}
    told = "; ".join(note for section in found.values() for note in section.notes)
    assert "../secret is outside of the folder" in told
    assert "was not read" in told
