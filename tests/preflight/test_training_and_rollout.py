"""Layouts of one file that have to go together, and a plan against what a job holds."""

from __future__ import annotations

from distwatch.preflight.foreign_layouts import foreign_sections
from distwatch.preflight.plan import Plan
from distwatch.preflight.plan_against_job import JobLayout, compare_with_job, planned_layout
from distwatch.preflight.plan_check import examine_sections
from distwatch.preflight.plan_file import read_plans
from distwatch.preflight.training_and_rollout import fit_together
from distwatch.preflight.values import Section
from distwatch.preflight.yaml_text import Document
from distwatch.state.finding import Finding

RLINF = """
cluster: {num_nodes: 1, num_gpus_per_node: 8, component_placement: {actor: 0-3, rollout: PLACE}}
rollout: {rollout_backend: sglang, tensor_parallel_size: CUT, pipeline_parallel_size: 1}
actor:
  model: {tensor_model_parallel_size: 4, pipeline_model_parallel_size: 1}
"""
VERL = """
trainer: {n_gpus_per_node: 8, nnodes: 1}
actor_rollout_ref:
  actor: {megatron: {tensor_model_parallel_size: 4, pipeline_model_parallel_size: 2}}
  ref: {megatron: {tensor_model_parallel_size: 2, pipeline_model_parallel_size: 2}}
  rollout: {name: sglang, tensor_model_parallel_size: CUT}
"""
SLIME = """
tensor_model_parallel_size: 2
pipeline_model_parallel_size: 2
actor_num_nodes: 1
actor_num_gpus_per_node: 4
rollout_num_gpus: RANKS
rollout_num_gpus_per_engine: CUT
"""


def findings(text: str, **said: object) -> dict[str, list[Finding]]:
    for name, value in said.items():
        text = text.replace(name.upper(), str(value))
    return {one.section.name: one.findings for one in examine_sections(read_plans(text))}


def codes(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.severity) for finding in found]


def test_layouts_that_go_together_are_sound() -> None:
    for text, said in (
        (RLINF, {"place": "4-7", "cut": 2}),
        (RLINF, {"place": "0-3", "cut": 4}),
        (VERL, {"cut": 2}),
        (SLIME, {"ranks": 4, "cut": 2}),
    ):
        assert not any(findings(text, **said).values()), (text, said)


def test_slimes_engines_are_a_layout_of_their_own() -> None:
    sections = {s.name: s.plan for s in read_plans(SLIME.replace("RANKS", "6").replace("CUT", "4"))}
    engines = sections["rollout engines"]
    assert (engines.framework, engines.tensor, engines.ranks) == ("sglang", 4, 6)
    assert sections["top level"].ranks == 4
    found = findings(SLIME, ranks=6, cut=4)["rollout engines"]
    assert ("group.size_invalid", "error") in codes(found)


def test_colocated_engines_have_the_ranks_of_training() -> None:
    text = SLIME.replace("rollout_num_gpus: RANKS", "colocate: true").replace("CUT", "2")
    sections = {s.name: s.plan for s in read_plans(text)}
    assert sections["rollout engines"].ranks == 4


def test_cuts_of_which_neither_divides_the_other() -> None:
    found = findings(RLINF.replace("0-3", "0-3"), place="4-6", cut=3)["rollout"]
    assert codes(found) == [("group.layout_disagrees", "warning")]
    assert "splits tensors 4 ways" in found[0].summary
    assert "3 ways" in found[0].summary


def test_the_reference_is_not_what_rollout_is_held_against() -> None:
    found = findings(VERL, cut=4)
    assert not found["actor_rollout_ref.rollout"]


def test_accelerators_shared_in_part() -> None:
    found = findings(RLINF, place="2-5", cut=2)["rollout"]
    assert codes(found) == [("group.layout_disagrees", "warning")]
    assert "share only accelerators 2-3" in found[0].summary


def test_accelerators_that_the_cluster_does_not_have() -> None:
    found = findings(RLINF, place="6-9", cut=2)["rollout"]
    assert ("group.size_invalid", "error") in codes(found)
    assert any("accelerators 8-9" in finding.summary for finding in found)


def test_two_models_in_one_plan() -> None:
    text = VERL.replace("CUT", "2").replace("name: sglang", "name: sglang, num_hidden_layers: 28")
    text = text.replace("{tensor_model_parallel_size: 4", "{num_layers: 32, tensor_model_parallel_size: 4")  # fmt: skip
    found = findings(text)["actor_rollout_ref.rollout"]
    assert codes(found) == [("group.layout_disagrees", "error")]
    assert "num_layers 32 and 28" in found[0].summary


PLANNED = Section(
    name="actor.model", plan=Plan(framework="megatron", world_size=8, tensor=2, pipeline=2)
)


def holds(world: int, **sizes: int) -> JobLayout:
    layout = planned_layout(Plan(framework="megatron", **sizes), world)
    return JobLayout(framework="megatron", world=world, layout=layout)


def test_a_job_that_holds_what_was_planned() -> None:
    assert compare_with_job(PLANNED, [holds(8, tensor=2, pipeline=2)]) == []


def test_a_job_of_other_sizes_is_shown_beside_the_plan() -> None:
    found = compare_with_job(PLANNED, [holds(8, tensor=4)])
    assert codes(found) == [("group.layout_disagrees", "warning")]
    assert "tp groups of 2 planned and 4 held" in found[0].summary
    assert "pp groups of 2 planned and 1 held" in found[0].summary
    lines = [evidence.text for evidence in found[0].evidence]
    assert lines[0].split() == ["axis", "plan", "megatron"]
    assert any(line.startswith("tp") for line in lines)


def test_one_of_several_worlds_that_fits_is_enough() -> None:
    assert compare_with_job(PLANNED, [holds(8, tensor=4), holds(8, tensor=2, pipeline=2)]) == []


def test_a_job_of_another_number_of_ranks_or_without_the_framework() -> None:
    found = compare_with_job(PLANNED, [holds(4, tensor=2, pipeline=2)])
    assert "planned for 8 ranks, but the job's megatron has 4" in found[0].summary
    assert codes(compare_with_job(PLANNED, [])) == [("group.not_initialized", "info")]


def test_an_axis_of_which_not_all_groups_were_seen_is_not_compared() -> None:
    held = holds(8, tensor=4)
    partly = JobLayout(framework="megatron", world=8, layout={"tp": held.layout["tp"][:1]})
    assert compare_with_job(PLANNED, [partly]) == []


def test_a_converter_that_writes_for_other_sizes_than_training_loads() -> None:
    text = """
actor:
  model: {tensor_model_parallel_size: 4, pipeline_model_parallel_size: 2}
  megatron:
    ckpt_convertor: {tensor_model_parallel_size: SIZE, pipeline_model_parallel_size: 2}
"""
    (told,) = fit_together(foreign_sections(Document(text.replace("SIZE", "16"), "plan")))[
        "actor.model"
    ]
    assert (told.code, told.severity) == ("group.layout_disagrees", "warning")
    assert "than actor.model loads them with: tensor 16 and 4" in told.summary
    assert not fit_together(foreign_sections(Document(text.replace("SIZE", "4"), "plan")))


def test_a_file_that_names_fsdp_is_not_megatrons() -> None:
    text = "actor:\n  training_backend: NAME\n  model: {tensor_model_parallel_size: 2}\n"
    for name, framework in (("fsdp", ""), ("megatron", "megatron")):
        (section,) = foreign_sections(Document(text.replace("NAME", name), "plan"))
        assert section.plan.framework == framework
