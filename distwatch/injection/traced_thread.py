"""One thread of another process, stopped by ptrace: its registers, its memory, and calls made in it.

Only that thread stops, the others run on. Linux on x86-64.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import time

from distwatch.injection.refusal import Refused

_CONT, _DETACH, _SYSCALL = 7, 17, 24
_GETREGS, _SETREGS = 12, 13
_GETREGSET, _SETREGSET = 0x4204, 0x4205
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_GETSIGMASK, _SETSIGMASK = 0x420A, 0x420B
_TRACESYSGOOD = 1
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_EVENT_STOP = 128
_NT_X86_XSTATE = 0x202
_XSTATE_MOST = 1 << 16
_WALL = 0x40000000
_ALL_SIGNALS = b"\xff" * 8
_MMAP, _MUNMAP, _FUTEX, PPOLL = 9, 11, 202, 271
_READ, _WRITE, _EXEC = 1, 2, 4
_PRIVATE_ANONYMOUS = 0x22
_NO_SYSCALL = (1 << 64) - 1
_TO_BE_RESTARTED = tuple((1 << 64) - number for number in (512, 513, 514, 516))
_INTERRUPTED = (1 << 64) - 4
"""EINTR: what `epoll_wait` returns instead."""
_SOON_S = 5.0
_WORD = struct.Struct("=Q")
SYSCALL_INSTRUCTION = b"\x0f\x05"
_NAMES = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
    "fs_base gs_base ds es fs gs"
).split()
_REGISTERS = struct.Struct(f"={len(_NAMES)}Q")
Registers = dict[str, int]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class TracedThread:
    """A stopped thread. All calls must come from the thread that made it.

    Used as a context: at its end the thread goes on exactly where it was, with all its registers.
    A tracer that dies in between leaves it asleep in `ppoll`, never at a trap that would end its process.

    Raises:
        OSError: the kernel refuses, or the thread is gone.
    """

    def __init__(self, pid: int, task: int) -> None:
        self.pid, self.task = pid, task
        self._memory = -1
        self._used = False
        _ptrace(_SEIZE, task, 0, _TRACESYSGOOD)
        try:
            self._interrupt()
            self.registers = self._read_registers()
            self._mask = self._signals_blocked()
            self._xstate = self._regset(_GETREGSET, bytes(_XSTATE_MOST))
        except BaseException:
            with contextlib.suppress(OSError):
                _ptrace(_DETACH, task, 0, 0)
            raise

    def __enter__(self) -> TracedThread:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._used:
                self._go_back()
        finally:
            if self._memory >= 0:
                os.close(self._memory)
            _ptrace(_DETACH, self.task, 0, 0)

    def waits_in_syscall(self) -> bool:
        """Whether it was stopped in a call, made by the usual instruction, from which it can be borrowed."""
        interrupted = self.registers["rax"] in (*_TO_BE_RESTARTED, _INTERRUPTED)
        return (
            self.registers["orig_rax"] < 1 << 32
            and interrupted
            and self.read(self.registers["rip"] - 2, 2) == SYSCALL_INSTRUCTION
        )

    # ---- memory ------------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        return os.pread(self._mem(), length, address)

    def write(self, address: int, content: bytes) -> None:
        """Writes also where the process itself may not."""
        os.pwrite(self._mem(), content, address)

    def map(self, length: int, *, executable: bool = False) -> int:
        """New memory in the process: to read and write, or to read and execute."""
        protection = _READ | (_EXEC if executable else _WRITE)
        words = (0, length, protection, _PRIVATE_ANONYMOUS, _NO_SYSCALL, 0)
        address = self._system_call(_MMAP, *words)
        if address > _NO_SYSCALL - 4096:
            error = os.strerror(_NO_SYSCALL + 1 - address)
            raise Refused(f"process {self.pid} gets no memory for the agent's start: {error}")
        return address

    def unmap(self, address: int, length: int) -> None:
        self._system_call(_MUNMAP, address, length)

    def _mem(self) -> int:
        if self._memory < 0:
            self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        return self._memory

    # ---- calls in the thread -------------------------------------------------------------------

    def call(
        self, function: int, arguments: tuple[int, ...], *, stack: int, back: int, within_s: float
    ) -> int | None:
        """Calls a function; returns its result, or None where it waits for a lock that nobody frees.

        Args:
            stack: the upper end of memory for its stack.
            back: where it returns to: code that calls `ppoll`, with the result in r15.
        """
        self.write(stack - 8, _WORD.pack(back))
        given = dict(zip(("rdi", "rsi", "rdx", "rcx"), arguments, strict=False))
        self._set({**given, "rip": function, "rsp": stack - 8, "rax": 0})
        while True:
            registers = self._next_syscall(within_s)
            if registers["orig_rax"] == PPOLL and back <= registers["rip"] < back + 64:
                # At its entry: without a number the call is not made, and the next stop is its exit.
                self._write_registers({**registers, "orig_rax": _NO_SYSCALL})
                self._next_syscall(_SOON_S)
                return registers["r15"]
            if registers["rax"] in _TO_BE_RESTARTED and registers["orig_rax"] == _FUTEX:
                return None

    def _system_call(self, number: int, *arguments: int) -> int:
        given = dict(zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments, strict=False))
        self._set({**given, "rax": number, "rip": self.registers["rip"] - 2})
        self._next_syscall(_SOON_S)
        return self._next_syscall(_SOON_S)["rax"]

    def _set(self, changes: Registers) -> None:
        """Prepares a call of ours; its own call, if it was in one, waits."""
        if not self._used:
            self._used = True
            # A handler of the job's must not run on our stack.
            _ptrace(_SETSIGMASK, self.task, 8, _ALL_SIGNALS)
        self._write_registers({**self.registers, "orig_rax": _NO_SYSCALL, **changes})

    def _next_syscall(self, within_s: float) -> Registers:
        """Runs to the next entry to or exit from a system call; after `within_s`, to where it is then."""
        until = time.monotonic() + within_s
        passed_on = 0
        while True:
            _ptrace(_SYSCALL, self.task, 0, passed_on)
            status = self._wait(until)
            if status is None:
                self._interrupt()
                break
            if os.WSTOPSIG(status) == _SYSCALL_STOP:
                break
            passed_on = 0 if status >> 16 else os.WSTOPSIG(status)
        return self._read_registers()

    def _go_back(self) -> None:
        # The kernel takes up an interrupted call only after a stop of this kind. Without a number, a
        # call that the thread is about to make is not made.
        self._write_registers({**self._read_registers(), "orig_rax": _NO_SYSCALL})
        _ptrace(_INTERRUPT, self.task, 0, 0)
        _ptrace(_CONT, self.task, 0, 0)
        self._wait_for_stop()
        self._write_registers(self.registers)
        self._regset(_SETREGSET, self._xstate)
        _ptrace(_SETSIGMASK, self.task, 8, self._mask)

    # ---- stops ---------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        _ptrace(_INTERRUPT, self.task, 0, 0)
        self._wait_for_stop()

    def _wait_for_stop(self) -> None:
        until = time.monotonic() + 5.0
        while (status := self._wait(until)) is not None:
            if status >> 16 == _EVENT_STOP:
                return
            signalled = os.WSTOPSIG(status) not in (signal.SIGTRAP, _SYSCALL_STOP)
            _ptrace(_CONT, self.task, 0, os.WSTOPSIG(status) if signalled else 0)
        raise Refused(f"thread {self.task} of process {self.pid} does not stop")

    def _wait(self, until: float) -> int | None:
        """The next stop's status; None where there is none in time."""
        pause = 0.00005
        while True:
            changed, status = os.waitpid(self.task, _WALL | os.WNOHANG)
            if changed:
                if not os.WIFSTOPPED(status):
                    raise ProcessLookupError(f"thread {self.task} has ended")
                return status
            if time.monotonic() > until:
                return None
            time.sleep(pause)
            pause = min(2 * pause, 0.002)

    # ---- registers -------------------------------------------------------------------------------

    def _read_registers(self) -> Registers:
        buffer = ctypes.create_string_buffer(_REGISTERS.size)
        _ptrace(_GETREGS, self.task, 0, ctypes.addressof(buffer))
        return dict(zip(_NAMES, _REGISTERS.unpack(buffer.raw), strict=True))

    def _write_registers(self, registers: Registers) -> None:
        packed = _REGISTERS.pack(*(registers[name] for name in _NAMES))
        _ptrace(_SETREGS, self.task, 0, packed)

    def _regset(self, request: int, content: bytes) -> bytes:
        """Vector registers: code that makes system calls itself may keep values in them."""
        buffer = ctypes.create_string_buffer(content, len(content))
        vector = _Iovec(ctypes.addressof(buffer), len(content))
        _ptrace(request, self.task, _NT_X86_XSTATE, ctypes.addressof(vector))
        return buffer.raw[: vector.length]

    def _signals_blocked(self) -> bytes:
        buffer = ctypes.create_string_buffer(8)
        _ptrace(_GETSIGMASK, self.task, 8, ctypes.addressof(buffer))
        return buffer.raw


def _ptrace(request: int, task: int, address: int, data: int | bytes) -> None:
    ctypes.set_errno(0)
    if _libc.ptrace(request, task, address, data) == -1 and (error := ctypes.get_errno()):
        raise OSError(error, os.strerror(error))
