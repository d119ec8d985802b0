"""The parent's side of a worker process: start it, give it a job, and say what became of one that died."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\w+)')
_SHOWN = 300


class WorkerDiedError(Exception):
    """A worker ended in the middle of a job."""

    def __init__(self, doing: str, reason: str) -> None:
        super().__init__(reason)
        self.doing = doing
        """The check that was running."""


class Worker:
    """A process with a hash seed of its own, started by its first job and again after it died."""

    def __init__(self, hash_seed: int) -> None:
        self._hash_seed = hash_seed
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")

    def do(self, job: Mapping[str, Any], on_event: Callable[[str], None]) -> dict[str, Any]:
        """Do a job and return its result.

        Raises:
            WorkerDiedError: The process ended.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        doing = job["kind"]
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise WorkerDiedError(doing, self._post_mortem(process)) from None
        for line in process.stdout:
            event = json.loads(line)
            if "result" in event:
                result: dict[str, Any] = event["result"]
                if result.get("ends"):
                    self._bury(process)
                return result
            doing = event["doing"].split()[0]
            on_event(event["doing"])
        raise WorkerDiedError(doing, self._post_mortem(process))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self._log.close()

    def _start(self) -> "subprocess.Popen[str]":
        paths = [os.path.abspath(path) for path in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "palestra.envs.checks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONHASHSEED": str(self._hash_seed), "PYTHONPATH": os.pathsep.join(paths)},
        )
        return self._process

    def _bury(self, process: "subprocess.Popen[str]") -> None:
        process.communicate()
        self._process = None

    def _post_mortem(self, process: "subprocess.Popen[str]") -> str:
        self._bury(process)
        self._log.seek(0)
        log = self._log.read()
        self._log.seek(0)
        self._log.truncate()
        if process.returncode == -signal.SIGPROF:  # of `TimeLimits`
            frame = _FRAME.search(log, max(0, log.rfind("(most recent call first)")))
            where = f" in {frame[3]} ({frame[1]}:{frame[2]})" if frame else ""
            return f"a call does not return and cannot be interrupted{where}; bound the work that a turn can ask for."
        last = " ".join(log.strip().splitlines()[-1:])[-_SHOWN:]
        said = f" ({last})" if last else ""
        return f"the process ended with code {process.returncode}{said}; an environment must not end its process."
