"""Distwatch as one file, for a host where it is not installed: the observer, what it imports, and py-spy.

The file is a zipapp that unpacks itself, since compiled modules cannot be imported from an archive.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import zipfile
from collections.abc import Iterator

from distwatch.foreign_files import read_named
from distwatch.probes.stacks import find_py_spy

READY = "distwatch-ready"
LOADER = (
    "import atexit,os,runpy,shutil,sys,tempfile;h=tempfile.mkdtemp(prefix='distwatch-');"
    "atexit.register(shutil.rmtree,h,True);"
    f"print('{READY}',flush=True);b=sys.stdin.buffer;p=h+'/distwatch.pyz';"
    "open(p,'wb').write(b.read(int(b.readline())));sys.argv[0]=p;runpy.run_path(p,run_name='__main__')"
)
"""Puts the archive that it reads from stdin into a folder of its own, runs it, and removes the folder."""
PY_SPY = "bin/py-spy"
BROUGHT = "DISTWATCH_BROUGHT_ALONG"
"""In the environment of a keeper that came in such a parcel: the folder where parcels are unpacked."""
_PACKAGES = ("distwatch", "msgspec", "psutil", "jinja2", "markupsafe", "pynvml", "zmq")
_LIBRARIES = "pyzmq.libs"
"""Beside the packages, where pyzmq's wheel has ZeroMQ itself."""
_LEFT_OUT = ("__pycache__", "tui", "demo", "web", "cli", "tests")
_FILE_MOST = 64 << 20
_MAIN = f"""
import os, sys, zipfile
archive = sys.argv[0]
home = os.path.dirname(os.path.abspath(archive))
with zipfile.ZipFile(archive) as parcel:
    parcel.extractall(home)
os.unlink(archive)
spy = os.path.join(home, "bin", "py-spy")
if os.path.exists(spy):
    os.chmod(spy, 0o700)
sys.path[0] = home
os.environ["PATH"] = os.path.dirname(spy) + os.pathsep + os.environ.get("PATH", os.defpath)
os.environ["DISTWATCH_DIR"] = os.path.join(home, "runs")
os.environ["{BROUGHT}"] = os.path.dirname(home)
from distwatch.observer.cluster.host_keeper import main
sys.exit(main())
"""


@functools.cache
def pack() -> bytes:
    """The archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as parcel:
        parcel.writestr("__main__.py", _MAIN)
        for name, path in _files():
            parcel.writestr(name, read_named(path, _FILE_MOST))
        if (spy := find_py_spy()) is not None:
            parcel.writestr(PY_SPY, read_named(spy, _FILE_MOST))
    return buffer.getvalue()


def _files() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        if not spec.submodule_search_locations:
            yield os.path.basename(spec.origin), spec.origin
            continue
        top = os.path.dirname(spec.origin)
        libraries = os.path.join(os.path.dirname(top), _LIBRARIES)
        if package == "zmq" and os.path.isdir(libraries):
            for name in os.listdir(libraries):
                yield os.path.join(_LIBRARIES, name), os.path.join(libraries, name)
        for folder, below, files in os.walk(top):
            below[:] = [name for name in below if name not in _LEFT_OUT]
            for name in files:
                path = os.path.join(folder, name)
                yield os.path.join(package, os.path.relpath(path, top)), path
