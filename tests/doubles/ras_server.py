"""A double of NCCL's RAS service: no machine of the tests has a GPU, so no NCCL.

Made from NCCL's own src/ras/client_support.cc: the greeting, TIMEOUT, SET FORMAT (2.28.7 and later), STATUS and
VERBOSE STATUS, the order of the fields in JSON, the tables and sentences of the text.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter
from typing import Any

OPERATIONS = ("Broadcast", "Reduce", "AllGather", "ReduceScatter", "AllReduce")
Member = tuple[str, int]
"""Host and pid."""


class CommDouble:
    """One communicator: its members by rank, and the AllReduces that each has launched; None: it is silent."""

    def __init__(self, name: str, members: list[Member], launched: list[int | None]) -> None:
        self.name = name
        self.members = members
        self.launched = launched

    @property
    def silent(self) -> list[int]:
        return [rank for rank, count in enumerate(self.launched) if count is None]


class RasDouble:
    """What a job's RAS threads know. `version`: (2, 24) to (2, 31)."""

    def __init__(
        self,
        comms: list[CommDouble],
        version: tuple[int, int] = (2, 29),
        dead: list[Member] | None = None,
    ) -> None:
        self.comms = comms
        self.version = version
        self.dead = dead or []

    @property
    def knows_json(self) -> bool:
        return self.version >= (2, 28)

    def json(self) -> bytes:
        answer: dict[str, Any] = {
            "nccl_version": f"{self.version[0]}.{self.version[1]}.7",
            "cuda_runtime_version": 13000,
            "cuda_driver_version": 13000,
            "timestamp": "2026-06-01 14:10:02",
            "communicators_count": len(self.comms),
            "communicators": [self._comm_json(comm) for comm in self.comms],
            "ras": {"collection_time_sec": 0.012, "timeouts_count": 0},
        }
        return json.dumps(answer, indent=2).encode() + b"\n"

    def _comm_json(self, comm: CommDouble) -> dict[str, Any]:
        def process(rank: int) -> dict[str, Any]:
            host, pid = comm.members[rank]
            return {"rank": rank, "host": host, "pid": pid, "cuda_dev": rank, "nvml_dev": rank}

        answered = [rank for rank in range(len(comm.members)) if rank not in comm.silent]
        running = {
            "init_state": 0,
            "async_error": 0,
            "finalize_called": False,
            "destroy_flag": False,
            "abort_flag": False,
        }
        return {
            "hash": f"0x{comm.name}",
            "secondary_hash": "0x1:0x2",
            "size": len(comm.members),
            "ranks_count": len(answered),
            "missing_ranks_count": len(comm.silent),
            "ranks": [
                process(rank)
                | {"status": running}
                | {"collective_counts": dict.fromkeys(OPERATIONS, 0) | {"AllReduce": comm.launched[rank]}}
                for rank in answered
            ],
            "missing_ranks": [
                process(rank)
                | {
                    "status": {
                        "unresponsive": True,
                        "considered_dead": comm.members[rank] in self.dead,
                    }
                }
                for rank in comm.silent
            ],
        }  # fmt: skip

    def text(self) -> bytes:
        lines = [
            f"NCCL version {self.version[0]}.{self.version[1]}.3 compiled with CUDA 12.9",
            "CUDA runtime version 12090, driver version 12090",
            "",
            "Communicators... (0.00s)",
            "=============",
            "",
            "Group     Comms     Nodes     Ranks     Ranks     Ranks    Status  Errors",
            "    #  in group  per comm  per node  per comm  in group",
        ]
        for number, comm in enumerate(self.comms):
            size = len(comm.members)
            errors = self._errors(comm)
            lines.append(f"{number:5} {1:9} {1:9} {size:9} {size:9} {size:9}   RUNNING  {errors}")
        lines += ["", "Errors", "======", ""]
        if self.dead:
            lines += ["DEAD", f"  {len(self.dead)} job process is considered dead (unreachable)"]
            lines += [f"  Process {pid} on node {host} managing GPU 0" for host, pid in self.dead]
            lines.append("")
        for number, comm in enumerate(self.comms):
            if comm.silent:
                lines += [f"#{number}-0 ({comm.name}) INCOMPLETE"]
                lines += [f"  Missing communicator data from {len(comm.silent)} rank"]
                lines += [f"  Rank {rank} -- {_where(comm, rank)}" for rank in comm.silent] + [""]
        lines += ["Warnings", "========", ""]
        for number, comm in enumerate(self.comms):
            lines += self._mismatch(number, comm)
        return "\n".join(lines).encode() + b"\n"

    def _errors(self, comm: CommDouble) -> str:
        found = ["INCOMPLETE"] if comm.silent else []
        if len({count for count in comm.launched if count is not None}) > 1:
            found.append("MISMATCH")
        return ",".join(found) or "OK"

    def _mismatch(self, number: int, comm: CommDouble) -> list[str]:
        counts = Counter(count for count in comm.launched if count is not None)
        if len(counts) < 2:
            return []
        lines = [
            f"#{number}-0 ({comm.name}) MISMATCH",
            "  Communicator ranks have different AllReduce operation counts",
        ]
        for count, many in counts.most_common():
            said = f"launched up to operation {count}" if count else "not launched any operations"
            if many > 1:
                lines.append(f"  {many} ranks have {said}")
            if many < len(comm.members) * 0.5:
                for rank, own in enumerate(comm.launched):
                    if own == count:
                        alone = f" has {said}" if many == 1 else ""
                        lines.append(f"  Rank {rank}{alone} -- {_where(comm, rank)}")
        return [*lines, ""]


def _where(comm: CommDouble, rank: int) -> str:
    host, pid = comm.members[rank]
    return f"GPU {rank} managed by process {pid} on node {host}"


class RasServerDouble:
    """Listens as a process of that job does. `said`: the commands that came, in their order."""

    def __init__(self, job: RasDouble, port: int = 0) -> None:
        self.job = job
        self.said: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        is_json = False
        for raw in connection.makefile("rb"):
            command = raw.decode().strip().upper()
            self.said.append(command)
            if command.startswith("CLIENT PROTOCOL "):
                connection.sendall(b"SERVER PROTOCOL 2\n")
            elif command.startswith("TIMEOUT "):
                connection.sendall(b"OK\n")
            elif command.startswith("SET FORMAT ") and self.job.knows_json:
                is_json = command.endswith("JSON")
                connection.sendall(b"OK\n")
            elif command in ("STATUS", "VERBOSE STATUS"):
                connection.sendall(self.job.json() if is_json else self.job.text())
                return
            else:
                connection.sendall(b"ERROR: Unknown command " + raw)


if __name__ == "__main__":
    # A process that listens and names itself: `PORT VERSION`; it ends when its stdin does.
    import os

    port, minor = map(int, sys.argv[1:])
    own = RasDouble([CommDouble("aa12f0", [("10.0.0.1", os.getpid())], [7])], (2, minor))
    server = RasServerDouble(own, port)
    print("listens", flush=True)
    sys.stdin.read()
    server.close()
