"""Activates distwatch from a source tree, which has no .pth: `distwatch run` puts this on PYTHONPATH."""

import importlib.machinery
import importlib.util
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))
if os.environ.get("DISTWATCH") == "1":
    # Last on the path: the source tree must shadow nothing of the job's.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(_here))))
    try:
        import distwatch.auto  # noqa: F401
    except Exception as error:
        print("distwatch: not active here:", error, file=sys.stderr)

# Python runs only the first sitecustomize: the next one on the path is run here.
_others = [path for path in sys.path if os.path.abspath(path) != _here]
_spec = importlib.machinery.PathFinder.find_spec("sitecustomize", _others)
if _spec is not None and _spec.loader is not None:
    _spec.loader.exec_module(importlib.util.module_from_spec(_spec))
