"""Splits: enough different tasks in every variant, and no task of one variant in another.

Variants that are both for training may share tasks.
"""

import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import combinations

from palestra.envs.checks.base import FEW_TASKS, Problem, Subject, judged_by_text, shorten

FEWEST = 100
"""Distinct tasks that a variant must have; a rate over fewer has a standard error of up to 5 points."""


class Drawn:
    """Tasks of a variant, as hashes of their keys and of what the agent and the grader see of them."""

    def __init__(self, subject: Subject) -> None:
        env = subject.make()
        self.keys: dict[bytes, str] = {}
        self.contents: dict[bytes, str] = {}
        self.draws = 0
        end = time.perf_counter() + subject.settings.budget_s
        while self.draws < subject.settings.draws and time.perf_counter() < end:
            task = subject.ask(env.task_at, self.draws)
            self.keys[_hash(task.key)] = task.key
            if judged_by_text(env):
                self.contents[_hash(f"{task.prompt}\0{task.answer}")] = task.prompt
            self.draws += 1


def splits_are_disjoint(subjects: Mapping[str, Subject]) -> Iterator[tuple[str, Problem]]:
    """Compare all variants of one environment; yields the variant and the problem."""
    drawn = {}
    for variant, subject in subjects.items():
        found = drawn[variant] = Drawn(subject)
        subject.measures |= {"draws": found.draws, "distinct": len(found.keys)}
        if len(found.keys) < min(FEWEST, found.draws // 5) and FEW_TASKS not in subject.flags:
            yield (
                variant,
                Problem(
                    "tasks",
                    f"only {len(found.keys)} different tasks in {found.draws} draws; let `sample` vary more, give "
                    "more rows, or make sure that `key` tells its tasks apart.",
                ),
            )
    for one, other in combinations(drawn, 2):
        if one.startswith("train") and other.startswith("train"):
            continue
        for what, these, those in (
            ("key", drawn[one].keys, drawn[other].keys),
            ("prompt and answer", drawn[one].contents, drawn[other].contents),
        ):
            if shared := sorted(these.keys() & those.keys()):
                yield (
                    other,
                    Problem(
                        "splits",
                        f"{len(shared)} tasks have the same {what} in '{one}' and '{other}', for example "
                        f"{shorten(these[shared[0]])}; leave `task_at` to TextEnv, and let `key` be what makes two "
                        "tasks the same problem.",
                    ),
                )
                break


def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
