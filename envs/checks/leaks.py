"""Leaks: the answer must not stand where copying finds it, in the prompt or in what a thoughtless turn shows.

A copier takes one fixed place of a text (its last word, its first number, what is quoted ...) and hands it in. One
that is right on more tasks than chance may be needs no ability: whatever is trained will learn to copy.
"""

import re
from collections.abc import Iterator

from palestra.envs.checks.base import COPY, Problem, Subject, shorten, surely_above, wilson
from palestra.envs.checks.episodes import Episode, advance, begin
from palestra.envs.core import TextEnv

_NUMBER = re.compile(r"-?\d+(?:[./]\d+)?")
_QUOTED = re.compile(r"[\"'`“]([^\"'`”]+)[\"'`”]")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def copies(text: str) -> dict[str, str]:
    """Return what each copier takes from a text, by the copier's name."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = text.split()
    found = {
        "all of it": text.strip(),
        "the first line": lines[0] if lines else "",
        "the last line": lines[-1] if lines else "",
        "the first word": words[0] if words else "",
        "the last word": words[-1].rstrip(".?!") if words else "",
        "the longest word": max(words, key=len) if words else "",
        "what follows the last colon": text.rpartition(":")[2].strip() if ":" in text else "",
    }
    for name, pattern in (("number", _NUMBER), ("quotation", _QUOTED), ("tagged text", _TAGGED)):
        if matches := pattern.findall(text):
            found |= {f"the first {name}": matches[0], f"the last {name}": matches[-1]}
    return {name: copy for name, copy in found.items() if copy}


def answers_do_not_leak(subject: Subject) -> Iterator[Problem]:
    """Copy from the prompt, and from what the first thoughtless turn brings."""
    env = subject.make()
    allowed = 1.0 if COPY in subject.flags else subject.allowed_chance
    tasks = range(subject.settings.probed)
    openings = _openings(env)
    for place, opening in openings.items():
        hits: dict[str, int] = {}
        played: dict[str, int] = {}
        examples: dict[str, str] = {}
        for index in subject.within_budget(tasks, f"copies from {place}", 1 / len(openings)):
            for copier, copy in copies(_text(subject, env, index, opening)).items():
                played[copier] = played.get(copier, 0) + 1
                if _is_paid(subject, env, index, opening, copy):
                    hits[copier] = hits.get(copier, 0) + 1
                    examples.setdefault(copier, f"{shorten(copy)} on task {index}")
        best = max(hits, key=lambda copier: wilson(hits[copier], played[copier]), default="")
        if best and surely_above(hits[best], played[best], allowed):
            yield Problem(
                "leak",
                f"copying {best} of {place} solves {hits[best]} of {played[best]} tasks (for example "
                f"{examples[best]}); take the answer out of there, or make the task ask for more than a copy.",
            )


def _openings(env: TextEnv) -> dict[str, str | None]:
    """Return the first turns after which something is copied, by what they show; None plays no turn."""
    openings: dict[str, str | None] = {"the prompt": None}
    if env.max_turns > 1:
        openings["the answer to an empty turn"] = ""
        openings["the answer to a tool that does not exist"] = '<tool_call>{"name": "?", "arguments": {}}</tool_call>'
        for tool, action in zip(env.tools, env.example_actions()[-len(env.tools) :], strict=False):
            openings[f"the answer to a first call of the tool '{tool.name}'"] = action
    if env.attempts > 1:
        openings["the feedback to a wrong answer"] = "<answer>no idea</answer>"
    return openings


def _open(subject: Subject, env: TextEnv, index: int, opening: str | None) -> Episode:
    episode = begin(subject, env, index)
    if opening is not None:
        advance(subject, env, episode, opening)
    return episode


def _text(subject: Subject, env: TextEnv, index: int, opening: str | None) -> str:
    episode = _open(subject, env, index, opening)
    env.end_episode()
    return episode.steps[-1].observation if episode.steps else episode.prompt


def _is_paid(subject: Subject, env: TextEnv, index: int, opening: str | None, copy: str) -> bool:
    episode = _open(subject, env, index, opening)
    if not episode.ended:
        advance(subject, env, episode, f"<answer>{copy}</answer>")
    env.end_episode()
    return episode.outcome == 1.0
