"""Sizes and types of real tensors, as torch's bindings tell them and as DLPack does."""

from __future__ import annotations

import mmap
import sys
import threading
import traceback
from types import CodeType
from typing import Any

import pytest
import torch

from distwatch.state.pulse import SLOT
from tests.integrations.observed_group import Job

TYPES = (
    "float32 float64 float16 bfloat16 int8 int16 int32 int64 uint8 uint16 bool complex64 float8_e4m3fn float8_e5m2"
).split()
SHAPES = ((), (7,), (0, 3), (2, 3, 4), (1,) * 6)


class Named(torch.Tensor):
    """A subclass that changes nothing."""


def tensors() -> list[torch.Tensor]:
    plain = [torch.empty(shape, dtype=getattr(torch, name)) for name in TYPES for shape in SHAPES]
    strided = torch.empty(6, 4)[::2, 1:]
    return [
        *plain,
        strided,
        torch.nn.Parameter(torch.empty(5, 2)),
        torch.empty(3).as_subclass(Named),
        torch.empty(3, dtype=torch.complex64).conj(),
        torch.empty(3, requires_grad=True),
        # What DLPack cannot tell: it is asked no more, and all that follows is told as before.
        torch.empty(4, 4).to_sparse(),
        torch.empty(9, device="meta"),
        strided,
    ]


def test_all_kinds_of_tensors_are_recorded_as_they_are(job: Job) -> None:
    group = job.group_type()
    for _ in range(2):
        for tensor in tensors():
            for _ in range(2):
                group.allreduce([tensor], None)
            one, other = job.operations()[-2:]
            expected = (tensor.numel(), str(tensor.dtype).removeprefix("torch."))
            assert (one.numel, one.dtype) == (other.numel, other.dtype) == expected


class Asked:
    """The compiled record alone, which knows the types of tensors, and counts how often one is asked for its size."""

    def __init__(self, built: Any, exchange: Any) -> None:
        self.asked = 0
        self.missed: list[str] = []
        self.record = record = built.CallRecord(
            lambda name, *_: self.missed.append(name),
            lambda *_: None,
            lambda error: self.missed.append(str(error)),
            threading.get_ident(),
        )
        self.memory = mmap.mmap(-1, 16 * SLOT.size)
        self.call, known = record.observe("allreduce", "".format, False, True)
        record.attach(self.memory, 0, 16, 0)
        known.know_op(1)
        self.group = type("Group", (), {})()
        record.know_group(self.group, "0", 2, lambda group: 0, 0, 0)
        record.know_dtype(torch.float32, 3)
        record.know_tensors(torch.Tensor, torch.Tensor.dtype, self._numel, exchange)

    def _numel(self, tensor: torch.Tensor) -> int:
        self.asked += 1
        return tensor.numel()

    def reduce(self, tensor: torch.Tensor) -> int:
        """The number of elements that was recorded."""
        for code in codes_of_callers():
            self.record.know_code(code, True)
        self.missed.clear()
        before = self.record.next_number()
        self.call(self.group, [tensor], None)
        assert self.missed == []
        return int(SLOT.unpack_from(self.memory, (before + 1) % 16 * SLOT.size)[4])


def codes_of_callers() -> list[CodeType]:
    return [frame.f_code for frame, _ in traceback.walk_stack(sys._getframe(1))]


def capsule() -> Any:
    found = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if found is None:
        pytest.skip(f"torch {torch.__version__} has no DLPack for C")
    return found


def test_of_a_type_that_is_known_dlpack_alone_is_asked(built: Any) -> None:
    asked = Asked(built, capsule())
    assert [asked.reduce(torch.empty(n)) for n in (1, 2, 3)] == [1, 2, 3]
    assert asked.asked == 1


def test_what_dlpack_refuses_once_is_asked_of_torch_from_then_on(built: Any) -> None:
    asked = Asked(built, capsule())
    sizes = [
        asked.reduce(t) for t in (torch.empty(1), torch.empty(2, device="meta"), torch.empty(3))
    ]
    assert sizes == [1, 2, 3]
    assert asked.asked == 3


def test_without_dlpack_torch_is_asked(built: Any) -> None:
    asked = Asked(built, None)
    assert [asked.reduce(torch.empty(n)) for n in (1, 2)] == [1, 2]
    assert asked.asked == 2


@pytest.mark.parametrize("wrong", [object(), "text"])
def test_what_is_no_such_capsule_is_refused(built: Any, wrong: object) -> None:
    with pytest.raises(ValueError, match="PyCapsule_GetPointer"):
        Asked(built, wrong)
