"""Whether the layouts of a file fit together: what trains a model, and what generates with it. Pure.

The weights go from training to rollout after every step, and both may share accelerators.
"""

from __future__ import annotations

from collections.abc import Iterable

from distwatch.preflight.values import Section
from distwatch.state.finding import Finding
from distwatch.state.rank_sets import format_ranks

_TRAINING = ("", "megatron")
_ACTORS = ("actor", "policy")
_SAME_MODEL = (
    "num_attention_heads", "num_key_value_heads", "num_layers", "num_experts", "hidden_size",
    "vocab_size",
)  # fmt: skip


def fit_together(sections: Iterable[Section]) -> dict[str, list[Finding]]:
    """Findings between layouts, by the name of the layout that shows them."""
    sections = list(sections)
    found: dict[str, list[Finding]] = {}
    for section in sections:
        found.setdefault(section.name, []).extend(_placed_outside(section))
        if not section.plan.is_engine:
            found[section.name].extend(_converted_otherwise(section))
    training = _trained(sections)
    for engines in (section for section in sections if section.plan.is_engine):
        if training is not None:
            found.setdefault(engines.name, []).extend(_between(training, engines))
    return {name: findings for name, findings in found.items() if findings}


def _trained(sections: list[Section]) -> Section | None:
    """The layout whose weights the rollout uses: the actor's, where there are several."""
    training = [s for s in sections if s.plan.framework in _TRAINING]
    named = [s for s in training if any(word in s.name.lower() for word in _ACTORS)]
    if not named and len(training) != 1:
        return None
    # verl writes the reference model's sizes inside `actor_rollout_ref`, too.
    own = [s for s in named if ".ref" not in s.name.lower()]
    return (own or named or training)[0]


def _placed_outside(section: Section) -> Iterable[Finding]:
    if section.capacity is None or not section.accelerators:
        return
    beyond = [number for number in section.accelerators if number >= section.capacity]
    if beyond:
        yield Finding(
            code="group.size_invalid",
            severity="crash",
            summary=f"{section.name} is placed on accelerators {format_ranks(beyond)}, but the cluster has "
            f"{section.capacity} (0-{section.capacity - 1})",
            advice="Place it on accelerators that exist, or add nodes to the cluster.",
        )


def _converted_otherwise(section: Section) -> Iterable[Finding]:
    """The converter's sizes, against those of the ranks that load its checkpoints."""
    told = [
        f"{axis} {size} and {ours}"
        for axis, size in section.converted.items()
        if (ours := getattr(section.plan, axis)) not in (None, size)
        and axis not in section.undecided
    ]
    if told:
        yield Finding(
            code="group.layout_disagrees",
            severity="warning",
            summary=f"the converter writes checkpoints for other sizes than {section.name} loads them with: "
            f"{'; '.join(told)}",
            advice="Give the converter the sizes of training, unless the checkpoint's format can be cut anew while "
            "it is loaded (torch_dist can, Megatron's older format cannot).",
        )


def _between(training: Section, engines: Section) -> Iterable[Finding]:
    yield from _shared_in_part(training, engines)
    if training.undecided or engines.undecided:
        return
    yield from _other_model(training, engines)
    trained, cut = training.plan.tensor, engines.plan.tensor
    if trained % cut and cut % trained:
        yield Finding(
            code="group.layout_disagrees",
            severity="warning",
            summary=f"training ({training.name}) splits tensors {trained} ways and rollout ({engines.name}) "
            f"{cut} ways: neither divides the other, so their slices do not match",
            advice="Choose sizes of which one divides the other, unless the framework gathers whole "
            "tensors: resharding by slices does not work.",
        )


def _shared_in_part(training: Section, engines: Section) -> Iterable[Finding]:
    ours, theirs = set(training.accelerators), set(engines.accelerators)
    shared = ours & theirs
    if not shared or shared in (ours, theirs):
        return
    yield Finding(
        code="group.layout_disagrees",
        severity="warning",
        summary=f"training ({training.name}, accelerators {format_ranks(ours)}) and rollout ({engines.name}, "
        f"{format_ranks(theirs)}) share only accelerators {format_ranks(shared)}: those have to hold both "
        "models at once",
        advice="Place both on the same accelerators, or on separate ones.",
    )


def _other_model(training: Section, engines: Section) -> Iterable[Finding]:
    told = [
        f"{name} {ours} and {theirs}"
        for name in _SAME_MODEL
        if (ours := getattr(training.plan, name)) is not None
        and (theirs := getattr(engines.plan, name)) is not None
        and ours != theirs
    ]
    if told:
        yield Finding(
            code="group.layout_disagrees",
            severity="crash",
            summary=f"training ({training.name}) and rollout ({engines.name}) use different models: "
            f"{'; '.join(told)}",
            advice="Give both the same model: the weights of one are loaded into the other after every step.",
        )
