"""Megatron-core's groups in several layouts, under torchrun and, by one option, in Ray actors.

    torchrun --nproc-per-node=4 examples/megatron/layouts.py 2,2,1 1,4,1 1,1,2
    python examples/megatron/layouts.py --ray 4 2,2,1 1,4,1 1,1,2

A layout is tensor,pipeline,context; what is left of the world is data parallel. Each layout is formed
by `distwatch.initialize`, which needs no launcher's endpoint in Ray: rank 0's actor chooses it. Every
group then adds up its ranks' numbers, on gloo.

With `--odd RANK`, that rank asks for other sizes than the others, under torchrun and in Ray.
"""

from __future__ import annotations

import argparse
import json
import os

import distwatch

GETTERS = ("tensor_model_parallel", "pipeline_model_parallel", "context_parallel", "data_parallel")


def form(layout: str, odd: int | None = None) -> dict[str, list[int]]:
    """Forms one layout, sums over each of its groups, and takes it down again; the members."""
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    tensor, pipeline, context = (int(size) for size in layout.split(","))
    if odd is not None and os.environ.get("RANK") == str(odd):
        tensor, pipeline = pipeline, tensor
    world = distwatch.initialize(
        "gloo", framework="megatron", tensor=tensor, pipeline=pipeline, context=context
    )
    members = {}
    for name in GETTERS:
        group = getattr(parallel_state, f"get_{name}_group")()
        total = torch.tensor([float(world.rank)])
        dist.all_reduce(total, group=group)
        members[name] = dist.get_process_group_ranks(group)
        assert total.item() == sum(members[name]), (layout, name, world.rank)
    world.close()
    return members


class Trainer:
    """One rank. Nothing in it knows of Ray or of distwatch's agent."""

    def train(self, layouts: list[str], odd: int | None = None) -> list[dict[str, list[int]]]:
        """Forms each layout."""
        return [form(layout, odd) for layout in layouts]


def train_in_ray(
    world_size: int, layouts: list[str], odd: int | None = None
) -> list[list[dict[str, list[int]]]]:
    """A Ray actor for each rank; what each of them held."""
    import ray

    ray.init(runtime_env=distwatch.ray.runtime_env(), include_dashboard=False)
    trainers = [
        ray.remote(Trainer)
        .options(
            name=f"trainer-{rank}",
            num_cpus=0,
            runtime_env={"env_vars": {"RANK": str(rank), "WORLD_SIZE": str(world_size)}},
        )
        .remote()
        for rank in range(world_size)
    ]
    return ray.get([trainer.train.remote(layouts, odd) for trainer in trainers])


def main() -> None:
    """Under torchrun each rank comes here; with --ray it is the driver."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ray", type=int, metavar="WORLD_SIZE", help="as that many Ray actors")
    parser.add_argument("--odd", type=int, metavar="RANK", help="this rank asks for other sizes")
    parser.add_argument("layouts", nargs="+", metavar="TENSOR,PIPELINE,CONTEXT")
    options = parser.parse_args()
    if options.ray:
        print(json.dumps(train_in_ray(options.ray, options.layouts, options.odd)), flush=True)
    else:
        print(json.dumps([Trainer().train(options.layouts, options.odd)]), flush=True)


if __name__ == "__main__":
    main()
