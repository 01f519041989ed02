"""A Ray driver with an actor for each rank; each rank's argument names what its method does.

TEST_GIVEN: what of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT the actors are given."""

import os
import sys

import ray

STARTS = ("RANK", "WORLD_SIZE")


def users_hook() -> None:
    """The user's own setup hook, which Ray is to call after ours."""
    from steps import step

    step("users hook")


class Trainer:
    """One rank, in code that knows nothing of distwatch's agent."""

    def form(self) -> None:
        from steps import gate, step

        import distwatch

        with distwatch.initialize("gloo") as world:
            assert world.groups["world"] == tuple(range(world.size))
            assert distwatch.initialize("gloo") is world
            step("formed")
            step(f"actor in {distwatch.snapshot()['run']['id']}")
            gate("end").read(1)

    def form_or_tell(self) -> None:
        from outcome import write_down

        import distwatch

        try:
            distwatch.initialize("gloo")
        except distwatch.DistwatchError as error:
            write_down(error)

    def form_by_torch(self) -> None:
        import torch.distributed as dist

        dist.init_process_group("gloo")

    def sum_twice(self) -> None:
        import torch
        import torch.distributed as dist
        from steps import gate

        import distwatch

        distwatch.initialize("gloo")
        dist.all_reduce(torch.ones(1))
        if os.environ["RANK"] == "1":
            gate("before the second").read(1)
        dist.all_reduce(torch.ones(1))

    def form_and_reduce(self) -> None:
        import torch
        import torch.distributed as dist
        from steps import gate

        dist.init_process_group("gloo")
        gate("reduce").read(1)
        dist.all_reduce(torch.ones(1))

    def read_data(self) -> None:
        import torch.distributed  # noqa: F401
        from steps import gate

        gate("data").read(1)

    def read_plainly(self) -> None:
        """Nothing here has loaded torch."""
        from steps import gate

        assert "torch" not in sys.modules
        gate("data").read(1)


class Broken:
    """Its constructor fails, so it never runs a method."""

    def __init__(self) -> None:
        raise ValueError("no checkpoint")


def main(methods: list[str]) -> None:
    ray.init(
        num_cpus=1,  # Ray prestarts as many workers
        object_store_memory=80_000_000,
        include_dashboard=False,
        _temp_dir=os.path.join(os.environ["TEST_WORK"], "ray"),
        runtime_env={"worker_process_setup_hook": users_hook} if "users_hook" in methods else None,
    )
    looks = "drivers_look" in methods
    methods = [method for method in methods if method not in ("users_hook", "drivers_look")]
    given = os.environ["TEST_GIVEN"].split()
    trainers = []
    for rank in range(len(methods)):
        values = {"RANK": rank, "WORLD_SIZE": len(methods), "MASTER_ADDR": "127.0.0.1"}
        values["MASTER_PORT"] = os.environ["TEST_PORT"]
        env_vars = {name: str(values[name]) for name in given}
        options = {"num_cpus": 0, "name": f"trainer-{rank}", "runtime_env": {"env_vars": env_vars}}
        kind = Broken if methods[rank] == "never_runs" else Trainer
        trainers.append(ray.remote(kind).options(**options).remote())
    calls = [
        getattr(one, method).remote()
        for one, method in zip(trainers, methods, strict=True)
        if method != "never_runs"
    ]
    if looks:
        from steps import gate, step

        import distwatch

        gate("look").read(1)
        step(f"driver of {distwatch.snapshot()['run']['id']}")
    for call in calls:  # one after the other: all together they fail with the first of them
        ray.get(call)


if __name__ == "__main__":
    main(sys.argv[1:])
