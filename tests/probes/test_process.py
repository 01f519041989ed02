"""What /proc tells of processes that wait for things of known names."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from pathlib import Path

import pytest

from distwatch.probes.process import examine, is_dying, sample
from distwatch.probes.procfs import stat_fields
from distwatch.state.events import ProcessSampled
from tests.probes.others import BLOCK_IN_KERNEL, NOBODY, as_nobody, other, stop
from tests.support.waiting import wait_until

READ_STDIN = "import os; print(1, flush=True); os.read(0, 1)"


def seen(pid: int) -> ProcessSampled:
    found = examine("k", pid)
    assert found is not None
    return found


def wait_in(pid: int, *syscalls: str) -> ProcessSampled:
    """Waits until the process sleeps in one of these calls, and looks."""
    wait_until(lambda: (s := seen(pid)).state in "SD" and s.syscall in syscalls)
    return seen(pid)


def test_a_path_that_crosses_a_page_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    os.mkfifo(path)
    code = (
        "import ctypes, mmap, sys\n"
        "path = sys.argv[1].encode() + b'\\0'\n"
        "pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)\n"
        "begin = mmap.PAGESIZE - 9\n"
        "pages[begin : begin + len(path)] = path\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + begin\n"
        "print(1, flush=True)\n"
        "ctypes.CDLL(None).openat(-100, ctypes.c_void_p(address), 0)\n"
    )
    with other(code, str(path)) as child:
        child.line()
        assert wait_in(child.pid, "openat").blocked_on == str(path)


def test_a_reader_of_a_fifo_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    os.mkfifo(path)
    code = (
        "import os, sys; f = os.open(sys.argv[1], os.O_RDWR); print(1, flush=True); os.read(f, 1)"
    )
    with other(code, str(path)) as child:
        child.line()
        found = wait_in(child.pid, "read")
        assert (found.process, found.state, found.blocked_on) == ("k", "S", str(path))
        assert found.wchan
        cheap = sample("k", child.pid)
        assert cheap is not None
        assert (cheap.syscall, cheap.blocked_on) == ("read", str(path))


def test_an_open_that_blocks_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with other("import sys; print(1, flush=True); open(sys.argv[1])", str(path)) as child:
        child.line()
        assert wait_in(child.pid, "openat", "open").blocked_on == str(path)


def test_a_reader_of_stdin_is_told_as_such() -> None:
    with other(READ_STDIN) as child:
        child.line()
        found = wait_in(child.pid, "read")
        assert found.blocked_on == f"stdin ({os.readlink(f'/proc/{child.pid}/fd/0')})"


@pytest.mark.parametrize("wait", ["select.select([0], [], [])", "epoll.poll()", "poll.poll()"])
def test_what_a_poll_waits_for_is_told(wait: str) -> None:
    code = f"""
    import select
    epoll, poll = select.epoll(), select.poll()
    epoll.register(0, select.EPOLLIN)
    poll.register(0, select.POLLIN)
    {wait}
    """
    with other(code) as child:
        found = wait_in(
            child.pid, "select", "pselect6", "epoll_wait", "epoll_pwait", "poll", "ppoll"
        )
        assert found.blocked_on.startswith("stdin (pipe:[")


@pytest.mark.parametrize(
    ("family", "address", "shown"),
    [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "[::1]")],
)
@pytest.mark.parametrize("timeout", ["None", "1000"])
def test_a_reader_of_a_socket_is_told_with_both_ends(
    family: socket.AddressFamily, address: str, shown: str, timeout: str
) -> None:
    code = f"""
    import socket, sys
    connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    connection.settimeout({timeout})
    print(connection.getsockname()[1], flush=True)
    connection.recv(1)
    """
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        with other(code, address, str(port)) as child:
            mine = child.number()
            accepted, _ = server.accept()
            wait_until(
                lambda: (
                    (s := sample("k", child.pid)) is not None
                    and s.syscall in ("recvfrom", "poll", "ppoll")
                )
            )
            cheap = sample("new", child.pid)
            assert cheap is not None
            assert cheap.blocked_on == ("socket" if timeout == "None" else "")
            wanted = f"socket {shown}:{mine}→{shown}:{port}"
            assert wait_in(child.pid, "recvfrom", "poll", "ppoll").blocked_on == wanted
            again = sample("k", child.pid)
            assert again is not None
            assert again.blocked_on == wanted
            accepted.close()


def test_what_was_found_is_forgotten_once_the_process_moves(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    code = """
    import os, sys, time
    print(1, flush=True)
    for _ in range(2):
        os.close(os.open(sys.argv[1], os.O_RDONLY))
        end = time.process_time() + 0.1
        while time.process_time() < end:
            pass
        print(1, flush=True)
        os.read(0, 1)
    """
    with other(code, str(path)) as child:
        child.line()
        assert wait_in(child.pid, "openat", "open").blocked_on == str(path)
        assert (cheap := sample("k", child.pid)) is not None
        assert cheap.blocked_on == str(path)
        os.close(os.open(path, os.O_WRONLY))
        child.line()
        wait_until(lambda: (s := sample("k", child.pid)) is not None and s.syscall == "read")
        assert (cheap := sample("k", child.pid)) is not None
        assert cheap.blocked_on.startswith("stdin (")
        os.rename(path, tmp_path / "other")
        os.mkfifo(path)
        child.say()
        wait_until(lambda: (s := sample("k", child.pid)) is not None and s.syscall == "openat")
        assert (cheap := sample("k", child.pid)) is not None
        assert cheap.blocked_on == ""


def test_a_listener_is_told_as_such() -> None:
    code = """
    import socket
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    server.accept()
    """
    with other(code) as child:
        wanted = f"socket listening on 127.0.0.1:{child.number()}"
        assert wait_in(child.pid, "accept", "accept4", "poll").blocked_on == wanted


def test_a_lock_that_another_holds_is_told_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX)"
        with other(code, str(path)) as child:
            assert wait_in(child.pid, "flock").blocked_on == str(path)


def test_a_parent_that_waits_is_told_with_its_child() -> None:
    code = """
    import os
    child = os.fork()
    if child == 0:
        os.read(0, 1)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    """
    with other(code) as child:
        below = child.number()
        found = wait_in(child.pid, "wait4")
        assert found.blocked_on.startswith(f"child process {below} (")
        assert found.children == (below,)


@pytest.mark.parametrize(
    ("wait", "syscall"),
    [("threading.Event().wait(600)", "futex"), ("select.poll().poll(600_000)", "poll")],
)
def test_a_wait_that_was_interrupted_keeps_its_name(wait: str, syscall: str) -> None:
    """The kernel calls what continues `restart_syscall`."""
    with other(f"import select, threading; print(1, flush=True); {wait}") as child:
        child.line()
        wait_in(child.pid, syscall)
        stop(child.pid)
        os.kill(child.pid, signal.SIGCONT)
        assert wait_in(child.pid, syscall, "restart_syscall").syscall == syscall


def test_a_stopped_process() -> None:
    with other(READ_STDIN) as child:
        child.line()
        stop(child.pid)
        assert seen(child.pid).state == "T"
        assert (found := sample("k", child.pid)) is not None
        assert found.state == "T"


def test_a_process_blocked_in_the_kernel() -> None:
    with other(BLOCK_IN_KERNEL + "block()") as child:
        wait_until(lambda: (s := seen(child.pid)).state == "D" and s.syscall == "clone")
        found = seen(child.pid)
        assert found.children
        assert found.blocked_on.startswith(f"child process {found.children[0]} (")


def test_a_thread_blocked_in_the_kernel_is_told_beside_the_main_thread() -> None:
    code = BLOCK_IN_KERNEL + (
        "thread = threading.Thread(target=block)\nthread.start()\n"
        "print(thread.native_id, flush=True)\nthread.join()\n"
    )
    with other(code) as child:
        thread = child.number()
        wait_until(lambda: (s := seen(child.pid)).state == "S" and "in D" in s.wchan)
        found = seen(child.pid)
        assert f"thread {thread} (" in found.wchan
        assert found.blocked_on.startswith("child process ")
        assert (cheap := sample("k", child.pid)) is not None
        assert "in D" in cheap.wchan, "what was found holds until the process moves"


def test_numbers() -> None:
    code = """
    import threading, time
    ballast = bytearray(64 << 20)
    for _ in range(2):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    while time.process_time() < 0.2:
        pass
    print(time.process_time(), flush=True)
    input()
    """
    with other(code) as child:
        used = float(child.line())
        found = wait_in(child.pid, "read")
        assert found.threads == 3
        assert found.cpu_s is not None
        assert found.cpu_s >= used - 0.02  # one clock tick each of user and system time
        assert found.rss_bytes is not None
        assert 64 << 20 < found.rss_bytes < 256 << 20


def test_a_busy_process_is_in_no_call() -> None:
    with other("print(1, flush=True)\nwhile True: pass") as child:
        child.line()
        wait_until(lambda: seen(child.pid).state == "R")
        wait_until(lambda: seen(child.pid).syscall == "")
        assert seen(child.pid).blocked_on == ""


def test_a_zombie_and_its_end() -> None:
    with other("import os; os._exit(3)") as child:
        wait_until(lambda: seen(child.pid).state == "Z")
        assert seen(child.pid).blocked_on == ""
        child.process.wait()
        assert sample("k", child.pid) is None
        assert examine("k", child.pid) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_sees_the_state_and_leaves_the_rest_empty() -> None:
    with other(READ_STDIN) as child:
        child.line()
        wait_in(child.pid, "read")

        def look() -> str:
            found = examine("k", child.pid)
            assert found is not None
            return f"{found.state} {found.threads} [{found.syscall}] [{found.blocked_on}]"

        assert as_nobody(look) == "S 1 [] []"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_root_sees_all_of_another_users_process() -> None:
    with other("", command=["/bin/cat"], uid=NOBODY) as child:
        wait_until(lambda: seen(child.pid).blocked_on.startswith("stdin (pipe:["))


def test_a_process_that_has_been_killed_counts_as_dead_before_it_is_gone() -> None:
    """A SIGKILL ends its call at once, while it may have to wait for a core to end itself."""
    with other(READ_STDIN) as child:
        child.line()
        wait_in(child.pid, "read")
        alive = stat_fields(child.pid)
        assert alive is not None
        assert not is_dying(alive)
        assert is_dying([*alive[:28], str(1 << 8), *alive[29:]]), "SIGKILL is pending"
        child.process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        gone = stat_fields(child.pid)
        assert gone is not None
        assert is_dying(gone)
