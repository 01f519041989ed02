"""Model loads in the report: a load's status, with free text redacted."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec.structs import asdict, replace

from distwatch.diagnosis.facts.job import Job
from distwatch.diagnosis.facts.loads import LoadStatus, loads_of
from distwatch.redaction import redact_text
from distwatch.state.loads import Outstanding, Placement
from distwatch.state.model import RunState

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


class Waits(Outstanding, frozen=True, kw_only=True, omit_defaults=False):
    """What a thread of a load waits for, and for how long."""

    waited_s: float


class Model(LoadStatus, frozen=True, kw_only=True):
    """One load of one rank. In `arguments` and `placement`, absent values are empty."""

    outstanding: tuple[Waits, ...] = ()
    model: str
    """The checkpoint, as requested."""


def build_models(state: RunState, job: Job | None = None) -> list[Model]:
    """Every load of every rank."""
    return [_model(load) for load in loads_of(state, job)]


def _model(load: LoadStatus) -> Model:
    told = {
        "arguments": redacted(
            load.arguments, "checkpoint", "offload_folder", "parallel_plan", "quantization"
        ),
        "phases": tuple(
            replace(
                phase,
                began_s=round(phase.began_s, 3),
                ended_s=None if phase.ended_s is None else round(phase.ended_s, 3),
                error=_redacted(phase.error),
            )
            for phase in load.phases
        ),
        "took_s": round(load.took_s, 3),
        "still_s": round(load.still_s, 3),
        "error": _redacted(load.error),
        "phase": "done" if load.ended else load.phase or load.call,
        "file": redact_text(load.file),
        "outstanding": tuple(_waits(load, one) for one in load.outstanding),
        "placement": load.placement and _placement(load.placement),
    }
    fields = {name: getattr(load, name) for name in load.__struct_fields__}
    return Model(**{**fields, **told}, model=redact_text(load.arguments.checkpoint))


def _redacted(text: str | None) -> str | None:
    return None if text is None else redact_text(text)


def redacted(struct: _Struct, *names: str) -> _Struct:
    """A copy of a struct in which the texts of these fields are redacted."""
    return replace(struct, **{name: redact_text(getattr(struct, name)) for name in names})


def _waits(load: LoadStatus, one: Outstanding) -> Waits:
    told = asdict(redacted(one, "what", "last_error"))
    return Waits(**told, waited_s=round(load.waited_s(one), 3))


def _placement(placement: Placement) -> Placement:
    # Notes are distwatch's own text, and redaction would take "token: …" in one for a secret.
    return replace(placement, offload_places=tuple(map(redact_text, placement.offload_places)))
