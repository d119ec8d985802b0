"""What is paid: the oracle always solves, chance hardly ever, process terms keep their bounds; and a step's time."""

from collections.abc import Iterator
from statistics import quantiles

from palestra.envs.checks.base import Problem, Subject, shorten, surely_above, wilson
from palestra.envs.checks.episodes import Episode, outside_bounds, play_oracle, play_random

SLOW_US = 100_000
"""A 95th percentile beyond which a step holds up the others of a batch."""


def oracle_solves(subject: Subject) -> Iterator[Problem]:
    """Play the demonstration of every task; also measures the length of an episode."""
    env = subject.make()
    unsolved: list[str] = []
    characters = played = 0
    for index in subject.within_budget(range(subject.settings.episodes), "oracle episodes"):
        episode = play_oracle(subject, env, index)
        played += 1
        characters += len(env.system_prompt()) + len(episode.prompt)
        characters += sum(len(step.action) + len(step.observation) for step in episode.steps)
        if why := _why_unsolved(episode):
            unsolved.append(f"task {index} {why}")
        yield from outside_bounds(subject, episode, "oracle")
    subject.measures |= {
        "oracle_episodes": played,
        "oracle_rate": 1 - len(unsolved) / max(1, played),
        "tokens": characters / 4 / max(1, played),
    }
    if unsolved:
        yield Problem(
            "oracle",
            f"{len(unsolved)} of {played} demonstrations do not solve their task (the first: {unsolved[0]}); make "
            "`solve` return turns that end the episode with outcome 1.",
        )


def chance_hardly_solves(subject: Subject) -> Iterator[Problem]:
    """Play random episodes; measures the chance rate."""
    env = subject.make()
    solved = played = 0
    for index in subject.within_budget(range(subject.settings.episodes), "random episodes"):
        episode = play_random(subject, env, index)
        solved += episode.outcome == 1.0
        played += 1
        yield from outside_bounds(subject, episode, "random")
    low, high = wilson(solved, played)
    subject.measures |= {
        "chance_episodes": played,
        "chance_rate": solved / max(1, played),
        "chance_interval": (low, high),
    }
    if surely_above(solved, played, subject.allowed_chance):
        yield Problem(
            "chance",
            f"{solved} of {played} random episodes are solved, above the {subject.allowed_chance:g} allowed; widen "
            "the answer space or the task, since a model would be paid for nothing.",
        )


def steps_are_quick(subject: Subject) -> Iterator[Problem]:
    """Measure the steps of the episodes above."""
    if len(subject.step_ns) < 2:
        return
    cuts = quantiles(subject.step_ns, n=20, method="inclusive")
    subject.measures["step_us"] = {"p50": cuts[9] / 1e3, "p95": cuts[18] / 1e3, "steps": len(subject.step_ns)}
    if cuts[18] / 1e3 > SLOW_US and not subject.env.blocking:
        yield Problem(
            "latency",
            f"one step in twenty takes more than {cuts[18] / 1e6:.0f} ms; make it faster, or set `blocking = True` so "
            "that rollouts play it in a thread.",
        )


def _why_unsolved(episode: Episode) -> str:
    if episode.outcome == 1.0 and episode.ended == "terminated" and len(episode.steps) == episode.planned:
        return ""
    if len(episode.steps) < episode.planned:
        return f"ends after {len(episode.steps)} of {episode.planned} turns with outcome {episode.outcome:g}"
    if not episode.steps:
        return "has no turns"
    last = episode.steps[-1]
    how = {"": "goes on", "truncated": "runs out of turns"}.get(last.ended, f"ends with outcome {last.outcome:g}")
    return f"{how} after the turn {shorten(last.action)}"
