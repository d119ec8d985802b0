"""The samples of a run as arrays, which is what comparisons need of it: a million lines in seconds.

Large files go through pyarrow's reader in blocks. Whatever is odd about one (a line without a checksum, one that is
damaged, a sample drawn twice) is left to `read_rows`, which knows every rule and names the line.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from palestra.eval.records import CHECKSUM, SAMPLES, SCHEMA, SampleId, read_rows
from palestra.eval.stats.passk import IntArray

FAST_FROM = 4 * 2**20
"""Bytes from which on loading pyarrow pays."""
_BLOCK = 32 * 2**20
_MARK, _DIGITS = -CHECKSUM - 1, -11
"""Where a line with its end has its checksum."""
_NAMES = ("env", "variant", "problem", "sample", "key", "outcome", "error", "v")


class Columns(NamedTuple):
    """Finished samples, shape (samples,) each, in the order of the file."""

    env: str
    """Environment id of the first; empty without samples."""
    variants: list[str]
    """Names that `variant` indexes."""
    variant: IntArray
    problem: IntArray
    sample: IntArray
    outcome: npt.NDArray[np.uint8]
    keys: list[str]
    """Content keys that `key` indexes."""
    key: IntArray
    broken: list[tuple[SampleId, str]]
    """Samples that ended in an infrastructure error, which the arrays hold as well, with what broke."""


def read_columns(path: str | Path) -> Columns:
    """Read the samples of a run; raises as `read_rows`."""
    file = Path(path) / SAMPLES
    if file.exists() and file.stat().st_size >= FAST_FROM:
        fast = _fast(file)
        if fast is not None:
            return fast
    rows = read_rows(path)
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    keys = list(dict.fromkeys(row["key"] for row in rows))
    code, place = {v: i for i, v in enumerate(variants)}, {k: i for i, k in enumerate(keys)}
    return Columns(
        rows[0]["env"] if rows else "",
        variants,
        np.array([code[row["variant"]] for row in rows], dtype=np.int64),
        np.array([row["problem"] for row in rows], dtype=np.int64),
        np.array([row["sample"] for row in rows], dtype=np.int64),
        np.array([row["outcome"] for row in rows], dtype=np.uint8),
        keys,
        np.array([place[row["key"]] for row in rows], dtype=np.int64),
        [((row["variant"], row["problem"], row["sample"]), row["error"]) for row in rows if row["error"] is not None],
    )


def _fast(file: Path) -> Columns | None:
    """Read a file of whole, unrepeated lines with checksums; None for any other."""
    import pyarrow as pa
    import pyarrow.json as pj

    text, number = pa.string(), pa.int64()
    types = {"env": text, "variant": text, "key": text, "error": text, "outcome": pa.float64()}
    schema = pa.schema([(name, types.get(name, number)) for name in _NAMES])
    options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    reading = pj.ReadOptions(use_threads=False, block_size=2 * _BLOCK)

    def parsed(lines: list[bytes]) -> Any:
        table = pj.read_json(pa.BufferReader(b"".join(lines)), reading, options)
        # Names as numbers at once: a name per sample would take most of the memory.
        coded = {n: table[n].dictionary_encode() if types.get(n) == text else table[n] for n in _NAMES}
        return pa.table(coded)

    pending = []
    # Checksums are for this thread, JSON for the other one, which needs the interpreter for nothing.
    with ThreadPoolExecutor(1) as pool, file.open("rb") as stream:
        while lines := stream.readlines(_BLOCK):
            if not lines[-1].endswith(b"\n"):  # still being written
                lines.pop()
            if not all(map(_whole, lines)):
                return None
            if lines:
                pending.append(pool.submit(parsed, lines))
        try:
            tables = [block.result() for block in pending]
        except pa.ArrowInvalid:
            return None
    return _columns(pa.concat_tables(tables).unify_dictionaries().combine_chunks()) if tables else None


def _columns(table: Any) -> Columns | None:
    if any(table[name].null_count for name in _NAMES if name != "error"):
        return None
    variants, variant = _coded(table["variant"])
    keys, key = _coded(table["key"])
    problem, sample = table["problem"].to_numpy(), table["sample"].to_numpy()
    outcome = table["outcome"].to_numpy()
    if np.any(table["v"].to_numpy() != SCHEMA) or not np.isin(outcome, (0.0, 1.0)).all():
        return None
    order = np.lexsort((sample, problem, variant))
    same = [np.diff(column[order]) == 0 for column in (variant, problem, sample)]
    if np.any(np.logical_and.reduce(same)):
        return None
    errors = table["error"]
    broken = [
        ((variants[variant[row]], int(problem[row]), int(sample[row])), errors[int(row)].as_py())
        for row in np.flatnonzero(errors.is_valid().to_numpy())
    ]
    return Columns(
        table["env"][0].as_py(), variants, variant, problem, sample, outcome.astype(np.uint8), keys, key, broken
    )


def _coded(column: Any) -> tuple[list[str], IntArray]:
    coded = column.combine_chunks()
    coded = coded.chunk(0) if hasattr(coded, "chunk") else coded
    return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)


def _whole(line: bytes) -> bool:
    return line[_MARK:_DIGITS] == b',"crc":"' and b"%08x" % crc32(line[:_MARK]) == line[_DIGITS:-3]
