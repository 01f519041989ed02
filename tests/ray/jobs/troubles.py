"""A Ray driver with an actor for each rank; each rank's argument names what becomes of it.

TEST_NODES: how many nodes the cluster has, each with a resource `node<n>` where there are several; of
these the last one dies when the gate `node` opens, which the driver has made as rank 0."""

import os
import sys

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup


class Trainer:
    """One rank; `trouble` is what it does."""

    def __init__(self, trouble: str) -> None:
        if trouble == "raises":
            raise ValueError(f"no checkpoint for rank {os.environ['RANK']}")

    def run(self, trouble: str) -> None:
        if trouble == "restarts":
            os._exit(7)
        import torch.distributed as dist
        from steps import gate, step

        step("runs")
        dist.init_process_group("gloo")
        gate("formed").read(1)


def options_of(trouble: str) -> dict[str, object]:
    if trouble == "unplaced":
        return {"num_cpus": 4}
    if trouble == "grouped":
        group = placement_group([{"CPU": 8.0}, {"CPU": 8.0}], name="learners")
        return {"num_cpus": 8, "scheduling_strategy": InGroup(group, 0)}
    if trouble == "restarts":
        return {"max_restarts": 2, "max_task_retries": -1}
    place = {"on_node1": "node1", "on_node2": "node2"}.get(trouble)
    return {"resources": {place: 0.1}} if place else {}


def start_cluster(nodes: int) -> object:
    """The cluster, of which this process becomes the driver."""
    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    # Not where another Ray of this machine would look for one to join.
    work = os.path.join(os.environ["TEST_WORK"], "ray")
    if nodes == 1:
        ray.init(address="local", include_dashboard=False, _temp_dir=work, **small)
        return None
    from ray.cluster_utils import Cluster

    head = {**small, "include_dashboard": False, "temp_dir": work, "resources": {"node1": 1}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for number in range(2, nodes + 1):
        cluster.add_node(**small, resources={f"node{number}": 1})
    ray.init(cluster.address)
    return cluster


def main(troubles: list[str]) -> None:
    cluster = start_cluster(int(os.environ.get("TEST_NODES", "1")))
    calls = []
    for rank, trouble in enumerate(troubles):
        given = {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(troubles)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": os.environ["TEST_PORT"],
        }
        options = {"num_cpus": 0, "name": f"trainer-{rank}", "runtime_env": {"env_vars": given}}
        trainer = ray.remote(Trainer).options(**options | options_of(trouble)).remote(trouble)
        calls.append(trainer.run.remote(trouble))
    from steps import gate

    gate("node").read(1)
    if cluster is not None:
        cluster.remove_node(list(cluster.worker_nodes)[-1], allow_graceful=False)
        gate("end").read(1)


main(sys.argv[1:])
