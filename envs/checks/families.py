"""All checks of one variant, in the order in which they run, and how what goes wrong in them is put into words."""

import traceback
from collections.abc import Callable, Iterator

from palestra.envs.checks import contract, fuzz, leaks, outcomes, probes, returned
from palestra.envs.checks.base import Problem, Subject
from palestra.envs.checks.episodes import EndlessEpisodeError
from palestra.envs.checks.limits import OutOfTimeError
from palestra.envs.errors import MissingPrerequisiteError

Check = Callable[[Subject], Iterator[Problem]]

CHECKS: dict[str, Check] = {
    "types": returned.types_are_right,
    "gymnasium": contract.gymnasium_accepts,
    "determinism": contract.episodes_repeat,
    "oracle": outcomes.oracle_solves,
    "chance": outcomes.chance_hardly_solves,
    "latency": outcomes.steps_are_quick,
    "contract": contract.episodes_close,
    "isolation": contract.instances_are_isolated,
    "hacking": probes.hacks_are_not_paid,
    "leak": leaks.answers_do_not_leak,
    "fuzz": fuzz.odd_turns_are_harmless,
}
"""By name. What has wrong types is not checked further; chance is measured before the checks that are judged by it."""

_ADVICE = {
    "fuzz": "answer a malformed turn or answer with an observation or outcome 0, never with an exception",
    "oracle": "`solve` must return turns that the environment takes",
}


def found_by(name: str, subject: Subject) -> list[Problem]:
    """Run one check to its end, or to the first exception of the environment.

    Raises:
        MissingPrerequisiteError: Something is not installed, so that nothing can be said.
    """
    problems: list[Problem] = []
    try:
        problems.extend(CHECKS[name](subject))
    except MissingPrerequisiteError:
        raise
    except OutOfTimeError as error:
        subject.interrupted = True
        problems.append(
            Problem(name, f"a call does not return in time{_where(error)}; bound the work that a turn can ask for.")
        )
    except EndlessEpisodeError as error:
        problems.append(Problem("contract", f"{error}; leave `step` and its limit of turns to TextEnv."))
    except Exception as error:
        problems.append(Problem(name, describe_error(error, _ADVICE.get(name, "an environment must not raise"))))
    return problems


def describe_error(error: Exception, advice: str) -> str:
    """Return one sentence: what was raised, where, at which turn, and what to do."""
    message = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}{f' ({message})' if message else ''} was raised{_where(error)}; {advice}."


def _where(error: BaseException) -> str:
    """Return the innermost place outside of Python's and Gymnasium's own code, and the notes."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    own = [f for f in frames if "site-packages" not in f.filename and "/lib/python" not in f.filename] or frames
    # The frame of the alarm itself says nothing.
    place = next((f for f in reversed(own) if f.name != "_interrupt"), None)
    parts = [f" in {place.name} ({place.filename}:{place.lineno})"] if place else []
    return "".join([*parts, *(f" {note}" for note in getattr(error, "__notes__", ()))])
