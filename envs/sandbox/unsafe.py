"""The sandbox `unsafe-process`: no sandbox at all, an ordinary process with the same interface.

The code has every right of the user who runs it: files, network, other processes. For trying things out where
isolation cannot be had, and only with code that you would run yourself. It is never chosen for anyone.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.sandbox.base import DEFAULT_TIMEOUT_S, ExecResult, SandboxError
from palestra.envs.sandbox.process import (
    ENVIRONMENT,
    MAX_SOURCE_BYTES,
    Descriptors,
    Stream,
    Watch,
    encode_source,
    interpreter_arguments,
    too_long,
)


class UnsafeProcess:
    """Runs each piece of code in a process of its own, with a time and an output limit and nothing else."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            MissingPrerequisiteError: The machine does not run Linux.
        """
        if sys.platform != "linux":
            raise MissingPrerequisiteError("the sandbox 'unsafe-process' needs Linux")
        self._closed = False

    def run(self, code: str, *, stdin: str = "", timeout: float = DEFAULT_TIMEOUT_S) -> ExecResult:
        """Run `code` with your own rights; see `Sandbox.run`."""
        if self._closed:
            raise SandboxError("the sandbox is closed")
        if not (math.isfinite(timeout) and timeout > 0):
            raise ValueError(f"timeout must be a positive number of seconds, not {timeout}")
        source = encode_source(code)
        if len(source) > MAX_SOURCE_BYTES:
            return too_long()
        descriptors = Descriptors()
        try:
            with tempfile.TemporaryDirectory(prefix="palestra-") as folder:
                path = Path(folder, "main.py")
                path.write_bytes(source)
                return self._run(descriptors, path, stdin, timeout)
        except OSError as error:
            raise SandboxError(f"the process could not be started: {error}") from error
        finally:
            descriptors.close()

    def close(self) -> None:
        """Refuse later runs; nothing is kept between runs."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, descriptors: Descriptors, path: Path, stdin: str, timeout: float) -> ExecResult:
        reads, writes = zip(*(descriptors.pipe() for _ in range(3)), strict=True)
        stdout, stderr, ready = writes
        process = subprocess.Popen(
            [sys.executable, *interpreter_arguments(str(path), ready, {})],
            stdin=descriptors.sealed(encode_source(stdin)) if stdin else subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(ready,),
            env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | ENVIRONMENT,
            cwd=path.parent,
            start_new_session=True,
        )
        try:
            descriptors.close(*writes)
            streams = dict(zip(("stdout", "stderr", "ready"), map(Stream, reads), strict=True))
            pidfd = descriptors.own(os.pidfd_open(process.pid))
            watch = Watch(pidfd, streams, timeout=timeout, kill=lambda: _kill(process))
            watch.run()
            code = process.wait()
            return watch.result(code if code >= 0 else 128 - code)
        finally:
            _kill(process)
            process.wait()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
