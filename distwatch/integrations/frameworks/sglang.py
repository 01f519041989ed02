"""SGLang: `sglang.srt.distributed.parallel_state`, also outside a server.

Up to 0.5.15 its initializer takes the sizes as arguments. 0.5.23 reads them from `get_parallel()`,
where published server arguments have put them; without a server, distwatch writes them there.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import msgspec

from distwatch.errors import PlanInvalid
from distwatch.integrations.frameworks.framework import Framework, Part, accepted
from distwatch.integrations.frameworks.sglang_replicas import instances
from distwatch.preflight.faults import size_invalid
from distwatch.preflight.plan import Plan
from distwatch.state.finding import Finding
from distwatch.state.layouts import sizes_text
from distwatch.state.rank_sets import agree

_COORDINATORS = {
    # A group along several axes is one object: it is called tp or pp, which come last here.
    "_WORLD": "",
    "_SELF_PP": "",
    "_PDMUX_PREFILL_TP_GROUP": "",
    "_SHARED_EXPERTS_TP": "shared_experts_tp",
    "_DCP": "dcp",
    "_MOE_DP": "moe_dp",
    "_MOE_TP": "moe_tp",
    "_MOE_EP": "moe_ep",
    "_ATTN_CP": "attn_cp",
    "_ATTN_TP": "attn_tp",
    "_PP": "pp",
    "_TP": "tp",
}
_FIELDS = {
    "tensor_model_parallel_size": "tp_size",
    "pipeline_model_parallel_size": "pp_size",
    "expert_model_parallel_size": "moe_ep_size",
    "attention_data_parallel_size": "attn_dp_size",
    "attention_context_model_parallel_size": "attn_cp_size",
    "moe_data_model_parallel_size": "moe_dp_size",
    "decode_context_parallel_size": "attn_dcp_size",
}
"""By the initializer's argument: the field of `get_parallel()` that replaced it."""
_PLANNED = {
    "tensor_model_parallel_size": "tensor",
    "pipeline_model_parallel_size": "pipeline",
    "expert_model_parallel_size": "expert",
    "attention_context_model_parallel_size": "context",
    "attention_data_parallel_size": "data",
}
"""By the initializer's argument: the field of a plan. All but the pipeline are parts of tensor."""
_CONTEXT = "sglang.srt.runtime_context"
REPLICAS = "replicas"
"""An option of ours: how many instances of tensor × pipeline ranks share the world."""


class InstancesPlan(Plan, frozen=True, kw_only=True, omit_defaults=True):
    """A plan with several instances in one world, for data-parallel MeZO: each has its own groups."""

    replicas: int = 1


class SGLang(Framework):
    """Its groups are `GroupCoordinator`s with two torch groups each: for tensors and for the CPU."""

    name = "sglang"
    packages = ("sglang",)
    distribution = "sglang"
    initializers = ("initialize_model_parallel",)
    destroyers = ("destroy_model_parallel",)
    arguments = {
        "tensor_model_parallel_size": "tp",
        "pipeline_model_parallel_size": "pp",
        "expert_model_parallel_size": "moe_ep",
        "attention_context_model_parallel_size": "attn_cp",
    }

    def build(self, plan: Plan, options: Mapping[str, Any]) -> None:
        """Builds its world group over torch's, then its groups in the installed version's way.

        Raises:
            PlanInvalid: this version does not accept those sizes, or others are published.
        """
        import torch.distributed as dist

        module = self.module()
        place = {
            "world_size": dist.get_world_size(),
            "rank": dist.get_rank(),
            "distributed_init_method": "env://",
            "local_rank": int(os.environ.get("LOCAL_RANK") or dist.get_rank()),
            "backend": str(dist.get_backend()),
        }
        sizes, rest = _sizes(plan, options)
        rest.pop(REPLICAS, None)
        with instances(module, plan.tensor * plan.pipeline, replicas_of(plan)):
            self._initialize(module, place, sizes, rest)

    def _initialize(
        self,
        module: ModuleType,
        place: Mapping[str, Any],
        sizes: Mapping[str, int],
        rest: Mapping[str, Any],
    ) -> None:
        call, backend = module.initialize_model_parallel, place["backend"]
        if takes_sizes(call):
            lacks = [n for n, size in sizes.items() if size > 1 and not accepted(call, {n: 1})]
            if lacks:
                raise PlanInvalid(
                    f"this version of SGLang has no {', '.join(lacks)}",
                    advice="Leave those sizes at 1, or install a newer SGLang.",
                )
            module.init_distributed_environment(**place)
            call(**accepted(call, {**sizes, "backend": backend}), **rest)
            return
        context = sys.modules[_CONTEXT]
        published = _published(context)
        if published:
            _compare(published, sizes)
        module.init_distributed_environment(**place)
        if not published:
            instance = sizes["tensor_model_parallel_size"] * sizes["pipeline_model_parallel_size"]
            _write_sizes(context, sizes, place["rank"] % instance)
        call(**{"backend": backend, **rest})

    def parts(self, module: ModuleType) -> Iterable[Part]:
        """Each coordinator's two groups: the one for tensors, then the CPU's."""
        for name, axis in _COORDINATORS.items():
            coordinator = vars(module).get(name)
            if coordinator is None:
                continue
            role = name.lstrip("_").lower()
            cpu = getattr(coordinator, "cpu_group", None)
            members = tuple(int(rank) for rank in coordinator.ranks)
            if cpu is not None and cpu is not coordinator.device_group:
                yield Part(role=f"{role}:cpu", group=cpu, members=members)
            yield Part(role=role, group=coordinator.device_group, axis=axis, members=members)

    def destroy(self, module: ModuleType) -> None:
        """Destroys everything but torch's default group, which SGLang's own destroyer would destroy, too."""
        module.destroy_model_parallel()
        for name in ("_SELF_PP", "_WORLD"):
            if (coordinator := vars(module).get(name)) is not None:
                coordinator.destroy()
                setattr(module, name, None)

    def asked(self, given: Mapping[str, Any]) -> dict[str, int]:
        """The call's own sizes, or those in the runtime's context."""
        if any(name in given for name in self.arguments):
            return super().asked(given)
        context = sys.modules.get(_CONTEXT)
        written = {n: _read(context, _FIELDS[n]) for n in self.arguments} if context else {}
        return super().asked(written)

    def validate(self, plan: Plan, world: int) -> list[Finding]:
        """Instances of tensor × pipeline are the whole world; attention and experts divide the tensor group."""
        instance, replicas = plan.tensor * plan.pipeline, replicas_of(plan)
        if instance * replicas != world:
            return [_world_invalid(plan, instance, replicas, world)]
        inner = {"context": plan.context, "data": plan.data or 1}
        product = plan.context * (plan.data or 1)
        if plan.tensor % product:
            return [
                size_invalid(
                    f"{sizes_text(inner)} of the attention do not divide tensor {plan.tensor}",
                    "SGLang cuts its tensor group by them: choose divisors of tensor.",
                )
            ]
        if plan.tensor % plan.expert:
            return [
                size_invalid(
                    f"expert {plan.expert} does not divide tensor {plan.tensor}",
                    "SGLang lays its experts over the tensor group: choose a divisor of tensor.",
                )
            ]
        return []

    def sizes(self, plan: Plan, world: int | None = None) -> dict[str, int]:
        """`dp` are the instances; the plan's data belongs to attention. Neither has a group of its own."""
        asked = {axis: getattr(plan, _PLANNED[name]) for name, axis in self.arguments.items()}
        asked["dp"] = replicas_of(plan)
        return {axis: size for axis, size in asked.items() if size > 1}

    def planned(self, plan: Plan, options: Mapping[str, Any]) -> Plan:
        """The plan with the options' sizes, including attention's data size."""
        said = {field: options[name] for name, field in _PLANNED.items() if options.get(name)}
        plan = msgspec.structs.replace(plan, **said)
        replicas = options.get(REPLICAS, 1)
        if isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 1:
            raise PlanInvalid(
                f"replicas={replicas!r} is not a size", advice="Give a positive whole number."
            )
        return InstancesPlan(**msgspec.structs.asdict(plan), replicas=replicas)


def replicas_of(plan: Plan) -> int:
    """How many instances a plan lays over its world."""
    return plan.replicas if isinstance(plan, InstancesPlan) else 1


def _world_invalid(plan: Plan, instance: int, replicas: int, world: int) -> Finding:
    told = f"tensor {plan.tensor} × pipeline {plan.pipeline}"
    told += f" × {replicas} replicas" if replicas > 1 else ""
    fits = (
        f"pass replicas={world // instance} for {world // instance} instances of {instance} "
        f"{agree(range(instance), 'rank', 'ranks')} each (data-parallel MeZO)"
        if instance <= world and world % instance == 0
        else f"start a multiple of {instance} ranks, and pass replicas="
    )
    return size_invalid(
        f"{told} are {instance * replicas} ranks, and the world has {world}",
        f"Choose sizes whose product is {world}, or {fits}.",
    )


def takes_sizes(call: Any) -> bool:
    """Whether this version's initializer takes the sizes (up to 0.5.15)."""
    return "tensor_model_parallel_size" in inspect.signature(call).parameters


def _sizes(plan: Plan, options: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, Any]]:
    """The sizes by the initializer's arguments, and the options that are not sizes."""
    planned = {name: getattr(plan, field) or 1 for name, field in _PLANNED.items()}
    sizes = {name: planned.get(name, 1) for name in _FIELDS}
    sizes.update({name: size for name, size in options.items() if name in sizes})
    return sizes, {name: value for name, value in options.items() if name not in sizes}


def _published(context: Any) -> dict[str, int]:
    """The sizes that server arguments have published in this process; {} if there are none."""
    said = {name: _read(context, field) for name, field in _FIELDS.items()}
    return {name: size for name, size in said.items() if size is not None}


def _read(context: Any, field: str) -> int | None:
    try:
        value = getattr(context.get_parallel(), field)
    except (AttributeError, RuntimeError, ValueError):
        return None  # "has not been written", "not published"
    return value if isinstance(value, int) else None


def _compare(published: Mapping[str, int], sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if published.get(name, size) != size:
            raise PlanInvalid(
                f"{name}={size} was asked for, and the server arguments published in this process say "
                f"{published[name]}",
                advice="Give distwatch.initialize the sizes of the ServerArgs, or publish others.",
            )


def _write_sizes(context: Any, sizes: Mapping[str, int], rank: int) -> None:
    """Writes them permanently, since layers read sizes and ranks long after the groups were built."""
    parallel = context.get_parallel()
    fields: dict[str, Any] = {_FIELDS[name]: size for name, size in sizes.items()}
    fields["shared_experts_tp_size"] = None
    attention = fields["attn_cp_size"] * fields["attn_dp_size"]
    experts = fields["moe_ep_size"] * fields["moe_dp_size"]
    fields["attn_tp_size"] = fields["tp_size"] // attention
    fields["moe_tp_size"] = fields["tp_size"] // experts
    fields["dcp_enabled"] = fields["attn_dcp_size"] > 1
    ranks = context.derive_spawn_ranks(
        world_rank=rank,
        tp_size=fields["tp_size"],
        ep_join_rank_offset=0,
        attn_cp_size=fields["attn_cp_size"],
        attn_tp_size=fields["attn_tp_size"],
        moe_dp_size=fields["moe_dp_size"],
        moe_ep_size=fields["moe_ep_size"],
    )
    tp_rank, attn_tp = ranks["tp_rank"], fields["attn_tp_size"]
    ranks["attn_tp_rank"] = tp_rank % attn_tp
    ranks["attn_dp_rank"] = tp_rank // (attn_tp * fields["attn_cp_size"])
    parallel.override_permanently(**fields, **ranks)


framework = SGLang()
