"""A Ray cluster of several nodes on one machine, with an actor for each rank, one a node.

Each node has a name and a folder of its own, as machines have. The test says when the job begins
and when another node joins.
"""

import os
import sys

import ray
from ray.cluster_utils import Cluster
from steps import gate, step
from trainers import Trainer

from distwatch.agent.standby import stand_down

ROOT = os.environ.pop("DISTWATCH_DIR")
stand_down()  # the driver is on none of the nodes, and so in none of their folders


def node(number: int) -> dict[str, object]:
    folder = f"{ROOT}/node{number}"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return {
        "num_cpus": 1,  # Ray prestarts as many workers
        "object_store_memory": 80_000_000,
        "include_dashboard": False,
        "resources": {f"node{number}": 8},
        "env_vars": {"DISTWATCH_DIR": folder, "DISTWATCH_HOST": f"node{number}"},
    }


def main(count: int, methods: list[str]) -> None:
    head = {**node(1), "temp_dir": os.path.join(os.environ["TEST_WORK"], "ray")}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for number in range(2, count + 1):
        cluster.add_node(**node(number))
    with open(os.path.join(os.environ["TEST_WORK"], "address"), "w") as file:
        file.write(cluster.address)
    ray.init(address=cluster.address)
    step("cluster up")
    gate("job").read(1)
    trainers = []
    for rank in range(len(methods)):
        env_vars = {"RANK": str(rank), "WORLD_SIZE": str(len(methods))}
        if "MASTER_PORT" in os.environ:
            # Loopback would be another place on each host.
            address = cluster.address.rpartition(":")[0]
            env_vars |= {"MASTER_ADDR": address, "MASTER_PORT": os.environ["MASTER_PORT"]}
        options = {"num_cpus": 0, "resources": {f"node{rank + 1}": 1}, "name": f"trainer-{rank}"}
        made = ray.remote(Trainer).options(**options, runtime_env={"env_vars": env_vars})
        trainers.append(made.remote())
    calls = [getattr(one, method).remote() for one, method in zip(trainers, methods, strict=True)]
    if len(methods) > count:  # the last of them wait for a node that is to come
        gate("another node").read(1)
        cluster.add_node(**node(count + 1))
    ray.wait(calls, num_returns=len(calls))
    step("job over")
    gate("end").read(1)


main(int(sys.argv[1]), sys.argv[2:])
