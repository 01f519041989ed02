"""Starts a run's observer on this node as a detached process. Ranks import this: keep it light."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from distwatch.runfolder import RunFolder

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME",
              "VIRTUAL_ENV", "TMPDIR", "XDG_RUNTIME_DIR", "DISTWATCH_DIR", "SYSTEMROOT",
              "DISTWATCH_OBSERVER", "DISTWATCH_RACK", "DISTWATCH_TOKEN", "DISTWATCH_HOST",
              "DISTWATCH_KEEP", "DISTWATCH_NOTIFY", "DISTWATCH_DRAIN", "HTTP_PROXY", "HTTPS_PROXY",
              "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
              "MASTER_ADDR")  # fmt: skip
_CODE = (
    "import sys; sys.path[:0] = sys.argv[2:3]; "
    "from distwatch.observer.__main__ import main; sys.exit(main(sys.argv[1:2]))"
)


def start_observer(folder: RunFolder, environ: Mapping[str, str]) -> None:
    """Starts an observer; if one is already running, the new one ends at once.

    Raises:
        OSError: the process cannot be started.
    """
    passed = {name: environ[name] for name in _PASSED_ON if name in environ}
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Through a shell that ends at once, so that the daemon is not this process's child: a job that
    # waits for any child must not get this one.
    subprocess.Popen(
        ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-c", _CODE, folder.path, home],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={**passed, "DISTWATCH": "0"},
        start_new_session=True,
    ).wait()
