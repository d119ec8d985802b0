"""Trying a backend out: does it work here, what does it enforce, and how long does it take."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from palestra.envs.errors import PalestraError
from palestra.envs.sandbox import Sandbox, open_sandbox
from palestra.envs.sandbox.base import ExecResult, SandboxError

RUNS = 20
CELLS = 50
_WARM_UP = 3
_PROGRAM = "print(6 * 7)"
_ANSWER = "42\n"


@dataclass(frozen=True, slots=True)
class Latency:
    """What a caller waits, measured one call after the other."""

    first_s: float
    """From opening the sandbox to the first result."""
    run_median_ms: float
    """One-shot execution."""
    run_p95_ms: float
    cell_median_ms: float
    """Cell of a session."""


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found out about a backend."""

    sandbox: str
    problem: str | None
    """Why it does not work here, and what to do about that; None if it works."""
    enforced: dict[str, str] = field(default_factory=dict)
    """What it describes itself to enforce."""
    latency: Latency | None = None


def examine(name: str) -> Checkup:
    """Open a backend, run trivial programs in it, and close it again. Never raises: a failure is a finding."""
    try:
        start = time.perf_counter()
        with open_sandbox(name) as sandbox:
            _check(sandbox.run(_PROGRAM))
            first = time.perf_counter() - start
            return Checkup(name, None, sandbox.describe(), _measure(sandbox, first))
    except PalestraError as error:
        return Checkup(name, str(error))
    except Exception as error:  # a backend that breaks in an unforeseen way must not hide the others
        return Checkup(name, f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:500]}")


def _measure(sandbox: Sandbox, first: float) -> Latency:
    runs = _times(lambda: sandbox.run(_PROGRAM), RUNS)
    with sandbox.session() as session:
        session.run("six = 6")
        cells = _times(lambda: session.run("print(six * 7)"), CELLS)
    return Latency(first, median(runs), sorted(runs)[-(RUNS // 20) - 1], median(cells))


def _times(call: Callable[[], ExecResult], count: int) -> list[float]:
    """Return the milliseconds of `count` calls after a warm-up."""
    for _ in range(_WARM_UP):
        _check(call())
    times = []
    for _ in range(count):
        start = time.perf_counter()
        result = call()
        times.append((time.perf_counter() - start) * 1000)
        _check(result)
    return times


def _check(result: ExecResult) -> None:
    if (result.status, result.stdout) != ("ok", _ANSWER):
        said = (result.stdout + result.stderr).strip()[-300:]
        raise SandboxError(f"it ended '{_PROGRAM}' with '{result.status}' and {said!r}; report this as a bug")
