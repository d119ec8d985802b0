"""The process that checks run in: jobs as JSON lines on standard input, events and results on standard output.

Run as `python -m palestra.envs.checks.worker`. What an environment prints or reads does not meet the jobs:
their pipes are moved away from the standard descriptors first. It ends when whoever gives the jobs does, however that
ends.
"""

import importlib
import json
import os
import select
from collections.abc import Callable, Mapping
from dataclasses import asdict
from threading import Thread
from typing import Any, TextIO

from palestra.envs.checks.base import Problem, Settings, Subject
from palestra.envs.checks.episodes import describe
from palestra.envs.checks.families import CHECKS, describe_error, found_by
from palestra.envs.checks.limits import OutOfTimeError, TimeLimits
from palestra.envs.checks.splits import splits_are_disjoint
from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.registry import spec, specs
from palestra.envs.sandbox.shared import use_sandbox

Job = Mapping[str, Any]
Tell = Callable[[str], None]


def main() -> None:
    """Do jobs until there are no more."""
    jobs, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    Thread(target=_end_with_parent, args=(jobs.fileno(),), daemon=True).start()
    with TimeLimits(may_exit=True) as limits:
        for line in jobs:
            job = json.loads(line)
            result = _do(job, limits, lambda doing: _send(replies, {"doing": doing}))
            _send(replies, {"result": result})
            if result.get("ends"):
                return


def _end_with_parent(jobs: int) -> None:
    """Wait until nobody holds the other end of the pipe, and end the process in the middle of whatever it does."""
    hang_up = select.poll()
    hang_up.register(jobs, 0)
    hang_up.poll()
    os._exit(1)


def _do(job: Job, limits: TimeLimits, tell: Tell) -> dict[str, Any]:
    settings = Settings(**job["settings"])
    use_sandbox(settings.sandbox)
    subjects: dict[str, Subject] = {}
    try:
        _import(job["env"], job["module"])
        for variant in job["variants"]:
            subjects[variant] = Subject(job["env"], variant, settings, limits)
        return _KINDS[job["kind"]](subjects, tell)
    except MissingPrerequisiteError as error:
        return {"not_run": str(error)}
    except OutOfTimeError:
        message = "a task or an instance is not made in time; make `sample` do less."
        return {**_failed(job["kind"], job["variants"][-1], message), "ends": True}
    except Exception as error:
        message = describe_error(error, "mend it; nothing else can be checked before")
        return _failed(job["kind"], job["variants"][-1], message)


def _failed(kind: str, variant: str, message: str) -> dict[str, Any]:
    check = {"splits": "splits", "describe": "determinism"}.get(kind, "contract")
    return {"problems": [(variant, asdict(Problem(check, message)))]}


def _import(env_id: str, module: str) -> None:
    """Import the module of an environment that no entry point names (one of a test, say)."""
    if all(known.id != env_id for known in specs()):
        importlib.import_module(module)
        spec(env_id)


def _check(subjects: Mapping[str, Subject], tell: Tell) -> dict[str, Any]:
    [(variant, subject)] = subjects.items()
    subject.tell = tell
    problems: list[Problem] = []
    for name in CHECKS:
        tell(name)
        problems += found_by(name, subject)
        if subject.interrupted or (name == "types" and problems):
            problems.append(Problem(name, "the checks after this one were not run."))
            break
    return {
        "ends": subject.interrupted,
        "problems": [(variant, asdict(problem)) for problem in problems],
        "measures": {variant: subject.measures},
        "described": subject.described,
    }


def _splits(subjects: Mapping[str, Subject], tell: Tell) -> dict[str, Any]:
    tell("splits")
    if any(found_by("types", subject) for subject in subjects.values()):
        # Each variant's own check will say it.
        return {"ends": any(subject.interrupted for subject in subjects.values())}
    problems = [(variant, asdict(problem)) for variant, problem in splits_are_disjoint(subjects)]
    return {"problems": problems, "measures": {variant: subject.measures for variant, subject in subjects.items()}}


def _describe(subjects: Mapping[str, Subject], tell: Tell) -> dict[str, Any]:
    [subject] = subjects.values()
    tell("determinism")
    env = subject.make()
    indices = subject.within_budget(range(subject.settings.replayed), "episodes in another process")
    return {"described": [describe(subject, env, index) for index in indices]}


_KINDS: dict[str, Callable[[Mapping[str, Subject], Tell], dict[str, Any]]] = {
    "check": _check,
    "splits": _splits,
    "describe": _describe,
}


def _send(replies: TextIO, event: Mapping[str, Any]) -> None:
    replies.write(json.dumps(event) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
