"""Runs the checks of several environments in worker processes and gathers what they found.

Every variant is checked in one process and described again in another one with another hash seed; what differs depends
on the process. A worker that dies is a problem of the environment it was busy with, and is replaced.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any, NamedTuple

from palestra.envs.checks.base import Problem, Report, Settings
from palestra.envs.checks.episodes import first_difference
from palestra.envs.checks.workers import Worker, WorkerDiedError
from palestra.envs.registry import spec

HASH_SEEDS = (1, 2)


class Progress(NamedTuple):
    """How far the checks are."""

    done: int
    total: int
    text: str
    """What is being done."""


class _Lane(NamedTuple):
    first: Worker
    second: Worker


class _Unit(NamedTuple):
    env: str
    variants: tuple[str, ...]
    kind: str


def check(
    env_ids: Sequence[str],
    *,
    variants: Iterable[str] | None = None,
    settings: Settings | None = None,
    jobs: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[Report]:
    """Check environments.

    Args:
        env_ids: Registered environments; one that no entry point names must stand in a module that can be imported.
        variants: Report on these only (the others are still compared with them); None for all.
        settings: How much is played.
        jobs: Variants that are checked at the same time.
        on_progress: Told about every step forward, from the threads that wait for the workers.

    Returns:
        One report per variant, in the order of `env_ids`.

    Raises:
        UsageError: No such environment.
    """
    settings = settings or Settings()
    wanted = None if variants is None else set(variants)
    reports = {
        (env_id, variant): Report(env_id, variant)
        for env_id in env_ids
        for variant in spec(env_id).variants
        if wanted is None or variant in wanted
    }
    units = [_Unit(env_id, spec(env_id).variants, "splits") for env_id in dict.fromkeys(env_ids)]
    units += [_Unit(env_id, (variant,), "check") for env_id, variant in reports]
    run = _Run(reports, settings, len(units), on_progress)
    with ExitStack() as stack:
        threads = ThreadPoolExecutor(jobs)
        # Left last to first: threads wait for the workers, which must be gone before.
        stack.callback(threads.shutdown, cancel_futures=True)
        lanes: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(min(jobs, len(units))):
            lane = _Lane(*map(Worker, HASH_SEEDS))
            for worker in lane:
                stack.callback(worker.close)
            lanes.put(lane)
        list(threads.map(lambda unit: run.do(unit, lanes), units))
    return list(reports.values())


class _Run:
    """One call of `check`."""

    def __init__(
        self,
        reports: Mapping[tuple[str, str], Report],
        settings: Settings,
        total: int,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._reports = reports
        self._settings = settings
        self._total = total
        self._done = 0
        self._on_progress = on_progress

    def do(self, unit: _Unit, lanes: "SimpleQueue[_Lane]") -> None:
        lane = lanes.get()
        try:
            self._do(unit, lane)
        finally:
            lanes.put(lane)

    def _do(self, unit: _Unit, lane: _Lane) -> None:
        result = self._ask(lane.first, unit)
        if unit.kind == "check" and result.get("described"):
            again = self._ask(lane.second, unit._replace(kind="describe"))
            self._compare(unit, result["described"], again.get("described", []))
        self._done += 1
        self._tell(unit, "done")

    def _ask(self, worker: Worker, unit: _Unit) -> dict[str, Any]:
        job = {
            "kind": unit.kind,
            "env": unit.env,
            "module": spec(unit.env).cls.__module__,
            "variants": unit.variants,
            "settings": asdict(self._settings),
        }
        try:
            result = worker.do(job, lambda doing: self._tell(unit, doing))
        except WorkerDiedError as death:
            message = f"{death} The checks after this one were not run."
            result = {"problems": [(unit.variants[-1], {"check": death.doing, "message": message})]}
        for variant, problem in result.get("problems", ()):
            if report := self._reports.get((unit.env, variant)):
                report.problems.append(Problem(**problem))
        for variant, measures in result.get("measures", {}).items():
            if report := self._reports.get((unit.env, variant)):
                report.measures |= measures
        if reason := result.get("not_run"):
            for variant in unit.variants:
                if report := self._reports.get((unit.env, variant)):
                    report.not_run = reason
        return result

    def _compare(self, unit: _Unit, first: Sequence[dict[str, str]], again: Sequence[dict[str, str]]) -> None:
        for index, (one, other) in enumerate(zip(first, again, strict=False)):
            if name := first_difference(one, other):
                self._reports[unit.env, unit.variants[0]].problems.append(
                    Problem(
                        "determinism",
                        f"the {name} of task {index} differs in another process (with another PYTHONHASHSEED); "
                        "iterate over no set, and use neither `hash` nor a generator that is shared.",
                    )
                )
                return

    def _tell(self, unit: _Unit, doing: str) -> None:
        variant = unit.variants[0] if len(unit.variants) == 1 else "splits"
        self._on_progress(Progress(self._done, self._total, f"{unit.env} {variant}: {doing}"))
