"""Leaks: the answer must not stand where copying finds it, in the prompt or in what a thoughtless turn shows.

A copier takes one fixed place of a text (its last word, its first number, what is quoted ...) and hands it in. One
that is right on more tasks than chance may be needs no ability: whatever is trained will learn to copy.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from palestra.envs.checks.base import COPY, Problem, Subject, shorten, surely_above, wilson
from palestra.envs.checks.episodes import Episode, advance, begin
from palestra.envs.checks.regrade import same_answer
from palestra.envs.core import TextEnv

_NUMBER = re.compile(r"-?\d+(?:[./]\d+)?")
_QUOTED = re.compile(r"[\"'`“]([^\"'`”]+)[\"'`”]")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_UNKNOWN_TOOL = '<tool_call>{"name": "?", "arguments": {}}</tool_call>'
_PLACES = 60
_SOMEWHERE = 0.5
"""Share of tasks on which some place or other of a text may hold the answer: of so many, one often does by luck."""


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


def copies_by_place(text: str) -> dict[str, str]:
    """Return what stands at each place of a text, counted from its beginning."""
    words = [word.strip(".,:;?!()\"'`") for word in text.split()[:_PLACES]]
    found = {f"word {place}": word for place, word in enumerate(words, 1)}
    found |= {f"number {place}": number for place, number in enumerate(_NUMBER.findall(text)[:_PLACES], 1)}
    return {name: copy for name, copy in found.items() if copy}


@dataclass(slots=True)
class _Tally:
    played: int = 0
    hits: int = 0
    example: str = ""

    def add(self, paid: bool, example: str) -> None:
        self.played += 1
        self.hits += paid
        if paid:
            self.example = self.example or example


def answers_do_not_leak(subject: Subject) -> Iterator[Problem]:
    """Copy from the prompt, and from what the first thoughtless turns bring."""
    env = subject.make()
    allowed = 1.0 if COPY in subject.flags else subject.allowed_chance
    openings = _openings(env)
    for place, opening in openings.items():
        fixed: defaultdict[str, _Tally] = defaultdict(_Tally)
        counted: defaultdict[str, _Tally] = defaultdict(_Tally)
        for index in subject.within_budget(range(subject.settings.probed), f"copies from {place}", 1 / len(openings)):
            text = _text(subject, env, index, opening)
            assert env.task is not None
            right = env.task.answer
            for copier, copy in copies(text).items():
                paid = _is_paid(subject, env, index, opening, copy)
                fixed[copier].add(paid, f"{shorten(copy)} on task {index}")
            for copier, copy in copies_by_place(text).items():
                paid = same_answer(right, copy) and _is_paid(subject, env, index, opening, copy)
                counted[copier].add(paid, f"{shorten(copy)} on task {index}")
        for tallies, limit in ((fixed, allowed), (counted, max(allowed, _SOMEWHERE))):
            best = max(tallies, key=lambda copier: wilson(tallies[copier].hits, tallies[copier].played), default="")
            tally = tallies[best]
            if surely_above(tally.hits, tally.played, limit):
                yield Problem(
                    "leak",
                    f"copying {best} of {place} solves {tally.hits} of {tally.played} tasks (for example "
                    f"{tally.example}); take the answer out of there, or make the task ask for more than a copy.",
                )
                break


def _openings(env: TextEnv) -> dict[str, tuple[str, ...]]:
    """Return the first turns after which something is copied, by what they show."""
    openings: dict[str, tuple[str, ...]] = {"the prompt": ()}
    if env.max_turns > 1:
        openings["the answer to an empty turn"] = ("",)
        openings["the answer to a tool that does not exist"] = (_UNKNOWN_TOOL,)
        for tool, action in zip(env.tools, env.example_actions()[-len(env.tools) :], strict=False):
            openings[f"the answer to a first call of the tool '{tool.name}'"] = (action,)
    wrong = "<answer>no idea</answer>"
    answers = min(env.attempts, env.max_turns)
    if answers > 1:
        openings["the feedback to a wrong answer"] = (wrong,)
    if answers > 2:
        openings[f"the feedback to {answers - 1} wrong answers"] = (wrong,) * (answers - 1)
    return openings


def _open(subject: Subject, env: TextEnv, index: int, opening: tuple[str, ...]) -> Episode:
    episode = begin(subject, env, index)
    for turn in opening:
        if not episode.ended:
            advance(subject, env, episode, turn)
    return episode


def _text(subject: Subject, env: TextEnv, index: int, opening: tuple[str, ...]) -> str:
    episode = _open(subject, env, index, opening)
    env.end_episode()
    return episode.steps[-1].observation if episode.steps else episode.prompt


def _is_paid(subject: Subject, env: TextEnv, index: int, opening: tuple[str, ...], copy: str) -> bool:
    episode = _open(subject, env, index, opening)
    if not episode.ended:
        advance(subject, env, episode, f"<answer>{copy}</answer>")
    env.end_episode()
    return episode.outcome == 1.0
