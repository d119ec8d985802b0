"""What the zygote of the local sandbox sees of the file system, and how bubblewrap is started to show it.

A root host process gives up root before bubblewrap starts. An unprivileged user may not be able to reach the
interpreter (a home folder with mode 0700), so its files, and only what bubblewrap needs besides, are first
bound into a mount namespace of their own; every zygote enters it, drops the user for good, and goes on as it
would for any other user. bubblewrap stays a direct child of the host process: a dying parent may kill its
child only if it has the right to, which an intermediate root process without capabilities has not.
"""

import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from palestra.envs.sandbox.base import IsolationUnavailableError, SandboxError

UNPRIVILEGED_ID = 65534
"""User and group (`nobody`) that the code runs as: inside always, outside too if the host process is root."""
PYTHON = "/opt/python/bin/python"
SITE = "/opt/site"
"""Where the third-party packages are that the code may import."""
DEVICES = ("null", "zero", "full", "urandom", "random")
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the order of sets shows in what programs print, and episodes must repeat exactly
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # every arena reserves 64 MiB of the address space that is limited
}
_HOME = "/opt/python"
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}{sys.abiflags}"
_HOLD = "import os; os.write(1, b'%d\\n' % os.getpid()); os.read(0, 1)"

_Mount = tuple[str, str]


class Launcher:
    """Knows the command line, up to what is to run, that shows the sandbox's file system."""

    def __init__(self, bwrap: str, packages: Iterable[str]) -> None:
        """Prepare, for root by staging the interpreter.

        Args:
            bwrap: Path of bubblewrap.
            packages: Names of installed distributions that are to be seen, where they are installed.

        Raises:
            IsolationUnavailableError: The host process is root and cannot drop that.
            SandboxError: bubblewrap failed at staging.
        """
        mounts = [*_system_mounts(), *_python_mounts(), *_package_mounts(packages)]
        self._namespace: int | None = None
        self._release: Callable[[], object] = _nothing
        if os.geteuid() != 0:
            self._command = [bwrap, *_inner(mounts)]
            return
        setpriv, self._nsenter = _tool("setpriv"), _tool("nsenter")
        self._namespace = _stage(bwrap, [*mounts, (bwrap, "/opt/bwrap"), (setpriv, "/opt/setpriv")])
        # The kernel drops the namespace with its last descriptor, so nothing outlives even a killed process.
        self._release = weakref.finalize(self, os.close, self._namespace)
        drop = ["--reuid", str(UNPRIVILEGED_ID), "--regid", str(UNPRIVILEGED_ID), "--clear-groups"]
        self._command = [
            *("/opt/setpriv", *drop, "--inh-caps=-all", "--bounding-set=-all", "/opt/bwrap"),
            *_inner([(inside, inside) for _, inside in mounts]),
        ]

    def command(self) -> list[str]:
        """Return the command line; options and the command to run go behind it."""
        if self._namespace is None:
            return self._command
        # By way of our own /proc, so that no descriptor of the namespace is inherited by what runs in it.
        return [self._nsenter, f"--mount=/proc/{os.getpid()}/fd/{self._namespace}", "--", *self._command]

    def close(self) -> None:
        """Release what was staged; twice is fine."""
        self._release()


def _nothing() -> None:
    """Another user than root has nothing to release."""


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        remedy = "Install util-linux, or do not run as root"
        raise IsolationUnavailableError("local", f"the host process is root and {name} was not found", remedy)
    return os.path.realpath(path)


def _stage(bwrap: str, mounts: list[_Mount]) -> int:
    """Make a mount namespace that shows `mounts`; returns a descriptor that keeps it alive."""
    command = [
        *(bwrap, "--die-with-parent", *_parents(mounts), *_read_only(mounts)),
        *("--perms", "1777", "--tmpfs", "/tmp", "--bind", "/proc", "/proc", "--dev-bind", "/dev", "/dev"),
        *("--setenv", "LD_LIBRARY_PATH", f"{_HOME}/lib", "--", PYTHON, "-I", "-S", "-c", _HOLD),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}, cwd="/"
    ) as holder:
        assert holder.stdout
        assert holder.stderr
        pid = holder.stdout.readline()
        if not pid:
            reason = holder.stderr.read(2_000).decode("utf-8", "replace").strip()
            raise SandboxError(f"the interpreter could not be staged: {reason}")
        return os.open(f"/proc/{int(pid)}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _inner(mounts: Iterable[_Mount]) -> list[str]:
    environment = {"PATH": f"{_HOME}/bin", **ENVIRONMENT, "LD_LIBRARY_PATH": f"{_HOME}/lib"}
    return [
        *("--unshare-user", "--unshare-all", "--uid", str(UNPRIVILEGED_ID), "--gid", str(UNPRIVILEGED_ID)),
        # Over its own namespaces only, and the zygote's alone: every child gives it up.
        *("--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"),
        *("--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox"),
        *("--clearenv", *(part for item in environment.items() for part in ("--setenv", *item))),
        *_parents(mounts),
        *("--dir", "/etc"),
        *_read_only(mounts),
        *(part for folder in _third_party() for part in ("--tmpfs", folder, "--remount-ro", folder)),
        *("--tmpfs", "/dev"),
        *(part for name in DEVICES for part in _device(name)),
        # What asks for shared memory (the locks of multiprocessing) gets it in /tmp, which is limited.
        *("--symlink", "/tmp", "/dev/shm", "--remount-ro", "/dev"),
        *("--proc", "/proc", "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/"),
    ]


def _parents(mounts: Iterable[_Mount]) -> list[str]:
    # Parents that bubblewrap makes by itself would be closed to the user that we drop to.
    folders = {str(parent) for _, inside in mounts for parent in Path(inside).parents} - {"/"}
    return [part for folder in sorted(folders) for part in ("--perms", "0755", "--dir", folder)]


def _read_only(mounts: Iterable[_Mount]) -> list[str]:
    arguments = []
    for outside, inside in mounts:
        if outside == inside and os.path.islink(inside):
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


def _package_mounts(packages: Iterable[str]) -> list[_Mount]:
    mounts = []
    for package in packages:
        try:
            distribution = metadata.distribution(package)
        except metadata.PackageNotFoundError:
            continue
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}
        for top in sorted(tops):
            if not top.endswith(".dist-info") and top != "__pycache__":
                mounts.append((os.path.realpath(str(distribution.locate_file(top))), f"{SITE}/{top}"))
    return mounts


def _library_folders() -> list[str]:
    names = dict.fromkeys(("lib", sys.platlibdir))
    return [name for name in names if Path(sys.base_prefix, name).is_dir()]


def _third_party() -> list[str]:
    """Folders of installed packages, which are to look empty."""
    places = [f"{lib}/{_VERSION}/site-packages" for lib in _library_folders()] + ["lib/python3/dist-packages"]
    return [f"{_HOME}/{place}" for place in places if Path(sys.base_prefix, place).is_dir()]
