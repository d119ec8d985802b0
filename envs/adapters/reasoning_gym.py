"""The tasks of reasoning-gym (arXiv 2505.24760) as environments: `palestra/rg/<task>-v0`.

Repaired: an item is made from a seed of its own, never from seed + index (neighbouring seeds share their items in the
original); splits are disjoint by content; the outcome is 1 only for the package's full score, everything below is the
process term `partial`, and the constant crumbs that graders pay for any text (up to 0.05) are not paid at all; unsafe
and unsound graders are replaced (`reasoning_gym_repairs.py`); items are the same in every process
(`reasoning_gym_worker.py`). What remains is measured by `bench/reasoning_gym_audit.py` into
`reasoning_gym_tasks.json`, from which the environments are registered without importing the package.

Flags: `guessable` (the answer to another item, or a constant, is right in more than 1 of 10 cases), `few-tasks` (less
than 90% of up to 2,000 draws differ: fewer than about 10,000 tasks), `slow` (more than 50 ms of CPU per item),
`slow-scoring` (more than 50 ms per answer), `repaired` (the grader is ours), `wordings` (a problem may be in two
splits in other words), `junk-partial` (junk earns more than 0.05 of `partial` on average), `copy` (one fixed place of
the question, such as its last word, is a right answer in about 1 of 10 cases or more), `lenient` (the package takes a
right answer with something added or missing, too).
"""

import json
import random
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, ClassVar

from palestra.envs.adapters.reasoning_gym_process import item, score
from palestra.envs.core import Demonstration, ProcessTerm, Reward, Task, TextEnv
from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.registry import register

VERSION = "0.1.25"
"""Items differ between versions of the package, and an environment's tasks must not."""
CRUMBS = 0.05
"""Scores up to this are paid for any text by some graders."""
_SEEDS = 2**32 - 1


class ReasoningGym(TextEnv):
    """A task of reasoning-gym; subclasses are made from the table."""

    max_turns = 1
    blocking = True
    instructions = "Solve the problem. Your answer must have exactly the form that the problem asks for."
    process_terms = {
        "partial": ProcessTerm(
            0.0, 1.0, "whatever the package's grader pays for less than the right answer, e.g. a number near it"
        ),
    }

    task_name: ClassVar[str] = ""
    config: Mapping[str, Any] = {}
    """Parameters of the package's generator that differ from its defaults."""

    def __init__(self, variant: str = "train", render_mode: str | None = None) -> None:
        _require_package()
        super().__init__(variant, render_mode)
        self._config = json.dumps(self.config, sort_keys=True)

    def sample(self, rng: random.Random) -> Task:
        """Draw a seed and make its item."""
        seed = rng.randrange(_SEEDS)
        made = item(self.task_name, self._config, seed)
        return Task(prompt=made.question, answer=made.answer, key=made.key, data={"seed": seed})

    def grade(self, task: Task, answer: str) -> Reward:
        """Let the package score the answer, with the repairs."""
        value = score(self.task_name, self._config, task.data["seed"], answer)
        return Reward(float(value == 1.0), {"partial": value if value > CRUMBS else 0.0})

    def solve(self, task: Task) -> Demonstration:
        """State the right answer."""
        return Demonstration((f"<answer>{task.answer}</answer>",))

    def guess(self, task: Task, rng: random.Random) -> str:
        """The answer to another item: what someone guesses who knows how answers look, and how often."""
        return self.sample(rng).answer


@cache  # only success is kept
def _require_package() -> None:
    try:
        found = version("reasoning-gym")
    except PackageNotFoundError:
        found = ""
    if found != VERSION:
        what = f"found {found}" if found else "it is not installed"
        raise MissingPrerequisiteError(
            f"the environments palestra/rg need reasoning-gym {VERSION} ({what}); "
            'pip install "palestra[reasoning-gym]"'
        )


def table() -> dict[str, dict[str, Any]]:
    """Return what was measured: task -> `config`, `hard`, `flags`, `withheld` and the figures."""
    text = (files("palestra.envs.adapters") / "reasoning_gym_tasks.json").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Any]] = json.loads(text)["tasks"]
    return loaded


def _summaries() -> dict[str, str]:
    text = (files("palestra.envs.adapters") / "reasoning_gym_summaries.json").read_text(encoding="utf-8")
    loaded: dict[str, str] = json.loads(text)
    return loaded


def _register_all() -> None:
    summaries = _summaries()
    for name, row in table().items():
        if row["withheld"]:
            continue
        variants: dict[str, dict[str, Any]] = {"train": {}, "test": {}}
        if row["hard"]:
            variants["hard"] = {"config": {**row["config"], **row["hard"]}}
        attributes = {
            "__doc__": summaries[name],
            "__module__": __name__,
            "__qualname__": f"ReasoningGym[{name}]",
            "task_name": name,
            "config": row["config"],
        }
        cls = type(f"ReasoningGym_{name}", (ReasoningGym,), attributes)
        register(f"palestra/rg/{name}-v0", variants=variants, flags=tuple(row["flags"]))(cls)


_register_all()
