"""Plans from files: our keys, frameworks' keys, and everything that is neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distwatch.errors import PlanInvalid
from distwatch.preflight.plan import ORDER, Plan
from distwatch.preflight.plan_check import examine_section
from distwatch.preflight.plan_file import KEYS, read_plans
from distwatch.preflight.plan_keys import ANCHORS
from distwatch.preflight.values import Section

RLINF = """
cluster:
  num_nodes: 8
  component_placement:
    actor: 0-15
    rollout: 16-47
    inference,reward: 48-63:0-7
inference:
  model:
    tensor_model_parallel_size: ${actor.model.tensor_model_parallel_size}
rollout:
  gpu_memory_utilization: 0.55
  rollout_backend: sglang
  model_dir: /not/here
  tensor_parallel_size: 2
  max_new_tokens: ${subtract:${runner.seq_length}, 1024}
actor:
  model:
    tensor_model_parallel_size: 4
    pipeline_model_parallel_size: 1
  megatron:
    distributed_backend: nccl
    distributed_timeout_minutes: 30
    ckpt_convertor:
      tensor_model_parallel_size: 16
"""
VERL = """
actor_rollout_ref:
  actor:
    megatron: &megatron
      tensor_model_parallel_size: 2
      expert_model_parallel_size: 1
      expert_tensor_parallel_size: null
      pipeline_model_parallel_size: 2
      virtual_pipeline_model_parallel_size: null
      context_parallel_size: 1
  ref:
    megatron:
      tensor_model_parallel_size: ${oc.select:actor_rollout_ref.actor.megatron.tensor_model_parallel_size,1}
      context_parallel_size: ${oc.select:nothing.of.it,4}
  rollout:
    name: ???
    gpu_memory_utilization: 0.5
    tensor_model_parallel_size: 2
    data_parallel_size: 1
  model:
    path: ~/models/not-here
  nccl_timeout: 600
critic:
  ulysses_sequence_parallel_size: 2
reward_model:
  nnodes: 0
  n_gpus_per_node: 0
  megatron:
    tensor_model_parallel_size: ${oc.env:TP}
    pipeline_model_parallel_size: ${.tensor_model_parallel_size}
trainer:
  nnodes: 2
  n_gpus_per_node: 8
"""
NEMO = """
trainer: {devices: 8, num_nodes: 4}
model:
  tensor_model_parallel_size: 4
  pipeline_model_parallel_size: 4
  num_layers: 30
  num_attention_heads: 32
  num_query_groups: 8
  ffn_hidden_size: 11008
  first_pipeline_num_layers: 6
"""


def sections(text: str) -> dict[str, Section]:
    return {section.name: section for section in read_plans(text, "job.yaml")}


def only(text: str) -> Plan:
    (section,) = read_plans(text, "plan.yaml")
    return section.plan


@pytest.mark.parametrize("where", ["", "plan:\n  ", "distwatch:\n  "])
def test_our_own_keys(where: str) -> None:
    keys = ("world_size: 16", "tensor: 2", "pipeline: 4", "backend: gloo", "timeout: 90", "order: tp-dp-pp",
            "deadlines: {store: 30, group: 60}", "model: {num_layers: 32, uneven_pipeline: true}")  # fmt: skip
    plan = only(where + "\n  ".join(keys) if where else "\n".join(keys))
    assert plan == Plan(
        world_size=16, tensor=2, pipeline=4, backend="gloo", timeout_s=90.0, order=("tp", "dp", "pp"),
        deadlines={"store": 30.0, "group": 60.0}, num_layers=32, uneven_pipeline=True,
    )  # fmt: skip


def test_a_file_of_rlinf_gives_each_component_its_own_ranks() -> None:
    found = sections(RLINF)
    assert list(found) == ["inference.model", "rollout", "actor.model"]
    actor = found["actor.model"].plan
    assert (actor.ranks, actor.tensor, actor.backend, actor.timeout_s) == (16, 4, "nccl", 1800.0)
    assert (found["rollout"].plan.framework, found["rollout"].plan.ranks) == ("sglang", 32)
    assert "model_dir=/not/here is not on this machine" in " ".join(found["rollout"].notes)
    assert (found["inference.model"].plan.tensor, found["inference.model"].plan.ranks) == (4, 8)


def test_everything_placed_everywhere_takes_all_accelerators() -> None:
    text = RLINF.replace("actor: 0-15", "actor: all").replace(
        "num_nodes: 8", "num_nodes: 8\n  num_gpus_per_node: 4"
    )
    assert sections(text)["actor.model"].plan.ranks == 32
    unknown = sections(RLINF.replace("actor: 0-15", "actor: all"))["actor.model"]
    assert unknown.plan.ranks is None
    assert "the number of accelerators per node is not set" in " ".join(unknown.notes)


def test_a_file_of_verl_has_a_layout_for_each_worker() -> None:
    found = sections(VERL)
    assert list(found) == [
        "actor_rollout_ref.actor.megatron", "actor_rollout_ref.ref.megatron", "actor_rollout_ref.rollout",
        "critic", "reward_model.megatron",
    ]  # fmt: skip
    assert {section.plan.ranks for section in found.values()} == {16}
    reference = found["actor_rollout_ref.ref.megatron"].plan
    assert (reference.tensor, reference.context, reference.pipeline) == (2, 4, 1)
    rollout = found["actor_rollout_ref.rollout"].plan
    assert (rollout.framework, rollout.tensor, rollout.data, rollout.timeout_s) == (
        "vllm",
        2,
        1,
        600.0,
    )
    assert found["critic"].plan.ulysses == 2
    assert found["reward_model.megatron"].undecided == ("tensor", "pipeline")
    assert "was not resolved: '${oc.env:TP}'" in " ".join(found["reward_model.megatron"].notes)


def test_a_file_of_nemo_holds_the_models_facts() -> None:
    plan = sections(NEMO)["model"].plan
    assert (plan.ranks, plan.tensor, plan.pipeline) == (32, 4, 4)
    assert (plan.num_layers, plan.num_attention_heads, plan.num_key_value_heads) == (30, 32, 8)
    assert plan.intermediate_size == 11008
    assert plan.uneven_pipeline


def test_flat_megatron_keys_and_our_own_beside_them() -> None:
    found = sections("tensor_model_parallel_size: 2\nworld_size: 4\ndistwatch: {tensor: 8}")
    assert found["top level"].plan == Plan(framework="megatron", tensor=2, world_size=4)
    assert found["distwatch"].plan.tensor == 8


def test_several_numbers_of_nodes_are_not_decided_by_chance() -> None:
    text = "a: {nnodes: 2}\nb: {nnodes: 4}\nc: {tp_size: 2}"
    section = sections(text)["c"]
    assert section.plan.nodes is None
    assert section.notes == ("not decided: the file has several values: a.nnodes=2, b.nnodes=4",)


def test_a_models_configuration_beside_the_plan(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    config = {
        "text_config": {"num_attention_heads": 28, "num_key_value_heads": 4},
        "num_experts": 0,
    }
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    (section,) = read_plans("tensor: 4\nmodel: small", str(tmp_path / "plan.yaml"))
    assert (section.plan.num_attention_heads, section.plan.num_key_value_heads) == (28, 4)
    assert section.plan.num_experts is None
    foreign = f"rollout: {{tp_size: 2, model_path: {tmp_path / 'small'}}}"
    assert sections(foreign)["rollout"].plan.num_attention_heads == 28


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "plan.yaml is empty"),
        ("# nothing", "is empty"),
        ("- tensor", "holds a list, not a mapping"),
        ("tensor: [", "plan.yaml is not YAML: line 1"),
        ("tensor: 2\ntensor: 4", "line 2: 'tensor' appears twice"),
        ("tensor: 1\ntensr: 2", "line 2: 'tensr' is not a key of a plan. Did you mean 'tensor'?"),
        ("something: else", "The keys are world_size, tensor"),
        ("plan: {pipelines: 2}", "Did you mean 'pipeline'?"),
        ("tensor: '2'", "Write it without quotes"),
        ("tensor: two", "tensor is 'two'. Write a positive whole number"),
        ("tensor: true", "tensor is True"),
        ("tensor: 0", "tensor is 0"),
        ("tensor: 2.0", "tensor is 2.0"),
        ("world_size: 999999999999", "world_size is 999999999999"),
        ("timeout: soon", "timeout is 'soon'. Write a positive number"),
        ("timeout: .nan", "timeout is nan"),
        ("order: 3", "Write it as tp-cp-ep-dp-pp"),
        ("deadlines: 30", "Write seconds by step"),
        ("deadlines: {stor: 30}", "line 1: deadlines: there is no step 'stor'. Did you mean 'store'?"),
        ("model: /not/here", "/not/here: No such file"),
        ("model: {layers: 3}", "'layers' is not a key of a model"),
        ("framework: megatro", "Did you mean 'megatron'?"),
        ("backend: 3", "backend is 3"),
        ("a:\n  b:\n    tensor_model_parallel_size: four", "line 3: tensor_model_parallel_size is 'four'"),
        ("a: {tp_size: 2, distributed_timeout_minutes: -1}", "distributed_timeout_minutes is -1"),
        ("a: &a\n  tp_size: 2\n  b: *a", "nested too deeply"),
        ("x: !!python/object/apply:os.system [ls]\ntensor: 2", "not YAML: line 1"),
        ("tensor: 2001-13-99", "a value that YAML cannot build"),
        ("tensor: 1\n--- \ntensor: 2", "another document"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_said_with_its_place(text: str, words: str) -> None:
    with pytest.raises(PlanInvalid) as raised:
        read_plans(text, "plan.yaml")
    assert words in str(raised.value)
    assert raised.value.advice


def test_aliases_that_multiply_do_not_fill_the_memory() -> None:
    levels = ["a0: &a0 {tp_size: 2}"]
    levels += [f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 30)]
    with pytest.raises(PlanInvalid, match="more than"):
        read_plans("\n".join(levels), "plan.yaml")


def test_references_in_a_circle_are_not_resolved() -> None:
    section = sections("a: {tp_size: '${b.tp_size}'}\nb: {tp_size: '${a.tp_size}'}")["a"]
    assert section.undecided == ("tensor",)


NAMES = st.sampled_from((*KEYS, *sorted(ANCHORS), "plan", "distwatch", "rollout", "cluster", "component_placement",
                         "num_nodes", "n_gpus_per_node", "devices", "path", "model_path", "<<"))  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(("${tensor}", "${..x}", "${", "${oc.select:a,[}", "???", "tp-pp", "0-3:0-7", "all", "$TP"))
    | st.dates()
)  # fmt: skip


def plans_or_none(text: str) -> list[Section]:
    """The plans of any text; anything else than PlanInvalid is a failure of the test."""
    try:
        found = read_plans(text, "plan.yaml")
    except PlanInvalid:
        return []
    assert found
    return found


def nested(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(children, max_size=3) | st.dictionaries(
        NAMES | st.integers() | st.booleans() | st.text(max_size=4), children, max_size=5
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(LEAVES, nested, max_leaves=12))
def test_any_yaml_gives_plans_or_says_why_not(value: Any) -> None:
    for section in plans_or_none(yaml.safe_dump(value)):
        examine_section(section)


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("tensor: 2\n\t[]{}&*!|>-?#%@`\"',$0"), max_size=60) | st.text()
)
def test_any_text_gives_plans_or_says_why_not(text: str) -> None:
    for section in plans_or_none(text):
        examine_section(section)


def test_the_order_of_a_list_is_that_of_a_word() -> None:
    assert only("order: [tp, cp, ep, dp, pp]").order == ORDER == only("order: TP-cp-ep-dp-pp").order


def test_a_model_that_stands_beside_the_sizes_is_theirs() -> None:
    text = """
actor:
  megatron: {tensor_model_parallel_size: 4}
  model: {num_attention_heads: 30, num_layers: 32}
critic:
  megatron: {tensor_model_parallel_size: 2}
  model: {num_attention_heads: 16}
"""
    found = sections(text)
    actor, critic = found["actor.megatron"].plan, found["critic.megatron"].plan
    assert (actor.num_attention_heads, actor.num_layers) == (30, 32)
    assert (critic.num_attention_heads, critic.num_layers) == (16, None)


def test_components_of_rlinf_that_set_no_size_are_as_wide_as_their_placement() -> None:
    """With FSDP; most of RLinf's own configurations are of this kind."""
    text = """
defaults:
  - env/libero_10@env.train
cluster:
  num_nodes: 1
  component_placement:
    actor,rollout: 0-3
    env: 4-7
actor:
  training_backend: fsdp
rollout:
  backend: huggingface
env:
  total_num_envs: 8
"""
    sections = {one.name: one for one in read_plans(text)}
    assert {name: one.plan.world_size for name, one in sections.items()} == {
        "actor": 4,
        "rollout": 4,
        "env": 4,
    }
    assert {one.plan.framework for one in sections.values()} == {""}
    assert sections["env"].accelerators == (4, 5, 6, 7)
