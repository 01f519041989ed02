"""Reads the tables of a Ray cluster once and prints them as JSON. Runs as a separate process:

    python - QUERY < ray_look.py

It needs only Ray and the standard library, and nothing of distwatch, so it runs in the cluster's own
Python. Ray's C++ blocks, aborts or crashes its process where the control store (GCS) is gone: the
caller sets a deadline, which this process also keeps by itself.

QUERY is JSON: `address`, `host` (ours), `within_s`, `most` (rows of each table), and what to report:
`jobs` (ids), `driver` (the pid of one, on a node of `nodes`), `name` (of an actor); by default everything.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

_LAST_INCARNATIONS = 4
_RESTARTED_MOST = 64
_NAME, _TEXT = 200, 400
_OF_GROUP = re.compile(r"^(.+)_group_([0-9a-f]{36})$")
_WORKER_ENDED = re.compile(r"Worker exit type: (\w+) Worker exit detail: (.*)", re.S)
_PLACE = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_REASONS = {
    "NODE_DIED": "node_died",
    "RAY_KILL": "killed_by_ray",
    "OUT_OF_SCOPE": "released",
    "REF_DELETED": "released",
    "OWNER_DIED": "owner_died",
}
_CONTEXTS = {
    "creation_task_failure_context": "init_failed",
    "runtime_env_failed_context": "environment_failed",
    "actor_unschedulable_context": "unschedulable",
    "oom_context": "out_of_memory",
}


def main() -> None:
    """Prints one document; on failure, prints the reason on stderr."""
    query = json.loads(sys.argv[1])
    signal.alarm(int(query["within_s"]) + 1)
    # Output of Ray's C++ is not part of the document.
    document_to = os.dup(1)
    os.dup2(2, 1)
    document = read_tables(query)
    with os.fdopen(document_to, "w", encoding="utf-8") as file:
        json.dump(document, file)
    sys.stderr.flush()
    # Ray's own threads may hang at exit.
    os._exit(0)


def read_tables(query: dict[str, Any]) -> dict[str, Any]:
    """All tables as plain data."""
    import ray

    private: Any = import_module("ray._raylet")
    options = private.GcsClientOptions.create(
        query["address"], None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
    )
    store = private.GlobalStateAccessor(options)
    if not store.connect():
        sys.exit(f"the control store at {query['address']} does not answer")
    host, most = query["host"], query["most"]
    jobs = [job for job in _jobs(store, host) if _is_meant(job, query)]
    wanted = {job["job_id"] for job in jobs} if _narrows(query) else None
    actors = list(_actors(store, ray, host, wanted))
    if query.get("name"):
        actors = [actor for actor in actors if actor["name"] == query["name"]]
    groups = [g for g in _groups(store, host) if wanted is None or g["job_id"] in wanted]
    actors.sort(key=_interest)
    _tell_ends(store, ray, actors[:most])
    for actor in actors:
        del actor["incarnations"]
    return {
        "ray": ray.__version__,
        "actors_total": len(actors),
        "actors": actors[:most],
        "nodes": _nodes(store, host)[:most],
        "groups": sorted(groups, key=lambda group: group["state"] == "CREATED")[:most],
        "jobs": jobs[:most],
    }


def _narrows(query: dict[str, Any]) -> bool:
    return bool(query.get("jobs") or query.get("driver"))


def _is_meant(job: dict[str, Any], query: dict[str, Any]) -> bool:
    if not _narrows(query) or job["job_id"] in query.get("jobs", ()):
        return True
    of_driver = bool(query.get("driver")) and job["driver_pid"] == query["driver"]
    return of_driver and job["driver_node"] in query["nodes"]


def _interest(actor: dict[str, Any]) -> tuple[int, int]:
    """Actors that wait or have failed come first, where not all fit."""
    order = {"ALIVE": 2, "DEAD": 1 if actor["death"] not in ("exited", "released") else 3}
    rank = actor["global_rank"]
    return order.get(actor["state"], 0), rank if rank is not None else sys.maxsize


def _rows(store: Any, table: str, *arguments: Any) -> Iterable[Any]:
    """The rows of a table as messages; plain dictionaries stay as they are."""
    from ray.core.generated import gcs_pb2

    message = getattr(gcs_pb2, _MESSAGES[table], None) if table in _MESSAGES else None
    for row in getattr(store, table)(*arguments):
        yield message.FromString(row) if message is not None else row


_MESSAGES = {
    "get_actor_table": "ActorTableData",
    "get_placement_group_table": "PlacementGroupTableData",
    "get_job_table": "JobTableData",
    "get_all_available_resources": "AvailableResources",
}


def _word(message: Any, field: str) -> str:
    """The name of an enumeration's value; the number where a newer Ray has a value without a name here."""
    number = getattr(message, field)
    value = message.DESCRIPTOR.fields_by_name[field].enum_type.values_by_number.get(number)
    return value.name if value is not None else str(number)


def _jobs(store: Any, host: str) -> list[dict[str, Any]]:
    return [
        {
            "host": host,
            "job_id": job.job_id.hex(),
            "driver_pid": job.driver_pid,
            "driver_node": job.driver_address.node_id.hex(),
            "ended": job.is_dead,
        }
        for job in _rows(store, "get_job_table")
    ]


def _actors(store: Any, ray: Any, host: str, jobs: set[str] | None) -> Iterable[dict[str, Any]]:
    of_jobs = [None] if jobs is None else [ray.JobID.from_hex(job) for job in sorted(jobs)]
    for job in of_jobs:
        for row in _rows(store, "get_actor_table", job, None):
            yield _actor(row, host)


def _actor(row: Any, host: str) -> dict[str, Any]:
    death, text = _death(row.death_cause) if row.HasField("death_cause") else ("", "")
    placed = row.address.worker_id.hex()
    return {
        "host": host,
        "actor_id": row.actor_id.hex(),
        "job_id": row.job_id.hex(),
        "name": row.name[:_NAME],
        "class_name": row.class_name[:_NAME],
        "state": _word(row, "state"),
        "worker_id": placed,
        "node_id": row.address.node_id.hex() if placed else "",
        "pid": row.pid if placed else 0,
        **_ranks(row.serialized_runtime_env),
        "restarts": row.num_restarts,
        "restarts_allowed": row.max_restarts,
        "needs": _resources(row.required_resources),
        "placement_group": _id(row.placement_group_id),
        "death": death,
        "death_text": text,
        "ends": [],
        "incarnations": list(getattr(row, "previous_incarnations", ()))[-_LAST_INCARNATIONS:],
    }


def _id(raw: bytes) -> str:
    """'' for Ray's nil id, which is all ones."""
    return raw.hex() if raw.strip(b"\xff") else ""


def _ranks(serialized: str) -> dict[str, int | None]:
    """RANK and WORLD_SIZE from its environment, and nothing else."""
    try:
        variables = json.loads(serialized or "{}").get("env_vars") or {}
    except (ValueError, AttributeError):
        variables = {}
    numbers = {}
    for field, name in (("global_rank", "RANK"), ("world_size", "WORLD_SIZE")):
        text = str(variables.get(name, "")).strip()
        numbers[field] = int(text) if text.isascii() and text.isdigit() else None
    return numbers


def _resources(given: Any) -> dict[str, float]:
    """The relevant part of it; for a placement group's own resources, the plain names."""
    plain: dict[str, float] = {}
    for name, amount in given.items():
        of_group = _OF_GROUP.match(name)
        name = of_group.group(1) if of_group else name
        kept_by_ray = name.startswith(("node:", "bundle", "object_store_memory"))
        if not kept_by_ray and "_group_" not in name:
            plain[name[:_NAME]] = amount
    return plain


def _death(cause: Any) -> tuple[str, str]:
    kind = cause.WhichOneof("context")
    if kind is None:
        return "worker_died", ""
    context = getattr(cause, kind)
    if kind == "creation_task_failure_context":
        return "init_failed", _exception(context.formatted_exception_string)
    text = context.error_message
    if kind != "actor_died_error_context":
        return _CONTEXTS.get(kind, "worker_died"), _first_and_last(text)
    ended = _WORKER_ENDED.search(text)
    if ended is not None:
        return _worker_end(ended.group(1)), _plain(ended.group(2))
    return _REASONS.get(_word(context, "reason"), "worker_died"), _plain(text)


def _worker_end(exit_type: str) -> str:
    if exit_type.startswith("INTENDED"):
        return "exited"
    return "out_of_memory" if exit_type == "NODE_OUT_OF_MEMORY" else "worker_died"


def _exception(formatted: str) -> str:
    """`ValueError: no such file (train.py:12 in __init__)`."""
    lines = [line.strip() for line in _ANSI.sub("", formatted).splitlines() if line.strip()]
    places = _PLACE.findall(formatted)
    file, line, function = places[-1] if places else ("", "", "")
    place = f" ({file.rpartition('/')[2]}:{line} in {function})" if file else ""
    return f"{(lines or [''])[-1][:_TEXT]}{place}"


def _first_and_last(text: str) -> str:
    lines = [line.strip() for line in _ANSI.sub("", text).splitlines() if line.strip()]
    return " … ".join(dict.fromkeys([*lines[:1], *lines[-1:]]))[:_TEXT]


def _plain(text: str) -> str:
    """Ray's message on one line, without the causes that Ray lists for every end."""
    return " ".join(_ANSI.sub("", text.partition("Some common causes include")[0]).split())[:_TEXT]


def _tell_ends(store: Any, ray: Any, actors: list[dict[str, Any]]) -> None:
    """Adds how the last workers of restarted actors ended."""
    from ray.core.generated import gcs_pb2

    restarted = [actor for actor in actors if actor["incarnations"]]
    for actor in restarted[:_RESTARTED_MOST]:
        for incarnation in actor["incarnations"]:
            row = store.get_worker_info(ray.WorkerID(incarnation.worker_id))
            if row:
                worker = gcs_pb2.WorkerTableData.FromString(row)
                actor["ends"].append(_plain(worker.exit_detail) or _word(worker, "exit_type"))


def _nodes(store: Any, host: str) -> list[dict[str, Any]]:
    free = {
        row.node_id.hex(): _resources(row.resources_available)
        for row in _rows(store, "get_all_available_resources")
    }
    return [
        {
            "host": host,
            "node_id": node["NodeID"],
            "address": node.get("NodeManagerAddress", ""),
            "host_name": node.get("NodeManagerHostname", ""),
            "alive": bool(node.get("Alive")),
            "death_text": _plain(node.get("DeathReasonMessage") or ""),
            "total": _resources(node.get("Resources") or {}),
            "free": free.get(node["NodeID"], {}),
        }
        for node in store.get_node_table()
    ]


def _groups(store: Any, host: str) -> list[dict[str, Any]]:
    return [
        {
            "host": host,
            "group_id": group.placement_group_id.hex(),
            "job_id": group.creator_job_id.hex(),
            "name": group.name[:_NAME],
            "state": _word(group, "state"),
            "scheduling": _word(group.stats, "scheduling_state"),
            "strategy": _word(group, "strategy"),
            "bundles": [_resources(bundle.unit_resources) for bundle in group.bundles],
        }
        for group in _rows(store, "get_placement_group_table")
    ]


if __name__ == "__main__":
    main()
