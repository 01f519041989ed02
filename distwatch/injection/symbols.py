"""Addresses of functions in another process, from the libraries that it has mapped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from distwatch.foreign_files import open_named
from distwatch.injection.refusal import Refused
from distwatch.probes.procfs import read_text

_MACHINE = "EM_X86_64"
_LIBC = ("libc.so.6", "libc-", "ld-musl-", "libpthread")


class _Mapped(NamedTuple):
    path: str
    start: int


def find_functions(pid: int, names: Iterable[str]) -> dict[str, int]:
    """The addresses of these functions of libc and CPython.

    Raises:
        Refused: it has no such function, or is of another kind of machine.
    """
    wanted = set(names)
    found: dict[str, int] = {}
    for mapped in _libraries(pid):
        if missing := wanted - found.keys():
            found.update(_functions_in(pid, mapped, missing))
    if missing := wanted - found.keys():
        raise Refused(
            f"process {pid} has no {', '.join(sorted(missing))}: it is not CPython, or is linked statically"
        )
    return found


def _libraries(pid: int) -> Iterator[_Mapped]:
    """The program itself, libpython and libc: where each is mapped first."""
    program = os.path.basename(_target_of(f"/proc/{pid}/exe"))
    seen: set[str] = set()
    for line in read_text(f"/proc/{pid}/maps").splitlines():
        fields = line.split(maxsplit=5)
        path = fields[5] if len(fields) == 6 else ""
        name = os.path.basename(path)
        known = name == program or name.startswith(("libpython", *_LIBC))
        # Only the first mapping of a file has its beginning.
        if path.startswith("/") and path not in seen and known and int(fields[2], 16) == 0:
            seen.add(path)
            yield _Mapped(path, int(fields[0].partition("-")[0], 16))


def _functions_in(pid: int, mapped: _Mapped, names: Iterable[str]) -> dict[str, int]:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        # By the process's own root: in a container, the path means another file here.
        with os.fdopen(open_named(f"/proc/{pid}/root{mapped.path}"), "rb") as file:
            elf = ELFFile(file)
            if elf["e_machine"] != _MACHINE or elf.elfclass != 64:
                raise Refused(
                    f"process {pid} is of {elf['e_machine']}, {elf.elfclass} bits: distwatch brings its "
                    "agent into 64-bit x86 processes only"
                )
            table = elf.get_section_by_name(".gnu.hash") or elf.get_section_by_name(".dynsym")
            base = mapped.start - _first_address(elf)
            return {name: base + at for name in names if (at := _defined(table, name))}
    except (OSError, ELFError) as error:
        raise Refused(f"{mapped.path} cannot be read: {error}") from error


def _first_address(elf: object) -> int:
    """Where the file's beginning wants to be mapped: 0, except in a program at a fixed place."""
    segments = elf.iter_segments(type="PT_LOAD")  # type: ignore[attr-defined]
    return next((int(s["p_vaddr"]) for s in segments if s["p_offset"] == 0), 0)


def _defined(table: object, name: str) -> int:
    """A function's address in its file; 0 where the file only uses it."""
    if table is None:
        return 0
    by_hash = getattr(table, "get_symbol", None)  # that table has only what the file defines
    found = [by_hash(name)] if by_hash else table.get_symbol_by_name(name) or []  # type: ignore[attr-defined]
    return next((int(s["st_value"]) for s in found if s and s["st_shndx"] != "SHN_UNDEF"), 0)


def _target_of(link: str) -> str:
    try:
        return os.readlink(link).removesuffix(" (deleted)")
    except OSError:
        return ""
