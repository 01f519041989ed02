"""A driver on a cluster of several machines: one rank on each of node1, node2, …"""

import os
import sys
import time

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from steps import gate, step
from trainers import Trainer

del os.environ["DISTWATCH_DIR"]  # each machine has its own


def wait_nodes(count: int) -> dict[str, str]:
    """Ids of the nodes by their host names, once all have joined."""
    while len(ray.nodes()) < count:
        time.sleep(0.1)
    return {node["NodeManagerHostname"]: node["NodeID"] for node in ray.nodes()}


def main(address: str, methods: list[str]) -> None:
    ray.init(address=address)
    nodes = wait_nodes(len(methods))
    step("cluster up")
    gate("job").read(1)
    calls = []
    for rank, method in enumerate(methods):
        env_vars = {"RANK": str(rank), "WORLD_SIZE": str(len(methods))}
        there = NodeAffinitySchedulingStrategy(nodes[f"node{rank + 1}"], soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": there, "name": f"trainer-{rank}"}
        made = ray.remote(Trainer).options(**options, runtime_env={"env_vars": env_vars})
        calls.append(getattr(made.remote(), method).remote())
    ray.wait(calls, num_returns=len(calls))
    step("job over")
    gate("end").read(1)


main(sys.argv[1], sys.argv[2:])
