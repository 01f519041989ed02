"""One rank waits for something outside the job. Usage: outside_waits.py WAY RANK"""

import distwatch.auto  # noqa: F401, I001
import os
import socket
import sys
import urllib.request

import torch
import torch.distributed as dist
from steps import RANK, WORK, silent_pipe, step

WAY, WHO = sys.argv[1], int(sys.argv[2])


def silent_server() -> int:
    """It accepts (by the kernel) and answers nothing; in another process, as a tracker is."""
    server = socket.create_server(("127.0.0.1", 0))
    if os.fork() == 0:
        with open(silent_pipe("server"), "rb") as pipe:
            pipe.read(1)
        os._exit(0)
    port: int = server.getsockname()[1]
    server.close()
    return port


def ask_tracker() -> None:
    urllib.request.urlopen(f"http://localhost:{silent_server()}/api/run").read()


def ask_socket() -> None:
    with socket.create_connection(("127.0.0.1", silent_server())) as connection:
        connection.recv(1)


def ask_user() -> None:
    input("wandb: Enter your choice: ")


def read_line() -> None:
    print("Continue? [y/N]", flush=True)
    sys.stdin.readline()


def compile_slowly() -> None:
    """A compiler that does not come to an end."""
    from torch.utils import cpp_extension

    compiler = os.path.join(WORK, "c++")
    with open(compiler, "w") as file:
        file.write(
            f'#!/bin/sh\ncase "$*" in *-c*) read line < {silent_pipe("cc")};; *) echo 11;; esac\n'
        )
    os.chmod(compiler, 0o755)
    os.environ["CXX"] = compiler
    cpp_extension.load_inline(
        "slow", "int f() { return 1; }", functions=["f"], build_directory=WORK
    )


def wait_for_baton() -> None:
    from torch.utils.file_baton import FileBaton

    path = os.path.join(WORK, "lock")
    if os.fork() == 0:
        FileBaton(path).try_acquire()
        os._exit(0)
    os.wait()
    baton = FileBaton(path)
    if not baton.try_acquire():
        baton.wait()


WAYS = {
    "http": ask_tracker,
    "socket": ask_socket,
    "input": ask_user,
    "readline": read_line,
    "compile": compile_slowly,
    "baton": wait_for_baton,
}

dist.init_process_group("gloo")
dist.all_reduce(torch.ones(8))
if RANK == WHO:  # < http socket input readline compile baton: rank
    step("held up")
    WAYS[WAY]()
else:
    step("waiting")
dist.all_reduce(torch.ones(8))
