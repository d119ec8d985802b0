"""The process in which reasoning-gym runs: it makes items and scores answers, a line of JSON each way.

Why a process of its own: some generators depend on Python's hash seed or on the global random state, both of which
are fixed here; and a scorer that an answer sends into a loop is ended with the process, by its own timer of CPU
seconds, so that the verdict does not depend on the load of the machine.

Invariant: what is returned is a function of the request alone.
"""

import contextlib
import json
import math
import os
import random
import resource
import signal
import sys
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from palestra.envs.adapters.reasoning_gym_repairs import GRADERS, KEYS, ORACLES, disarmed, sound
from palestra.envs.answers import MAX_ANSWER

GENERATION_CPU_S = 120.0
SCORING_CPU_S = 10.0
MEMORY_BYTES = 4 << 30
SEEDS = 2**32 - 1
"""numpy's generators take seeds below 2**32."""
_ATTEMPTS = 100
_KEPT = 1_000

# These draw what they ask in the constructor: a dataset per item, and how long it must be to have every kind.
_EAGER = {"acre": 5, "gsm_symbolic": 1, "list_functions": 1}


@dataclass(frozen=True, slots=True)
class Item:
    """A problem of the package, with a right answer and the key of its content."""

    entry: Mapping[str, Any]
    answer: str
    key: str


class Suite:
    """The package's tasks, repaired; to be used within `disarmed()`. Configurations are JSON objects, as text."""

    def __init__(self) -> None:
        self._datasets: dict[tuple[str, str], Any] = {}
        self._items: OrderedDict[tuple[str, str, int], Item] = OrderedDict()

    def dataset(self, task: str, config: str, seed: int) -> Any:
        """Return a dataset of the package whose first item is that of `seed`."""
        if task in _EAGER:
            return _create(task, config, seed, _EAGER[task])
        dataset = self._datasets.get((task, config))
        if dataset is None:
            dataset = self._datasets[task, config] = _create(task, config, seed, 1)
        dataset.seed = dataset.config.seed = seed
        return dataset

    def item(self, task: str, config: str, seed: int) -> Item:
        """Return the item of a seed; where the package fails to make a sound one, that of a seed derived from it.

        Raises:
            RuntimeError: A hundred seeds gave nothing.
        """
        key = task, config, seed
        if key not in self._items:
            self._items[key] = self._make(task, config, seed)
            if len(self._items) > _KEPT:
                self._items.popitem(last=False)
        return self._items[key]

    def _make(self, task: str, config: str, seed: int) -> Item:
        import numpy as np

        for attempt in range(_ATTEMPTS):
            derived = random.Random(f"{seed}/{attempt}").randrange(SEEDS) if attempt else seed
            random.seed(derived)
            np.random.seed(derived)
            try:
                entry = self.dataset(task, config, derived)[0]
                candidates = ORACLES[task](entry) if task in ORACLES else [str(entry["answer"])]
            except Exception:  # generators fail for some seeds, each in its own way
                continue
            answers = [a.strip() for a in candidates if 0 < len(a.strip()) <= MAX_ANSWER]
            right = next((a for a in answers if self.grade(task, config, entry, a) == 1.0), None)
            if right is not None and sound(task, lambda a, e=entry: self.grade(task, config, e, a)):  # type: ignore[misc]
                return Item(entry, right, _key(task, entry))
        raise RuntimeError(f"no item of {task} in {_ATTEMPTS} draws")

    def grade(self, task: str, config: str, entry: Mapping[str, Any], answer: str) -> float:
        """Score an answer in [0, 1]; a scorer that raises or leaves the interval pays nothing."""
        package = self.dataset(task, config, 0).score_answer
        try:
            score = float(GRADERS[task](package, answer, entry) if task in GRADERS else package(answer, entry))
        except Exception:
            return 0.0
        return score if math.isfinite(score) and 0.0 <= score <= 1.0 else 0.0


def _create(task: str, config: str, seed: int, size: int) -> Any:
    from reasoning_gym import create_dataset

    return create_dataset(task, seed=seed, size=size, **json.loads(config))


def _key(task: str, entry: Mapping[str, Any]) -> str:
    if task in KEYS:
        content = json.dumps(KEYS[task](entry), default=str, sort_keys=True)
    else:
        content = " ".join(str(entry["question"]).split())
    return blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _reply(suite: Suite, request: Mapping[str, Any]) -> dict[str, Any]:
    task, config, seed = request["task"], request["config"], request["seed"]
    signal.setitimer(signal.ITIMER_PROF, GENERATION_CPU_S)
    item = suite.item(task, config, seed)
    if "answer" not in request:
        return {"question": item.entry["question"], "answer": item.answer, "key": item.key}
    signal.setitimer(signal.ITIMER_PROF, SCORING_CPU_S)
    return {"score": suite.grade(task, config, item.entry, request["answer"])}


def main() -> None:
    """Answer requests until the input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # the package prints
    os.dup2(sys.stdout.fileno(), 1)
    with contextlib.suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    suite = Suite()
    with disarmed():
        for line in sys.stdin:
            try:
                reply = _reply(suite, json.loads(line))
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            signal.setitimer(signal.ITIMER_PROF, 0)
            out.write(json.dumps(reply) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
