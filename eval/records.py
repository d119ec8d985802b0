"""Sample records, and reading a run directory. Reading takes no lock and skips a line still being written.

The layout is described in `palestra.eval.store`, which writes it.
"""

import gc
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any
from zlib import crc32

from pydantic import BaseModel, NonNegativeInt, ValidationError

from palestra.envs.errors import PalestraError, UsageError

SCHEMA = 1
"""Version of the manifest and of every sample line."""
MANIFEST = "manifest.json"
SAMPLES = "samples.jsonl"
TRAJECTORIES = "trajectories"

CHECKSUM = len(b',"crc":"00000000"}')
"""Bytes by which a line ends: a checksum of what stands before."""

SampleId = tuple[str, int, int]
"""(variant, problem, sample)."""


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One finished episode, as statistics see it."""

    env: str
    """Environment id."""
    variant: str
    """Name of the variant, e.g. "test"."""
    problem: int
    """Index of the problem within the variant, from 0."""
    key: str
    """Content key of the task: equal keys are equal problems."""
    sample: int
    """Index of the sample of this problem, from 0."""
    seed: int | None
    """Seed the sample was drawn with; None if it was imported."""
    outcome: float
    """1.0 success, 0.0 failure; partial credit belongs in `process`."""
    process: dict[str, float]
    """Named process terms."""
    turns: int
    """Assistant turns."""
    tokens_in: int | None
    """Prompt tokens the model read; None if unknown, as the next ones."""
    tokens_out: int | None
    """Tokens the model wrote."""
    wall_s: float | None
    """Seconds from reset to the last step."""
    stop: str
    """Why the episode ended."""
    error: str | None = None
    """What broke outside the model's control (engine, sandbox); such a sample has no valid outcome."""
    part: int = -1
    """Trajectory file, set by the store."""
    offset: int = -1
    """Byte offset of the trajectory in its file, set by the store."""
    v: int = SCHEMA
    """Schema version."""
    answer: str | None = None
    """Digest of the final answer's text: equal answers have equal digests. None if there was no answer."""
    logprob: float | None = None
    """Log-probability of all the model wrote, under the sampling temperature, in nats."""
    tokens_drawn: int | None = None
    """Tokens that were sampled to get this episode, where that is more than it holds (power sampling)."""
    cut: int = 0
    """Turns that the limit of tokens per turn ended, and not the model."""

    def __post_init__(self) -> None:
        if self.outcome not in (0.0, 1.0):
            raise ValueError(f"outcome must be 0.0 or 1.0, not {self.outcome}; put partial credit into process.")

    @property
    def id(self) -> SampleId:
        """Identity of the sample within its run."""
        return self.variant, self.problem, self.sample


class _Counts(BaseModel, strict=True):
    problems: NonNegativeInt
    samples: NonNegativeInt


class _Asked(BaseModel, strict=True):
    """What a manifest says that a run was asked for; what it does not say is not missed."""

    variants: dict[str, _Counts] = {}
    samples: NonNegativeInt = 0


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read the manifest of a run.

    Raises:
        UsageError: The folder is no run, or was written by another schema.
    """
    root = Path(path)
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        reason = "there is no such folder" if not root.exists() else f"it has no readable {MANIFEST}"
        raise UsageError(f"{root} is not a run: {reason}; give a folder that `palestra eval` wrote.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{root / MANIFEST} is not valid JSON; restore it from a copy.") from error
    if isinstance(manifest, dict) and "command" in manifest:
        raise UsageError(f"{root} holds a training run; evaluate its model with `palestra eval --model {root}` first.")
    if not isinstance(manifest, dict) or manifest.get("v") != SCHEMA:
        version = manifest.get("v") if isinstance(manifest, dict) else None
        raise UsageError(
            f"{root} has schema {version}, and this version reads {SCHEMA}; use the version that wrote it."
        )
    if manifest.get("status") not in ("running", "done"):
        raise UsageError(f"{root / MANIFEST} does not say whether the run is done; restore it from a copy.")
    try:
        _Asked.model_validate(manifest)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UsageError(f"{root / MANIFEST} states a wrong '{where}'; restore it from a copy.") from error
    return manifest


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read the sample lines of a run as dictionaries, one per sample (see `SampleRecord` for the fields).

    A line still being written is left out, and a sample drawn again after an infrastructure error counts
    once, with its later line.

    Raises:
        PalestraError: A line is damaged, is of another schema, or repeats a finished sample.
    """
    file = Path(path) / SAMPLES
    rows: dict[SampleId, dict[str, Any]] = {}
    with _collector_paused():
        for number, row in _lines(file):
            if problem := _fault(row):
                raise PalestraError(f"{file} line {number} {problem}.")
            key = sample_id(row)
            if key in rows and rows[key]["error"] is None:
                raise PalestraError(f"{file} line {number} repeats {sample_name(key)}; delete one of the two lines.")
            rows[key] = row
    return list(rows.values())


def read_samples(path: str | Path) -> list[SampleRecord]:
    """Read the samples of a run; raises as `read_rows`."""
    with _collector_paused():
        return [SampleRecord(**row) for row in read_rows(path)]


def read_trajectory(path: str | Path, part: int, offset: int) -> dict[str, Any]:
    """Read the trajectory that a sample's `part` and `offset` point to.

    Raises:
        PalestraError: The file is missing or damaged there.
    """
    file = Path(path) / TRAJECTORIES / f"part-{part:05d}.jsonl"
    try:
        with file.open("rb") as lines:
            lines.seek(offset)
            trajectory: dict[str, Any] = json.loads(lines.readline())
        if not all(isinstance(message, dict) for message in trajectory["messages"]):
            raise ValueError("a message is no object")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise PalestraError(f"{file} has no trajectory at byte {offset}; restore the file from a copy.") from error
    return trajectory


def first_difference(there: Any, now: Any, name: str) -> tuple[str, str, str] | None:
    """Name the first entry in which two JSON values differ, with both values, or None if they are equal."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted(there.keys() | now.keys()):
            found = first_difference(there.get(key), now.get(key), f"{name}.{key}")
            if found:
                return found
        return None
    return None if there == now else (name, json.dumps(there), json.dumps(now))


def missing_samples(manifest: Mapping[str, Any], held: Collection[SampleId]) -> int:
    """Count the samples that a run was asked for and does not hold.

    Runs of older versions do not say how many problems a variant has, and a problem that lost all its samples is not
    missed.
    """
    problems: dict[str, set[int]] = {}
    for variant, problem, _ in held:
        problems.setdefault(variant, set()).add(problem)
    older = {v: {"problems": len(found), "samples": manifest.get("samples", 0)} for v, found in problems.items()}
    missing = 0
    for variant, asked in manifest.get("variants", older).items():
        found = problems.get(variant, set())
        missing += max(0, asked["problems"] - len(found)) * asked["samples"]
        missing += sum((variant, problem, i) not in held for problem in found for i in range(asked["samples"]))
    return missing


def sample_id(row: Mapping[str, Any]) -> SampleId:
    """Return the identity of a sample line."""
    return row["variant"], row["problem"], row["sample"]


def sample_name(key: SampleId) -> str:
    """Name a sample in a message."""
    return f"sample {key[2]} of problem {key[1]} ({key[0]})"


def sample_line(record: SampleRecord) -> bytes:
    """Return the line of a record, which ends in a checksum of all that stands before it.

    Raises:
        ValueError: A number in the record is not finite.
    """
    body = json.dumps(asdict(record), allow_nan=False, separators=(",", ":"))[:-1].encode("ascii")
    return body + b',"crc":"%08x"}\n' % crc32(body)


_BATCH = 4096
_FIELDS = {field.name for field in fields(SampleRecord)}
_KINDS = {"env": str, "variant": str, "problem": int, "key": str, "sample": int, "part": int, "offset": int}
_COUNTABLE = 2**48
"""Numbers from here on are no indices."""
_REQUIRED = {field.name for field in fields(SampleRecord) if field.default is MISSING} | {"part", "offset", "v"}


def _fault(row: object) -> str | None:
    """Say what is wrong with a sample line, or None."""
    if not isinstance(row, dict):
        return "is not a JSON object; delete the line to have its sample drawn again"
    if row.get("v") != SCHEMA:
        return f"has schema {row.get('v')}, and this version reads {SCHEMA}; use the version that wrote it"
    if not _REQUIRED <= row.keys() <= _FIELDS:
        odd = ", ".join(sorted((_REQUIRED - row.keys()) | (row.keys() - _FIELDS)))
        return f"lacks or adds fields ({odd}); delete the line to have its sample drawn again"
    for name, kind in _KINDS.items():
        if type(row[name]) is not kind:
            return f"has the {name} {row[name]!r}, which is no {kind.__name__}; delete the line to have it drawn again"
    if not 0 <= row["problem"] < _COUNTABLE or not 0 <= row["sample"] < _COUNTABLE:
        return "numbers its problem or sample out of range; delete the line to have it drawn again"
    if row["error"] is not None and not isinstance(row["error"], str):
        return f"has the error {row['error']!r}, which is no text; delete the line to have its sample drawn again"
    if row["outcome"] not in (0.0, 1.0):
        return f"has the outcome {row['outcome']}, which is neither 0 nor 1; score the run again"
    return None


def _lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, parsed line), without a last line that has no end yet."""
    if not file.exists():
        return
    lines = file.read_bytes().split(b"\n")[:-1]
    for start in range(0, len(lines), _BATCH):
        batch = lines[start : start + _BATCH]
        yield from enumerate(_parsed(file, start, batch), start=start + 1)


def _parsed(file: Path, start: int, batch: list[bytes]) -> list[Any]:
    bodies = []
    for number, line in enumerate(batch, start=start + 1):
        body = line
        if line[-CHECKSUM:-10] == b',"crc":"':  # lines of older runs have none
            body = line[:-CHECKSUM]
            if b"%08x" % crc32(body) != line[-10:-2]:
                raise PalestraError(
                    f"{file} line {number} is not what was written (its checksum differs); delete the line to have "
                    "its sample drawn again."
                )
            body += b"}"
        bodies.append(body)
    try:
        # One call for many lines: three times as fast as a call for each.
        rows: list[Any] = json.loads(b"[" + b",".join(bodies) + b"]")
        if len(rows) == len(batch):
            return rows
    except (ValueError, RecursionError):
        # Parsed again below, line by line, to name the one at fault.
        pass
    rows = []
    for number, body in enumerate(bodies, start=start + 1):
        try:
            rows.append(json.loads(body))
        except (ValueError, RecursionError) as error:
            raise PalestraError(
                f"{file} line {number} is not valid JSON; delete the line to have its sample drawn again."
            ) from error
    return rows


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector: it walks every row read so far, again and again, and doubles the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
