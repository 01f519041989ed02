"""A framework's groups in a world that exists, whoever has formed it."""

from __future__ import annotations

import os

from distwatch.agent.core import Agent
from distwatch.agent.initialization.environment import Launched
from distwatch.agent.initialization.framework_addition import FrameworkAddition
from distwatch.agent.initialization.library import Layout
from distwatch.agent.initialization.steps import Deadlines
from distwatch.integrations.builders import Builder
from distwatch.integrations.torch_library import TorchLibrary
from distwatch.state.events import InitPlanned
from distwatch.state.identity import identify
from distwatch.visible_text import say

_added = 0
"""How many additions of this process, like of every other rank, have succeeded."""


def add_groups(
    plan: InitPlanned, builder: Builder, limits: Deadlines, agent: Agent | None, formed: int
) -> Layout:
    """Builds the groups together with the other ranks; a failure destroys what was built.

    Args:
        formed: how many worlds this process has formed; part of our keys.

    Raises:
        AlreadyInitialized: the job itself has built them, with other sizes.
        InitFailed: the ranks ask for different groups, or the framework's own error.
        InitTimeout: a rank did not come, or did not enter the creation of a group.
    """
    global _added
    builder.prepare()
    if (held := builder.held()) is not None:
        return held
    launched = _place_of_world()
    if launched is None:
        return builder.build(plan)  # only the hooks on torch see it
    prefix = f"distwatch/{launched.attempt}/{formed}/added/{_added}"
    library = TorchLibrary(None, builder)
    addition = FrameworkAddition(launched, plan, limits, library, agent, prefix)
    # Hooks leave the deadlines of what happens inside to us.
    if agent is not None:
        agent.is_initializing = True
    try:
        layout = addition.run()
    except BaseException:
        _undo_quietly(builder)
        raise
    finally:
        if agent is not None:
            agent.is_initializing = False
    _added += 1
    return layout


def _place_of_world() -> Launched | None:
    """Where the ranks of torch's default group can meet; None for a store that only torch can use."""
    import torch.distributed as dist

    store = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    if isinstance(store, dist.TCPStore):
        method, endpoint = "tcp", f"{store.host}:{store.port}"
    elif isinstance(store, dist.FileStore):
        method, endpoint = "file", str(store.path)
    elif dist.get_world_size() == 1:
        method, endpoint = "alone", ""
    else:
        return None
    identity = identify(os.environ)
    by_agent = identity.agent_store
    return Launched(
        global_rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        local_world_size=identity.local_world_size,
        method=method,
        endpoint=endpoint,
        hosts_store=method == "tcp" and dist.get_rank() == 0 and not by_agent,
        store_host="torchrun's agent" if by_agent else "rank 0",
        attempt=identity.restart,
    )


def _undo_quietly(builder: Builder) -> None:
    # The reason is already being raised.
    try:
        builder.undo()
    except Exception as error:
        say(f"could not destroy the groups of the failed addition: {error}")
