"""The contract: what Gymnasium asks, equal episodes, closed episodes, instances that know nothing of each other."""

import warnings
from collections.abc import Iterator

import gymnasium
from gymnasium.utils.env_checker import check_env

from palestra.envs.checks.base import RESET_S, Problem, Subject
from palestra.envs.checks.episodes import (
    advance,
    begin,
    describe,
    first_difference,
    play_oracle,
    play_random,
)

_PURE = (
    "an episode must be a function of its task and turns alone: draw from the `rng` that `sample` gets, from nothing "
    "else, and iterate over no set"
)


def gymnasium_accepts(subject: Subject) -> Iterator[Problem]:
    """Run `gymnasium.utils.env_checker.check_env`."""
    env = subject.make()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            subject.limits.call(RESET_S, check_env, env, skip_render_check=True)
    except AssertionError as error:
        reason = " ".join(str(error).split())[:300]
        yield Problem("gymnasium", f"Gymnasium's check_env refuses it ({reason}); {_PURE}.")
    finally:
        env.close()


def episodes_repeat(subject: Subject) -> Iterator[Problem]:
    """Play episodes twice, on the same instance and on another one, after other episodes."""
    env, other = subject.make(), subject.make()
    for index in subject.within_budget(range(subject.settings.replayed), "repeated episodes"):
        subject.described.append(describe(subject, env, index))
    for index, first in reversed(list(enumerate(subject.described))):
        for again, where in ((env, "the same instance"), (other, "another instance")):
            if name := first_difference(first, describe(subject, again, index)):
                yield Problem(
                    "determinism", f"the {name} of task {index} differs when played again on {where}; {_PURE}."
                )
                return


def episodes_close(subject: Subject) -> Iterator[Problem]:
    """A step after the end asks for a reset."""
    env = subject.make()
    play_random(subject, env, 0)
    try:
        subject.step(env, "<answer>1</answer>")
    except gymnasium.error.ResetNeeded:
        return
    yield Problem(
        "contract", "a step after the end of an episode is played; it must raise ResetNeeded, as TextEnv's does."
    )


def instances_are_isolated(subject: Subject) -> Iterator[Problem]:
    """Interleave the episodes of two instances; each must be what it is on its own.

    Half the pairs are of one task, as the members of a GRPO group are.
    """
    one, other = subject.make(), subject.make()
    pairs = [(i, i + i % 2) for i in range(subject.settings.replayed)]
    for pair in subject.within_budget(pairs, "interleaved episodes"):
        for player in (play_oracle, play_random):
            alone = [player(subject, subject.make(), index) for index in pair]
            together = [begin(subject, env, index) for env, index in zip((one, other), pair, strict=True)]
            for turn in range(max(len(episode.steps) for episode in alone)):
                for env, solo, episode in zip((one, other), alone, together, strict=True):
                    if turn < len(solo.steps) and not episode.ended:
                        advance(subject, env, episode, solo.steps[turn].action)
            if alone != together:
                yield Problem(
                    "isolation",
                    f"two instances played in turn (tasks {pair[0]} and {pair[1]}) differ from each on its own; keep "
                    "what an episode changes in the world that `begin` returns, never in a class, a module or a tool.",
                )
                return
