"""The one process per host in which reasoning-gym runs, as its callers see it: `item` and `score`.

Started by the first request, ended with the host, replaced when it dies; safe to use from several threads and after a
fork. See `reasoning_gym_worker.py` for why it is a process of its own.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

_MODULE = "palestra.envs.adapters.reasoning_gym_worker"
_SETTINGS = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Question:
    """An item as the host needs it; the entry stays in the process."""

    question: str
    answer: str
    key: str


class Worker:
    """A process that answers requests, one at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the reply, or None if the request took longer than it may or killed the process twice.

        Raises:
            RuntimeError: The process reports an error.
        """
        line = json.dumps(request) + "\n"
        with self._lock:
            for _ in range(2):
                process = self._running()
                reply = ""
                try:
                    assert process.stdin is not None
                    assert process.stdout is not None
                    process.stdin.write(line)
                    process.stdin.flush()
                    reply = process.stdout.readline()
                except BrokenPipeError:
                    pass
                except BaseException:  # an interrupt: the reply would be taken for that to the next request
                    self._end()
                    raise
                if reply.endswith("\n"):
                    answer: dict[str, Any] = json.loads(reply)
                    if "error" in answer:
                        raise RuntimeError(f"reasoning-gym, task {request['task']}: {answer['error']}")
                    return answer
                self._end()
                if process.returncode == -signal.SIGPROF:  # its own timer: a second try would end the same way
                    return None
        return None

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._owner != os.getpid():  # forked: the process is the parent's
            _close_pipes(self._process)
            self._process.returncode = 0  # nothing to wait for here
            self._process = None
        if self._process is None:
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env={**os.environ, **_SETTINGS, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            _close_pipes(process)


def _close_pipes(process: "subprocess.Popen[str]") -> None:
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        try:
            pipe.close()
        except BrokenPipeError:
            pass


WORKER = Worker()
atexit.register(WORKER.close)


@lru_cache(maxsize=2_000)  # the members of a GRPO group are resets of one task
def item(task: str, config: str, seed: int) -> Question:
    """Make the item of a seed; `config` is a JSON object.

    Raises:
        RuntimeError: The task's generator fails or takes too long.
    """
    reply = WORKER.ask({"task": task, "config": config, "seed": seed})
    if reply is None:
        raise RuntimeError(f"reasoning-gym, task {task}: its generator takes too long for seed {seed}")
    return Question(**reply)


def score(task: str, config: str, seed: int, answer: str) -> float:
    """Score an answer to the item of a seed in [0, 1]; an answer that the scorer does not survive earns nothing."""
    reply = WORKER.ask({"task": task, "config": config, "seed": seed, "answer": answer})
    return 0.0 if reply is None else float(reply["score"])
