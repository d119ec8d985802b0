"""Fuzzing: whatever a turn looks like, a step answers in time, keeps the bounds, and pays only for a right answer.

A paid episode is judged again twice: replayed from its turns in another instance, and, where the answer decides, by
`regrade.same_answer`, which knows nothing of the environment. Answers that were paid although they do not look like
the right one are counted; they may be other right answers (of several) or lucky ones, but not more often than chance
allows.
"""

import random
from collections.abc import Iterator

from palestra.envs.checks.base import LENIENT, Problem, Subject, judged_by_text, shorten, surely_above
from palestra.envs.checks.episodes import Episode, Step, advance, begin, outside_bounds, play
from palestra.envs.checks.mutations import TurnMaker
from palestra.envs.checks.regrade import same_answer

TASKS = 32
"""Tasks that the turns are spread over; few enough to be kept, so that a reset costs no draw."""
_RIGHT = 0.25
"""Share of turns before the last that are the oracle's own, so that episodes get beyond their beginning."""
_REPORT_EVERY = 5_000
_CALLED = {"process": "process terms", "ended": "end"}


class Fuzzer:
    """Plays malformed turns in one variant."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._env, self._replay = subject.make(), subject.make()
        self._by_text = judged_by_text(self._env)
        self._rng = random.Random(f"fuzz|{subject.settings.seed}|{subject.env_id}|{subject.variant}")
        self._maker = TurnMaker(self._env, self._rng)
        self._turns: list[tuple[str, ...]] = []
        self._all: list[str] = []
        self.actions = self.answers = self.paid = self.disputed = 0
        self.example = ""

    def run(self) -> Iterator[Problem]:
        """Play until enough actions were played."""
        for index in self._subject.within_budget(range(TASKS), "fuzzed tasks"):
            task = self._subject.ask(self._env.task_at, index)
            self._turns.append(self._subject.demonstrate(self._env, task) or ("",))
        self._all = [turn for turns in self._turns for turn in turns]
        reported = 0
        while self.actions < self._subject.fuzz:
            index = int(self._rng.random() * len(self._turns))
            episode, damaged = self._episode(index)
            yield from self._judge(episode, damaged)
            if self.actions - reported >= _REPORT_EVERY:
                reported = self.actions
                self._subject.tell(f"fuzz {reported:,}/{self._subject.fuzz:,}")
                self._subject.step_ns.clear()

    def _episode(self, index: int) -> tuple[Episode, bool]:
        rng, turns = self._rng, self._turns[index]
        episode, damaged = begin(self._subject, self._env, index), False
        while not episode.ended:
            position = len(episode.steps)
            right = turns[min(position, len(turns) - 1)]
            if position < len(turns) - 1 and rng.random() < _RIGHT:
                action = right
            else:
                action = self._maker.make(right, self._all)
                damaged = damaged or action != right
            advance(self._subject, self._env, episode, action)
            self.actions += 1
        return episode, damaged

    def _judge(self, episode: Episode, damaged: bool) -> Iterator[Problem]:
        answer = self._env.turns[-1].answer
        self.answers += answer is not None
        yield from outside_bounds(self._subject, episode, "fuzzed")
        if episode.outcome != 1.0 or not damaged:
            return
        self.paid += 1
        again = play(self._subject, self._replay, episode.index, [step.action for step in episode.steps])
        if again != episode:
            turn, what = _where_they_part(episode, again)
            yield Problem(
                "fuzz",
                f"a paid episode of task {episode.index} differs on another instance in the {what} of turn {turn} "
                f"({shorten(episode.steps[min(turn, len(episode.steps)) - 1].action)}); keep state in the "
                "world that `begin` returns.",
            )
        assert self._env.task is not None
        if self._by_text and answer is not None and not same_answer(self._env.task.answer, answer):
            self.disputed += 1
            self.example = self.example or f"{shorten(answer)} for {shorten(self._env.task.answer)}"


def _where_they_part(one: Episode, other: Episode) -> tuple[int, str]:
    """Return the first turn, from 1, that is not the same, and what of it is not."""
    for turn, (ours, theirs) in enumerate(zip(one.steps, other.steps, strict=False), 1):
        for name in Step._fields:
            if getattr(ours, name) != getattr(theirs, name):
                return turn, _CALLED.get(name, name)
    return min(len(one.steps), len(other.steps)) + 1, "existence"


def odd_turns_are_harmless(subject: Subject) -> Iterator[Problem]:
    """Play malformed turns; measures how many were paid and disputed."""
    fuzzer = Fuzzer(subject)
    yield from fuzzer.run()
    subject.measures["fuzz"] = {
        "actions": fuzzer.actions,
        "answers": fuzzer.answers,
        "paid": fuzzer.paid,
        "disputed": fuzzer.disputed,
        "example": fuzzer.example,
    }
    doubtful = fuzzer.answers - fuzzer.paid + fuzzer.disputed
    if surely_above(fuzzer.disputed, doubtful, subject.allowed_chance) and LENIENT not in subject.flags:
        yield Problem(
            "fuzz",
            f"{fuzzer.disputed} damaged answers were paid, for example {fuzzer.example}; compare values strictly, "
            "not by substring or prefix.",
        )
