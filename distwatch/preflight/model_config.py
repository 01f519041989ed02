"""A model's facts from its Hugging Face configuration on this machine. Never asks the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from distwatch.errors import PlanInvalid
from distwatch.foreign_files import read_named
from distwatch.preflight.model_fit import Model
from distwatch.preflight.plan_keys import FACTS

_INNER = ("text_config", "llm_config", "language_config")
"""Where multimodal models keep their language model."""
_LARGEST_BYTES = 4 << 20


def read_model(path: str) -> Model:
    """The facts of a `config.json`, or of the folder that holds one. A fact that it does not state is None.

    Raises:
        PlanInvalid: there is none, or it is not a configuration.
    """
    file = os.path.join(path, "config.json") if os.path.isdir(path) else path
    try:
        config = msgspec.json.decode(read_named(file, _LARGEST_BYTES))
    except OSError as error:
        why = f"{file}: {error.strerror}" if error.strerror else str(error)
        raise PlanInvalid(why, advice=_NAME_ONE) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise PlanInvalid(f"{file} is not JSON: {error}", advice=_NAME_ONE) from None
    if not isinstance(config, dict):
        raise PlanInvalid(f"{file} is not a model configuration", advice=_NAME_ONE)
    return facts_of(config)


_NAME_ONE = "Name a local folder with the model's config.json, or write its facts into the plan."


def facts_of(config: Mapping[str, Any]) -> Model:
    """The facts that a configuration states, in its own part or in its language model's."""
    parts = [config, *(part for name in _INNER if isinstance(part := config.get(name), dict))]
    facts: dict[str, Any] = {}
    for fact, names in FACTS.items():
        said = (part.get(name) for part in parts for name in names)
        # A dense model states 0 experts.
        values = [one for one in said if isinstance(one, int) and one and one is not True]
        if values:
            facts[fact] = values[0]
    return Model(**facts)
