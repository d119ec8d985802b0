"""Makes a run of other projects' result files, so that `palestra compare` gives them intervals and verdicts.

Two formats, told apart by what a line holds:

- human-eval: one sample a line, `{"task_id": ..., "completion": ..., "passed": true}`; samples of a task in order.
- score lists (limit-of-RLVR and other forks of math-evaluation-harness): one problem a line,
  `{"idx": ..., "question": ..., "score": [true, false], "code": [...], "pred": [...]}`. Several files, such as one per
  seed, add up.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from palestra.envs.errors import UsageError
from palestra.eval.records import SampleRecord
from palestra.eval.store import RunStore


class _Sample(NamedTuple):
    problem: str
    """What names the problem in the file."""
    key: str
    """Its content where the file has it, else its name: equal keys are equal problems."""
    prompt: str
    passed: bool
    text: str
    answer: str | None


class Imported(NamedTuple):
    """What was read."""

    problems: int
    samples: int
    fewest: int
    """Samples of the problem that has fewest: the n of a comparison."""


def import_scores(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    name: str,
    model: str,
    sampling: Mapping[str, Any] | None = None,
    variant: str = "test",
) -> Imported:
    """Write a run of result files.

    Problems are numbered in the order of their names, whatever their order in the files, samples as they come.

    Args:
        files: Result files, `.jsonl` or `.jsonl.gz`, all of one model and one benchmark.
        out: New folder for the run.
        name: Name of the benchmark; runs are comparable if theirs agree.
        model: Name of the model.
        sampling: Sampling settings, as far as they are known; runs are comparable if theirs agree.
        variant: Name of the variant: "test" is in distribution, "train..." was trained on, others are out of it.

    Raises:
        UsageError: A file cannot be read, is of neither format, gives partial credit, or is given twice; or `out`
            holds a run.
    """
    env = f"imported/{name}"
    manifest: dict[str, Any] = {
        "env": env,
        "model": {"name": model},
        "seed": None,
        "sampling": dict(sampling or {}),
        "imported": [{"file": Path(file).name, "sha256": _digest(file)} for file in files],
    }
    digests = [str(entry["sha256"]) for entry in manifest["imported"]]
    for number, digest in enumerate(digests):
        if digest in digests[:number]:
            twin = files[digests.index(digest)]
            raise UsageError(f"{files[number]} holds what {twin} holds: its samples would count twice; give it once.")
    samples = [sample for file in files for sample in _read(Path(file))]
    if not samples:
        raise UsageError(f"{', '.join(map(str, files))} hold no samples.")
    names = sorted({sample.problem for sample in samples}, key=_by_number)
    numbers = {name: number for number, name in enumerate(names)}
    counts: dict[int, int] = {}
    with RunStore.create(out, manifest) as store:
        for sample in samples:
            problem = numbers[sample.problem]
            counts[problem] = counts.get(problem, 0) + 1
            store.append(_record(env, variant, problem, counts[problem] - 1, sample), _trajectory(sample))
        store.update_manifest(samples=min(counts.values()), problems=len(counts))
        store.finish()
    return Imported(len(counts), len(samples), min(counts.values()))


def _record(env: str, variant: str, problem: int, number: int, sample: _Sample) -> SampleRecord:
    return SampleRecord(
        env=env,
        variant=variant,
        problem=problem,
        key=sample.key,
        sample=number,
        seed=None,
        outcome=float(sample.passed),
        process={},
        turns=1,
        tokens_in=None,
        tokens_out=None,
        wall_s=None,
        stop="answer",
        answer=None
        if sample.answer is None
        else sha256(sample.answer.encode("utf-8", "surrogatepass")).hexdigest()[:12],
    )


def _trajectory(sample: _Sample) -> dict[str, Any]:
    messages = [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.text}]
    return {"task": sample.problem, "messages": messages, "outcome": float(sample.passed), "process": {}}


def _by_number(name: str) -> list[tuple[bool, int, str]]:
    """Sort "T/2" before "T/10": digits count as numbers, which come before other text."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _digest(file: str | Path) -> str:
    """Return the digest of what a file holds, unpacked: a copy may be packed."""
    try:
        content = Path(file).read_bytes()
        with suppress(gzip.BadGzipFile, EOFError, zlib.error):  # reading its lines says where it is damaged
            content = gzip.decompress(content) if Path(file).suffix == ".gz" else content
    except OSError as error:
        raise UsageError(f"cannot read {file} ({error.strerror}).") from error
    return sha256(content).hexdigest()


def _read(file: Path) -> Iterator[_Sample]:
    opened = gzip.open(file) if file.suffix == ".gz" else file.open("rb")
    number = 0
    try:
        with opened as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield from _samples(json.loads(line), f"{file} line {number}")
    except (ValueError, RecursionError, OSError, EOFError, zlib.error) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{file} line {number + isinstance(error, OSError | EOFError | zlib.error)} cannot be read."
        ) from error


def _samples(row: Any, where: str) -> Iterator[_Sample]:
    if not isinstance(row, dict):
        raise UsageError(f"{where} is no JSON object.")
    if row.get("task_id") is not None and "passed" in row:
        problem = str(row["task_id"])
        completion = str(row.get("completion", ""))
        yield _Sample(
            problem, problem, str(row.get("prompt", problem)), _passed(row["passed"], where), completion, None
        )
        return
    scores = row.get("score")
    names = [str(row[name]) for name in ("idx", "question") if row.get(name) is not None]
    if not isinstance(scores, list) or not names:
        raise UsageError(
            f'{where} is of no known format: no "task_id" with "passed", and no "score" with "idx" or "question".'
        )
    if not scores:
        raise UsageError(f"{where} has no scores: the problem would be left out; delete the line if that is right.")
    problem, prompt = names[0], names[-1]
    texts, answers = _column(row, "code", len(scores), where), _column(row, "pred", len(scores), where)
    for score, written, answer in zip(scores, texts, answers, strict=True):
        yield _Sample(problem, prompt, prompt, _passed(score, where), written or "", answer)


def _column(row: Mapping[str, Any], name: str, count: int, where: str) -> list[str | None]:
    values = row.get(name)
    if values is None:
        return [None] * count
    if not isinstance(values, list) or len(values) != count:
        raise UsageError(f'{where} has {count} scores and not as many entries of "{name}".')
    return [None if value is None else str(value) for value in values]


def _passed(value: Any, where: str) -> bool:
    if value not in (True, False):  # 1 and 0 are equal to them
        raise UsageError(f"{where} has the score {value!r}: a success is true or false, so apply a threshold first.")
    return bool(value)
