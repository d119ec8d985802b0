"""The ways of running code that `bench/sandbox.py` compares; each opens to a call that returns what was printed."""

import importlib.util
import io
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from palestra.envs.sandbox import Limits, open_sandbox, seccomp
from palestra.envs.sandbox.containers import IMAGE, connect, container_options

CODE = "print(6 * 7)"
PRINTED = "42\n"
BUBBLEWRAP, DOCKER_EXEC = "bubblewrap one-shot", "docker exec"
DOCKER_EXEC_LOADED = "docker exec + numpy, sympy"
LOCAL, DOCKER = "palestra local one-shot", "palestra docker one-shot"
_IMPORTS = f"import numpy, sympy; {CODE}"
_WAIT = """\
import contextlib, os, signal, sys
with contextlib.suppress(OSError):  # llm-sandbox calls `python`, which an image may not have
    os.symlink(sys.executable, os.path.join(os.path.dirname(sys.executable), "python"))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
signal.sigwait({signal.SIGTERM})
"""
_CALL_LIMIT_S = 60.0

Call = Callable[[], str]
_T = TypeVar("_T")


class UnavailableError(Exception):
    """Something that a mode needs is not installed here."""


@dataclass(frozen=True)
class Mode:
    """One way of running code."""

    name: str
    isolation: str
    """What stands between the code and the machine."""
    open: Callable[[], AbstractContextManager[Call]]
    """Gets everything ready that is not counted; the call may come from several threads."""
    at_once: int | None = None
    """Calls at once that it can take at all; None: any number."""


@contextmanager
def _shared(make: Callable[[], AbstractContextManager[_T]], use: Callable[[_T], str]) -> Iterator[Call]:
    """Give every call something of its own that was used before, or a new one."""
    free: queue.SimpleQueue[_T] = queue.SimpleQueue()
    with ExitStack() as stack:

        def call() -> str:
            try:
                item = free.get_nowait()
            except queue.Empty:
                item = stack.enter_context(make())
            try:
                return use(item)
            finally:
                free.put(item)

        yield call


@contextmanager
def _subprocess(code: str) -> Iterator[Call]:
    command = [sys.executable, "-I", "-c", code]
    yield lambda: subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout


@contextmanager
def _bubblewrap() -> Iterator[Call]:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise UnavailableError("bubblewrap is not installed")
    shown = dict.fromkeys(("/usr", "/lib", "/lib64", "/bin", sys.base_prefix, sys.prefix))
    mounts = [("--ro-bind-try", path, path) for path in shown]
    with tempfile.TemporaryFile() as filters:
        filters.write(seccomp.build(fork=True))
        filters.flush()
        command = [
            *(bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
            *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp"),
            *(part for mount in mounts for part in mount),  # last, because an environment may be in /tmp
            *("--seccomp", "{}", "--", sys.executable, "-I", "-c", CODE),
        ]

        def call() -> str:
            # A description of its own for each call: bubblewrap reads it from where it stands.
            with open(f"/proc/self/fd/{filters.fileno()}", "rb") as program:
                number = program.fileno()
                arguments = [str(number) if part == "{}" else part for part in command]
                done = subprocess.run(arguments, capture_output=True, check=True, encoding="utf-8", pass_fds=[number])
            return done.stdout

        yield call


@contextmanager
def _one_shot(backend: str) -> Iterator[Call]:
    with open_sandbox(backend) as sandbox:
        yield lambda: sandbox.run(CODE, timeout=_CALL_LIMIT_S).stdout


@contextmanager
def _cells(backend: str) -> Iterator[Call]:
    with (
        open_sandbox(backend) as sandbox,
        _shared(sandbox.session, lambda session: session.run(CODE, timeout=_CALL_LIMIT_S).stdout) as call,
    ):
        yield call


@contextmanager
def _sessions(backend: str) -> Iterator[Call]:
    with open_sandbox(backend) as sandbox:

        def call() -> str:
            with sandbox.session() as session:
                return session.run(CODE, timeout=_CALL_LIMIT_S).stdout

        yield call


@contextmanager
def _docker_exec(code: str) -> Iterator[Call]:
    from docker.client import DockerClient

    connect().close()  # says what is missing
    options = container_options(Limits())
    client = DockerClient.from_env(max_pool_size=64)  # it fails with more threads than connections
    container = client.containers.create(command=["-c", _WAIT], **options)
    try:
        container.start()

        def call() -> str:
            return str(container.exec_run(["python3", "-I", "-c", code]).output, "utf-8")

        yield call
    finally:
        container.remove(force=True)
        client.close()


@contextmanager
def _llm_sandbox() -> Iterator[Call]:
    _need("llm_sandbox", "llm-sandbox[docker]")
    from docker.client import DockerClient
    from llm_sandbox.docker import SandboxDockerSession

    connect().close()
    client = DockerClient.from_env()
    # As it comes, but for what a daemon without network and registry cannot give: pip inside, and its own image.
    # A read-only root is not possible, because it copies every program into the container.
    session = SandboxDockerSession(
        client=client,
        image=IMAGE,
        lang="python",
        workdir="/tmp",
        skip_environment_setup=True,
        runtime_configs={"network_mode": "none", "entrypoint": ["python3", "-c", _WAIT]},
    )
    try:
        session.open()
        yield lambda: str(session.run(CODE).stdout)
    finally:
        session.close()
        client.close()


@contextmanager
def _smolagents() -> Iterator[Call]:
    _need("smolagents", "smolagents")
    from smolagents.local_python_executor import LocalPythonExecutor

    @contextmanager
    def executor() -> Iterator[Any]:
        made = LocalPythonExecutor(additional_authorized_imports=["numpy", "sympy"])
        made.send_tools({})
        yield made

    with _shared(executor, lambda made: str(made(CODE).logs)) as call:
        yield call


@contextmanager
def _jupyter() -> Iterator[Call]:
    _need("ipykernel", "ipykernel")
    _need("jupyter_client", "jupyter_client")
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:

        def call() -> str:
            said = io.StringIO()
            with redirect_stdout(said):  # what it shows of the kernel's output goes through here
                client.execute_interactive(CODE, timeout=_CALL_LIMIT_S)
            return said.getvalue()

        yield call
    finally:
        client.stop_channels()
        with suppress(RuntimeError):
            manager.shutdown_kernel(now=True)


def _need(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UnavailableError(f"not installed; pip install '{package}'")


MODES = (
    Mode("subprocess", "none", lambda: _subprocess(CODE)),
    Mode("subprocess + numpy, sympy", "none", lambda: _subprocess(_IMPORTS)),
    Mode(BUBBLEWRAP, "namespaces, seccomp", _bubblewrap),
    Mode(LOCAL, "namespaces, seccomp, limits; numpy, sympy loaded", lambda: _one_shot("local")),
    Mode("palestra local cell", "the same, kept in a session", lambda: _cells("local")),
    Mode("palestra local session", "the same: open, one cell, close", lambda: _sessions("local")),
    Mode(DOCKER_EXEC, "warm container, hardened as ours", lambda: _docker_exec(CODE)),
    Mode(DOCKER_EXEC_LOADED, "the same, with what ours has loaded", lambda: _docker_exec(_IMPORTS), at_once=8),
    Mode(DOCKER, "warm container, hardened; numpy, sympy loaded", lambda: _one_shot("docker")),
    Mode("palestra docker cell", "the same, kept in a session", lambda: _cells("docker"), at_once=8),
    # Its docker client fails with 64 threads.
    Mode("llm-sandbox (docker)", "warm container, root inside, no network", _llm_sandbox, at_once=8),
    Mode("smolagents local", "none: an interpreter in this process", _smolagents),
    Mode("jupyter kernel", "none: a process with your rights", _jupyter, at_once=1),
)
