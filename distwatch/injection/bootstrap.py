"""Runs inside the job, in a thread of its own: loads distwatch there, and says how that went.

Python compiles this file's text in the job, so it is written for every Python 3 that may be found there;
imports of distwatch come after that is checked. `REQUEST` is given by `injection.request`.
"""

import os
import sys

REQUEST = globals().get("REQUEST", {})


def begin() -> None:
    """Takes up the request in a thread of its own, unless it has been withdrawn meanwhile."""
    import threading

    try:
        # Whoever asks may have given up long ago: this thread may have waited for the GIL for hours.
        os.rename(REQUEST["path"], REQUEST["path"] + ".taken")
    except OSError:
        return
    threading.Thread(target=_answer, name="distwatch start", daemon=True).start()


def _answer() -> None:
    import atexit
    import threading

    over = threading.Event()

    def wait_for_end() -> None:
        over.wait(2.0)

    # A thread that is inside torch's C++ when the interpreter ends would abort the process.
    atexit.register(wait_for_end)
    try:
        said = _bring_in()
    except BaseException as error:
        said = f"failed {type(error).__name__}: {error}"
    finally:
        over.set()
        atexit.unregister(wait_for_end)
    answer = REQUEST["path"] + ".taken"
    descriptor = os.open(answer, os.O_WRONLY | os.O_NOFOLLOW)
    os.write(descriptor, said.encode("utf-8", "replace")[:2000] + b"\n")
    os.close(descriptor)


def _bring_in() -> str:
    if sys.version_info < (3, 10):  # noqa: UP036 - a job may have any
        return "failed this is Python {}.{}, and distwatch needs 3.10".format(*sys.version_info[:2])
    placed = [name for name in ("msgspec", "distwatch") if _place(name)]
    from distwatch.settings import choose_environment

    core = sys.modules.get("distwatch.agent.core")
    if core is not None and core.current() is not None:
        return f"failed distwatch runs in it already: its run is {core.current().folder.path}"
    # Who attaches knows that it hangs: what does not move for some seconds is told to be a hang.
    choose_environment({**_environment(), "DISTWATCH_DEADLINES": REQUEST["deadlines"]})
    try:
        _start(placed)
    except BaseException:
        _leave(placed)
        raise
    return "ok"


def _environment() -> dict:  # type: ignore[type-arg]
    chosen = {"DISTWATCH": "1", "DISTWATCH_OBSERVER": "off", "DISTWATCH_ON_HANG": "report"}
    return {**os.environ, **chosen, **REQUEST["environment"]}


def _stay() -> None:
    """Nobody is attached any more: the usual deadlines hold."""
    from distwatch.agent.core import current
    from distwatch.settings import choose_environment, read_settings

    choose_environment(_environment())
    agent = current()
    if agent is not None:
        agent.use_settings(read_settings())


def _start(placed: list) -> None:  # type: ignore[type-arg]
    from distwatch.agent.entry import enter_chosen_run
    from distwatch.runfolder import RunFolder

    enter_chosen_run(RunFolder(REQUEST["folder"]), REQUEST["role"], os.environ)
    from distwatch import auto
    from distwatch.integrations.registry import arm, running_agent
    from distwatch.settings import read_settings

    auto.activate()
    arm(read_settings())
    agent = running_agent()
    if agent is None:
        raise OSError("its agent could not start; the job's output says why")
    pid, ticks = REQUEST["asker"]
    agent.accompany(pid, ticks, _stay if REQUEST["for_good"] else lambda: _leave(placed))
    agent.dump("distwatch was brought in")
    agent.beat()


def _leave(placed: list) -> None:  # type: ignore[type-arg]
    """Undoes everything: the hooks, the agent, and what was put into `sys.modules`."""
    from distwatch import auto
    from distwatch.agent.entry import leave_run
    from distwatch.settings import choose_environment

    auto.deactivate()
    leave_run()
    choose_environment(None)
    for name in list(sys.modules):
        if name.partition(".")[0] == "distwatch" and "distwatch" in placed:
            del sys.modules[name]


def _place(name: str) -> bool:
    """Makes a package of ours importable, without a change of the job's own search path."""
    import importlib.machinery
    import importlib.util

    if name in sys.modules or (name != "distwatch" and importlib.util.find_spec(name) is not None):
        return False
    folder = REQUEST["packages"][name]
    core = os.path.join(folder, "_core")
    if name == "msgspec" and not any(
        os.path.exists(core + ending) for ending in importlib.machinery.EXTENSION_SUFFIXES
    ):
        raise ImportError(
            "its Python {}.{} has no msgspec, and distwatch's own is for another Python: install msgspec "
            "there, or run distwatch with that Python".format(*sys.version_info[:2])
        )
    start = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=[folder])
    if spec is None or spec.loader is None:
        raise ImportError("distwatch's files are not readable there: " + start)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return True


if REQUEST:
    begin()
