"""Starts a thread in another process that runs Python code there once it gets the GIL.

An injector that hijacks the main thread and loads a library in it (pyinjector, hypno, gdb scripts) may
stop it inside malloc, or between two bytecodes, and then crashes or blocks the job: docs/inject.md has the
figures. So this one
- uses a thread that waits, in a system call that nothing makes with malloc's or the loader's lock held,
- makes that thread do one thing: `pthread_create`, within microseconds, and puts it back,
- leaves it to the new thread to wait for the GIL, to import and to load, as any thread of the job may.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator

from distwatch.injection.refusal import NoThreadWaits, Refused
from distwatch.injection.symbols import find_functions
from distwatch.injection.traced_thread import PPOLL, TracedThread
from distwatch.probes.procfs import status_of, tasks_of
from distwatch.probes.syscalls import call_of

_FUNCTIONS = (
    "Py_IsInitialized pthread_self pthread_detach PyGILState_Ensure PyRun_SimpleString "
    "PyGILState_Release munmap".split()
)
_STACK = 1 << 16
_PAGE = 4096
_CREATED_WITHIN_S = 2.0
_BLOCK = struct.Struct("=11Q")
_BLOCK_AT, _STUB_AT, _TEXT_AT = 0, 0x80, 0x100
_WAIT_BITSET = 9
_RESTARTED = "clock_nanosleep nanosleep poll ppoll select pselect6 pause restart_syscall".split()
"""Interrupted, the kernel takes these up again by itself: the thread does not notice."""
_REPEATED = "recvfrom recvmsg read accept accept4 wait4 waitid epoll_wait epoll_pwait".split()
"""These may report EINTR once, as after any signal or a look by a debugger; used where nothing else waits."""
_WAITED_ON = ("pipe:", "socket:", "/dev/pts/", "/dev/tty", "anon_inode:[eventpoll]")

# rdi is the block's address: functions at 8-byte steps, then the text, the memory and its length.
_STUB = bytes.fromhex(
    "53"  # push rbx
    "4154"  # push r12
    "50"  # push rax: the stack stays aligned
    "4889fb"  # mov rbx, rdi
    "ff5308"  # call [rbx+8]: pthread_self
    "4889c7"  # mov rdi, rax
    "ff5310"  # call [rbx+16]: pthread_detach
    "ff13"  # call [rbx]: Py_IsInitialized
    "85c0"  # test eax, eax
    "7413"  # jz over the next three calls
    "ff5318"  # call [rbx+24]: PyGILState_Ensure
    "4189c4"  # mov r12d, eax
    "488b7b38"  # mov rdi, [rbx+56]: the text
    "ff5320"  # call [rbx+32]: PyRun_SimpleString
    "4489e7"  # mov edi, r12d
    "ff5328"  # call [rbx+40]: PyGILState_Release
    "488b7b40"  # mov rdi, [rbx+64]: this memory
    "488b7348"  # mov rsi, [rbx+72]: its length
    "488b4330"  # mov rax, [rbx+48]: munmap
    "4883c408"  # add rsp, 8
    "415c"  # pop r12
    "5b"  # pop rbx
    "ffe0"  # jmp rax: returns to where this function was called, since this code is gone by then
)
_BACK = bytes.fromhex(
    "4989c7"  # mov r15, rax
    "b8"
    + struct.pack("<I", PPOLL).hex()  # mov eax, ppoll: without a timeout, so it waits for ever
    + "31ff31f631d24531d2"  # xor edi, edi; esi; edx; r10d
    "0f05"  # syscall
    "ebee"  # jmp to the mov of eax
)


def run_python(pid: int, text: str) -> int:
    """Starts a thread that runs a Python text there; returns the thread that was borrowed for it.

    All calls of ptrace must come from one thread, so this blocks: some milliseconds.

    Raises:
        Refused: nothing was started, and the reason; NoThreadWaits where only another moment, or other
            means, may help.
    """
    functions = find_functions(pid, (*_FUNCTIONS, "pthread_create"))
    _require_no_shadow_stack(pid)
    why = "no thread of it waits in a call that is safe to interrupt: try again"
    for task in _waiting(pid):
        try:
            with TracedThread(pid, task) as thread:
                if _is_safe(thread):
                    _start(thread, functions, text)
                    return task
        except ProcessLookupError:
            continue  # that thread has ended
        except PermissionError as error:
            why = f"the kernel refuses ptrace: {error.strerror}"
        except OSError as error:
            why = f"thread {task} cannot be used: {error.strerror}"
    raise NoThreadWaits(f"process {pid}: {why}")


def _start(thread: TracedThread, functions: dict[str, int], text: str) -> None:
    content = text.encode() + b"\0"
    length = -(-(_TEXT_AT + len(content)) // _PAGE) * _PAGE
    code = thread.map(length, executable=True)
    # Not in the same memory, which the new thread gives back as soon as it is done.
    back = thread.map(_PAGE, executable=True)
    thread.write(back, _BACK)
    stack = thread.map(_STACK)
    pointers = (*(functions[name] for name in _FUNCTIONS), code + _TEXT_AT, code, length, 0)
    parts = {_BLOCK_AT: _BLOCK.pack(*pointers), _STUB_AT: _STUB, _TEXT_AT: content}
    for at, part in parts.items():
        thread.write(code + at, part)
    started = thread.call(
        functions["pthread_create"],
        (stack, 0, code + _STUB_AT, code + _BLOCK_AT),
        stack=stack + _STACK - 64,
        back=back,
        within_s=_CREATED_WITHIN_S,
    )
    if started is None:
        # It waits for malloc's lock: giving up the wait harms nobody, but its memory must stay.
        raise Refused(f"process {thread.pid}: a lock of its memory allocator is not let go")
    thread.unmap(stack, _STACK)
    thread.unmap(back, _PAGE)
    if started:
        thread.unmap(code, length)
        raise Refused(f"process {thread.pid} gets no thread: {os.strerror(started & 0xFFFF)}")


def _waiting(pid: int) -> Iterator[int]:
    """Threads that wait in a safe call, those first whose call goes on as if nothing had been."""
    ranked = []
    for task in tasks_of(pid):
        call = call_of(pid, task, "S")
        if call.name == "futex" and call.arguments[1] & 0x7F == _WAIT_BITSET:
            ranked.append((0, task))
        elif call.name in _RESTARTED:
            ranked.append((1, task))
        elif call.name in _REPEATED:
            ranked.append((2, task))
    return iter(task for _, task in sorted(ranked))


def _is_safe(thread: TracedThread) -> bool:
    """Whether the stopped thread still waits in such a call; the kernel is to take it up again.

    glibc waits for its own locks by another futex operation than for condition variables, semaphores
    and threads; malloc and the loader read files, and no pipe or socket.
    """
    if not thread.waits_in_syscall():
        return False
    call = call_of(thread.pid, thread.task, "S")
    if call.name == "futex":
        return call.arguments[1] & 0x7F == _WAIT_BITSET
    if call.name == "read":
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{thread.pid}/fd/{call.arguments[0]}").startswith(_WAITED_ON)
        return False
    return call.name in _RESTARTED or call.name in _REPEATED


def _require_no_shadow_stack(pid: int) -> None:
    if "shstk" in status_of(f"/proc/{pid}", "x86_Thread_features"):
        raise Refused(
            f"process {pid} runs with a shadow stack: a borrowed thread would fault there"
        )
