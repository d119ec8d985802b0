"""Measures every task of reasoning-gym and writes the table that the adapter registers (reasoning_gym_tasks.json).

    PYTHONHASHSEED=0 python bench/reasoning_gym_audit.py [--tasks dice,maze]

All tasks take some ten minutes of CPU. Scores are means over items: `package_*` are the package's own grader's, the
others what Palestra's grades are made of. Times are CPU seconds. A task is withheld where no item has a right answer,
where items differ between two processes of the adapter, or for a reason named in `WITHHELD`.
"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palestra.envs.adapters.reasoning_gym import CRUMBS
from palestra.envs.adapters.reasoning_gym_repairs import GRADERS, disarmed
from palestra.envs.adapters.reasoning_gym_worker import SCORING_CPU_S, Suite
from palestra.envs.checks.leaks import copies
from palestra.envs.checks.regrade import rounded, same_answer

TABLE = Path(__file__).parent.parent / "envs" / "adapters" / "reasoning_gym_tasks.json"
JUNK = ("zzz qqq", "0", "1", "-1", "True", "no", "[]", "nan", "(", "x", "0123456789", "a b c d")
DRAWS, ITEMS, BUDGET_S = 2_000, 200, 3.0
WORDINGS = ("aiw", "calendar_arithmetic", "family_relationships", "game_of_life", "gsm_symbolic")
WITHHELD = {"codeio": "its generator executes programs of unknown origin, which print, wait and start threads"}


def seeds(count: int) -> list[int]:
    """Seeds far apart: item i of seed s is item 0 of seed s + i."""
    return [7_919 + 1_000_003 * i % (2**31) for i in range(count)]


def mean(values: list[float]) -> float:
    """Return the mean, 0 of nothing."""
    return round(sum(values) / len(values), 4) if values else 0.0


def too_long(*_: Any) -> None:
    """End a scorer that takes longer than it may."""
    raise TimeoutError


def limited(grader: Callable[[], float | None]) -> float | None:
    """Score within the limit that the adapter sets, too; beyond it, an answer earns nothing."""
    signal.setitimer(signal.ITIMER_PROF, SCORING_CPU_S)
    try:
        return grader()
    except TimeoutError:
        return 0.0
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def package_score(dataset: Any, answer: str, entry: Any) -> float | None:
    """The package's own verdict; None where its grader raises."""

    def grade() -> float | None:
        try:
            return float(dataset.score_answer(answer, entry))
        except TimeoutError:
            return 0.0
        except Exception:
            return None

    return limited(grade)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a function returns and the CPU seconds it took."""
    start = time.process_time()
    return function(), time.process_time() - start


def harder(task: str) -> dict[str, Any] | None:
    """The lowest level of the package's curriculum that makes nothing easier, or None."""
    from reasoning_gym.factory import CURRICULA, DATASETS, create_curriculum

    if task not in CURRICULA:
        return None
    default = DATASETS[task][1]()
    for level in (1, 2, 3):
        curriculum = create_curriculum(task)
        curriculum.set_global_level(level)
        try:
            config = curriculum.generate_configuration()
            if hasattr(config, "validate"):
                config.validate()
        except AssertionError:
            continue
        changed = {
            f.name: (getattr(default, f.name), getattr(config, f.name))
            for f in dataclasses.fields(config)
            if f.name not in {"seed", "size"} and getattr(default, f.name) != getattr(config, f.name)
        }
        values = [x for pair in changed.values() for x in pair]
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
        if changed and numbers and all(abs(new) >= abs(old) for old, new in changed.values()):
            return {name: new for name, (_, new) in changed.items()}
    return None


def works(suite: Suite, task: str, config: str) -> bool:
    """Whether the harder variant makes items in less than 100 ms each."""
    try:
        _, spent = timed(lambda: [suite.item(task, config, seed) for seed in seeds(10)])
    except (RuntimeError, MemoryError):
        return False
    return spent < 1.0


def beside(answer: str) -> list[str]:
    """Return texts that hold the right answer and more, or nearly all of it, and do not say the same."""
    half = len(answer) // 2
    inside = [f"zq{answer}qz", f"not {answer}", f"zq zq {answer} zq zq"]
    near = [
        answer[:-1],
        answer[1:],
        answer[:half] + answer[half + 1 :],
        answer + answer[-1:],
        answer[:half],
        answer[::-1],
    ]
    return inside + [text for text in near if not same_answer(answer, text) and not rounded(answer, text)]


def draw(suite: Suite, task: str) -> tuple[list[tuple[int, Any]], int, int, float]:
    """Return up to `ITEMS` items with their seeds, how many were drawn, how many differ, and seconds per item."""
    items, keys, spent = [], set(), 0.0
    drawn = 0
    for seed in seeds(DRAWS):
        made, took = timed(lambda s=seed: suite.item(task, "{}", s))  # type: ignore[misc]
        spent, drawn = spent + took, drawn + 1
        keys.add(made.key)
        if len(items) < ITEMS:
            items.append((seed, made))
        if spent > BUDGET_S and drawn >= 10:
            break
    return items, drawn, len(keys), spent / drawn


def copied(items: list[Any], grade: Callable[[Any, str], float]) -> float:
    """Return the share of items that the best copier solves: it hands in one fixed place of the question."""
    solved: dict[str, int] = {}
    for item in items:
        for name, text in copies(item.entry["question"]).items():
            solved[name] = solved.get(name, 0) + (grade(item, text) == 1.0)
    return round(max(solved.values(), default=0) / len(items), 4)


def guessed(items: list[Any], grade: Callable[[Any, str], float]) -> float:
    """Return the share of answers that are right for another of the next three items."""
    count = len(items)
    pairs = [(items[i], items[(i + k) % count].answer) for i in range(count) for k in (1, 2, 3)]
    return mean([float(grade(item, answer) == 1.0) for item, answer in pairs])


def audit(suite: Suite, task: str) -> dict[str, Any]:
    """Measure one task."""
    row: dict[str, Any] = {"config": {}, "hard": None, "flags": [], "withheld": WITHHELD.get(task, "")}
    if row["withheld"]:
        return row
    try:
        items, row["draws"], row["distinct"], row["item_s"] = draw(suite, task)
    except RuntimeError as error:
        return {**row, "withheld": str(error)}
    if row["item_s"] > 0.05:
        items = items[:20]
    grade = lambda item, answer: limited(lambda: suite.grade(task, "{}", item.entry, answer)) or 0.0  # noqa: E731
    right, spent = timed(lambda: [grade(item, item.answer) for _, item in items])
    row |= {"items": len(items), "oracle": mean(right), "score_s": round(spent / len(items), 6)}
    few = items if row["score_s"] < 0.01 else items[:6]
    stated = [item for _, item in few if item.entry["answer"] is not None]
    own = [
        package_score(suite.dataset(task, "{}", seed), i.entry["answer"], i.entry) for seed, i in few if i in stated
    ]
    row["package_oracle"] = mean([x or 0.0 for x in own]) if own else None
    row["empty"] = mean([grade(item, "") for _, item in few])
    row["echo"] = mean([grade(item, item.entry["question"]) for _, item in few])
    probes = {text: [grade(item, text) for _, item in few] for text in JUNK}
    row["junk"] = max(map(mean, probes.values()))
    row["junk_partial"] = max(mean([x * (CRUMBS < x < 1.0) for x in scores]) for scores in probes.values())
    row["junk_right"] = max(mean([float(x == 1.0) for x in scores]) for scores in probes.values())
    row["lenient"] = mean([float(grade(item, text) == 1.0) for _, item in few[:30] for text in beside(item.answer)])
    package = {t: [package_score(suite.dataset(task, "{}", s), t, i.entry) for s, i in few[:20]] for t in ("", *JUNK)}
    row["package_empty"] = mean([x or 0.0 for x in package.pop("")])
    row["package_junk"] = max(mean([x or 0.0 for x in scores]) for scores in package.values())
    row["package_raises"] = any(x is None for scores in package.values() for x in scores)
    made = [item for _, item in few]
    row["guess"], row["copied"] = guessed(made, grade), copied(made, grade)
    hard = harder(task)
    config = json.dumps(hard, sort_keys=True)
    row["hard"] = hard if hard and row["item_s"] < 0.1 and works(suite, task, config) else None
    if row["hard"]:
        made = [suite.item(task, config, seed) for seed in seeds(50)]
        grade_hard = lambda item, answer: limited(lambda: suite.grade(task, config, item.entry, answer)) or 0.0  # noqa: E731
        row["guess"] = max(row["guess"], guessed(made, grade_hard))
        row["copied"] = max(row["copied"], copied(made, grade_hard))
    row["item_s"] = round(row["item_s"], 6)
    return row


def flags(task: str, row: dict[str, Any]) -> list[str]:
    """Return the flags that a task's figures call for; envs/adapters/reasoning_gym.py says what they mean."""
    conditions = {
        "guessable": max(row["guess"], row["junk_right"]) > 0.1,
        "few-tasks": row["distinct"] < 0.9 * row["draws"],
        "slow": row["item_s"] > 0.05,
        "slow-scoring": row["score_s"] > 0.05,
        "repaired": task in GRADERS,
        "wordings": task in WORDINGS,
        "junk-partial": row["junk_partial"] > 0.05,
        "copy": row["copied"] > 0.08,  # of a variant's own tasks it may be more
        "lenient": row["lenient"] > 0,
    }
    return [name for name, holds in conditions.items() if holds]


def digests(what: str, backwards: bool) -> None:
    """Print, for every task, the questions and answers of a few seeds: as the package or the adapter makes them."""
    from reasoning_gym.factory import DATASETS, create_dataset

    suite, out = Suite(), {}
    with disarmed():
        for task in sorted(DATASETS.keys() - {"composite", *WITHHELD}, reverse=backwards):
            made = []
            start = time.process_time()
            for seed in seeds(40)[:: -1 if backwards else 1] if what == "adapter" else seeds(15):
                try:
                    if what == "adapter":
                        item = suite.item(task, "{}", seed)
                        made.append((seed, item.entry["question"], item.answer))
                    else:
                        entry = create_dataset(task, seed=seed, size=5)[0]
                        made.append((seed, entry["question"], str(entry["answer"])))
                except Exception as error:
                    made.append((seed, repr(error), ""))
                if what == "package" and time.process_time() - start > 30:
                    break
            out[task] = sorted(made)
    sys.__stdout__.write("\n" + json.dumps(out) + "\n")  # type: ignore[union-attr]


def in_process(what: str, backwards: bool, hash_seed: str) -> dict[str, Any]:
    """Return what `digests` prints in a process of its own."""
    command = [sys.executable, __file__, "--digests", what, *(["--backwards"] if backwards else [])]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
    )
    loaded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return loaded


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--digests", choices=("adapter", "package"))
    parser.add_argument("--backwards", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.digests:
        digests(options.digests, options.backwards)
        return
    from reasoning_gym.factory import DATASETS

    names = options.tasks.split(",") if options.tasks else sorted(DATASETS.keys() - {"composite"})
    rows: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))["tasks"]
    signal.signal(signal.SIGPROF, too_long)
    with disarmed():
        suite = Suite()
        for name in names:
            rows[name] = audit(suite, name)
            print(name, json.dumps(rows[name]), file=sys.stderr, flush=True)
            write(rows)
    package = in_process("package", False, "1"), in_process("package", False, "2")
    adapter = in_process("adapter", False, "0"), in_process("adapter", True, "0")
    for name, row in rows.items():
        if name in WITHHELD:
            continue
        row["hash_dependent"] = package[0][name] != package[1][name]
        row["same_everywhere"] = adapter[0][name] == adapter[1][name]
        if not row["withheld"] and not row["same_everywhere"]:
            row["withheld"] = "items differ between processes"
        if not row["withheld"]:
            row["flags"] = flags(name, row)
    write(rows)


def write(rows: dict[str, Any]) -> None:
    """Write the table."""
    document = {"package": "reasoning-gym 0.1.25", "made_by": "bench/reasoning_gym_audit.py", "tasks": rows}
    lines = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    TABLE.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
