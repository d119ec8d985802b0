"""What code in the local sandbox sees of the file system, and how bubblewrap is started to show it.

A root host process first stages the interpreter: its files may lie where an unprivileged user cannot reach
(a home folder with mode 0700). An outer bubblewrap binds them, and only them, into a private mount namespace,
the user is dropped for good, and the inner bubblewrap starts as every other user's would.
"""

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from palestra.envs.sandbox.base import IsolationUnavailableError
from palestra.envs.sandbox.process import ENVIRONMENT

UNPRIVILEGED_ID = 65534
"""User and group (`nobody`) that the code runs as: inside always, outside too if the host process is root."""
PYTHON = "/opt/python/bin/python"
SOURCE = "/tmp/main.py"
_HOME = "/opt/python"
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}{sys.abiflags}"

_Mount = tuple[str, str]


def launcher(bwrap: str, tmp_bytes: int) -> list[str]:
    """Return the command line, up to the options of one execution, that shows the sandbox's file system.

    Args:
        bwrap: Path of bubblewrap.
        tmp_bytes: Size of /tmp.

    Raises:
        IsolationUnavailableError: The host process is root and cannot drop that.
    """
    mounts = [*_system_mounts(), *_python_mounts()]
    if os.geteuid() != 0:
        return [bwrap, *_inner(mounts, tmp_bytes)]
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise IsolationUnavailableError(
            "local",
            "the host process is root and setpriv was not found",
            "Install util-linux, or do not run as root",
        )
    drop = ["--reuid", str(UNPRIVILEGED_ID), "--regid", str(UNPRIVILEGED_ID), "--clear-groups"]
    return [
        *(bwrap, "--die-with-parent", *_parents(mounts)),
        *("--perms", "1777", "--tmpfs", "/tmp", "--bind", "/proc", "/proc", "--dev-bind", "/dev", "/dev"),
        *_read_only(mounts),
        *_read_only([(bwrap, "/opt/bwrap"), (os.path.realpath(setpriv), "/opt/setpriv")]),
        *("--", "/opt/setpriv", *drop, "--inh-caps=-all", "--bounding-set=-all", "/opt/bwrap"),
        *_inner([(inside, inside) for _, inside in mounts], tmp_bytes),
    ]


def _inner(mounts: Iterable[_Mount], tmp_bytes: int) -> list[str]:
    environment = {
        "PATH": f"{_HOME}/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        **ENVIRONMENT,
        "LD_LIBRARY_PATH": f"{_HOME}/lib",
        "MALLOC_ARENA_MAX": "2",  # every arena reserves 64 MiB of the address space that is limited
    }
    return [
        *("--unshare-user", "--unshare-all", "--uid", str(UNPRIVILEGED_ID), "--gid", str(UNPRIVILEGED_ID)),
        *("--cap-drop", "ALL", "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox"),
        *("--clearenv", *(part for item in environment.items() for part in ("--setenv", *item))),
        *_parents(mounts),
        *("--dir", "/etc"),
        *_read_only(mounts),
        *(part for folder in _third_party() for part in ("--tmpfs", folder, "--remount-ro", folder)),
        *("--tmpfs", "/dev"),
        *(part for name in ("null", "zero", "full", "urandom", "random") for part in _device(name)),
        *("--remount-ro", "/dev", "--size", str(tmp_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"),
        *("--remount-ro", "/"),
    ]


def _parents(mounts: Iterable[_Mount]) -> list[str]:
    # Parents that bubblewrap makes by itself would be closed to the user that we drop to.
    folders = {str(parent) for _, inside in mounts for parent in Path(inside).parents} - {"/"}
    return [part for folder in sorted(folders) for part in ("--perms", "0755", "--dir", folder)]


def _read_only(mounts: Iterable[_Mount]) -> list[str]:
    arguments = []
    for outside, inside in mounts:
        if os.path.islink(inside) and outside == inside:
            arguments += ["--symlink", os.readlink(inside), inside]
        else:
            arguments += ["--ro-bind", outside, inside]
    return arguments


def _device(name: str) -> list[str]:
    return ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]


def _system_mounts() -> list[_Mount]:
    """The loader and the shared libraries; /lib and /lib64 are links on most systems."""
    return [(path, path) for path in ("/usr/lib", "/usr/lib64", "/lib", "/lib64") if os.path.isdir(path)]


def _python_mounts() -> list[_Mount]:
    """The interpreter that runs the host process, without its third-party packages."""
    prefix = Path(sys.base_prefix)
    binary = (prefix / "bin" / _VERSION).resolve()
    if not binary.is_file():
        reason = f"no interpreter was found at {binary}"
        raise IsolationUnavailableError("local", reason, "Use a regular Python")
    folders = [(str(prefix / name), f"{_HOME}/{name}") for name in _library_folders()]
    return [(str(binary), PYTHON), *folders]


def _library_folders() -> list[str]:
    names = dict.fromkeys(("lib", sys.platlibdir))
    return [name for name in names if Path(sys.base_prefix, name).is_dir()]


def _third_party() -> list[str]:
    """Folders of installed packages, which are to look empty."""
    places = [f"{lib}/{_VERSION}/site-packages" for lib in _library_folders()] + ["lib/python3/dist-packages"]
    return [f"{_HOME}/{place}" for place in places if Path(sys.base_prefix, place).is_dir()]
