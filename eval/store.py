"""The run directory: what was sampled, kept so that `kill -9` loses nothing finished and repeats nothing.

    RUN/manifest.json                 what was asked for; "status" is "running" or "done"
    RUN/samples.jsonl                 one slim line per sample: all that statistics read
    RUN/trajectories/part-00000.jsonl the episodes, a new part every 64 MiB

Everything but the manifest is append-only. A trajectory is written before the sample that points to it,
so a sample line always points to a whole trajectory; a trajectory without its sample is never read. One
process writes at a time (`flock`); reading needs no lock and skips a line still being written.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from palestra.envs.errors import PalestraError, UsageError
from palestra.eval.records import (
    MANIFEST,
    SAMPLES,
    SCHEMA,
    TRAJECTORIES,
    SampleId,
    SampleRecord,
    first_difference,
    read_manifest,
    read_rows,
    read_samples,
    read_trajectory,
    sample_id,
    sample_line,
    sample_name,
)

__all__ = [
    "RunStore",
    "SampleId",
    "SampleRecord",
    "read_manifest",
    "read_rows",
    "read_samples",
    "read_trajectory",
]

LOCK = "write.lock"
UNBEGUN = frozenset({LOCK, f"{MANIFEST}.draft"})
"""All that a run holds that died, or whose disk was full, before its manifest was written."""
PART_BYTES = 64 * 2**20
"""A trajectory file longer than this is followed by a new one."""
_FSYNC_SECONDS = 1.0


class RunStore:
    """Writes one run directory; use as a context manager, or call `close`."""

    def __init__(self, path: Path, lock: BinaryIO, manifest: dict[str, Any], part_bytes: int) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock
        self._part_bytes = part_bytes
        self._errored: dict[SampleId, bool] = {}
        self._synced = time.monotonic()
        self._part = 0
        self._samples: BinaryIO | None = None
        self._trajectories: BinaryIO | None = None

    @classmethod
    def create(cls, path: str | Path, manifest: Mapping[str, Any], *, part_bytes: int = PART_BYTES) -> "RunStore":
        """Start a new run.

        Args:
            path: The folder of the run; made if it does not exist.
            manifest: What is to be sampled and how, JSON-serialisable. `palestra.eval.compare` reads "env"
                and "sampling" (the settings that must agree between runs).
            part_bytes: A trajectory file longer than this is followed by a new one.

        Raises:
            UsageError: The folder cannot be written to, or already holds a run.
            PalestraError: Another process is writing to it.
            ValueError: The manifest uses the reserved names "v" or "status".
        """
        root = Path(path)
        if {"v", "status"} & manifest.keys():
            raise ValueError('a manifest must not hold "v" or "status": the store sets them.')
        text = _manifest_text({"v": SCHEMA, "status": "running", **manifest})
        try:
            root.mkdir(parents=True, exist_ok=True)
            store = cls(root, _locked(root), json.loads(text), part_bytes)
            with store._closed_on_error():
                if (root / MANIFEST).exists() or (root / SAMPLES).exists():
                    raise UsageError(f"{root} already holds a run; resume it, or choose another folder.")
                _write_atomically(root / MANIFEST, text)
                store._open_files()
        except OSError as error:
            raise _unwritable(root, error) from error
        return store

    @classmethod
    def open(
        cls, path: str | Path, *, expect: Mapping[str, Any] | None = None, part_bytes: int = PART_BYTES
    ) -> "RunStore":
        """Continue a run: drop a torn last line of either file and learn what is done.

        Args:
            path: The folder of the run.
            expect: Manifest entries that must equal those of the run, e.g. the configuration of the caller.
            part_bytes: As for `create`.

        Raises:
            UsageError: The folder is no run, cannot be written to, or was made with other settings.
            PalestraError: Another process is writing to it, or a file of it is damaged.
        """
        root = Path(path)
        stored = read_manifest(root)
        for name, value in json.loads(json.dumps(dict(expect or {}))).items():
            if found := first_difference(stored.get(name), value, name):
                entry, there, now = found
                raise UsageError(
                    f"{root} was made with another configuration ({entry} is {there} there and {now} now); "
                    "resume it with the same settings, or choose another folder."
                )
        try:
            store = cls(root, _locked(root), stored, part_bytes)
            with store._closed_on_error():
                # Again: a writer that ended just now may have changed it.
                store.manifest = read_manifest(root)
                store._repair()
                store._open_files()
        except OSError as error:
            raise _unwritable(root, error) from error
        return store

    def append(self, sample: SampleRecord, trajectory: Mapping[str, Any]) -> SampleRecord:
        """Store one finished episode; once this returns, a killed process does not lose it.

        A sample that ended in an infrastructure error may be appended again: the later line counts.

        Args:
            sample: The record; `part` and `offset` are filled in.
            trajectory: The episode: "task", "messages" (each with "role" and "content"), "outcome",
                "process", "stop", and whatever else is JSON-serialisable.

        Returns:
            The record as stored.

        Raises:
            PalestraError: The sample is already stored, or the disk refuses the line.
            ValueError: A number in the sample is not finite.
        """
        if self._samples is None or self._trajectories is None:
            raise PalestraError(f"{self.path} is closed; open it again to append.")
        if self._errored.get(sample.id) is False:
            raise PalestraError(f"{self.path} already holds {sample_name(sample.id)}.")
        try:
            if self.manifest["status"] == "done":
                self.update_manifest(status="running")
            if self._trajectories.tell() >= self._part_bytes:
                self._roll()
            stored = replace(sample, part=self._part, offset=self._trajectories.tell())
            lines = _line(trajectory), sample_line(stored)
            for file, line in zip((self._trajectories, self._samples), lines, strict=True):
                file.write(line)
                file.flush()
            if time.monotonic() - self._synced >= _FSYNC_SECONDS:
                self._sync()
        except OSError as error:
            # A line may be half written; going on would put the next one behind it.
            self._abandon()
            raise PalestraError(
                f"cannot write to {self.path} ({error.strerror}); mend that and resume the run."
            ) from error
        self._errored[sample.id] = sample.error is not None
        return stored

    def done(self) -> set[SampleId]:
        """Return the samples that need not be drawn again: stored, without an infrastructure error."""
        return {key for key, errored in self._errored.items() if not errored}

    def samples(self) -> list[SampleRecord]:
        """Read back the samples, in the order of their first lines."""
        return read_samples(self.path)

    def update_manifest(self, **changes: Any) -> None:
        """Rewrite manifest entries atomically, e.g. `n` when a run is extended.

        Raises:
            PalestraError: The manifest cannot be written.
        """
        manifest = {**self.manifest, **changes}
        try:
            _write_atomically(self.path / MANIFEST, _manifest_text(manifest))
        except OSError as error:
            raise PalestraError(
                f"cannot write to {self.path} ({error.strerror}); mend that and resume the run."
            ) from error
        self.manifest = manifest

    def finish(self) -> None:
        """Mark the run done and close it."""
        if self._samples is not None:
            self._sync()
        self.update_manifest(status="done")
        self.close()

    def close(self) -> None:
        """Flush to disk and let another writer in; the run stays resumable."""
        if self._samples is not None:
            self._sync()
        self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _abandon(self) -> None:
        for file in (self._samples, self._trajectories, self._lock):
            if file is not None:
                try:
                    file.close()
                except OSError:
                    # Closing flushes; after a full disk that fails again, and was reported already.
                    continue
        self._samples = self._trajectories = None

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._abandon()
            raise

    def _part_path(self, part: int) -> Path:
        return self.path / TRAJECTORIES / f"part-{part:05d}.jsonl"

    def _open_files(self) -> None:
        (self.path / TRAJECTORIES).mkdir(exist_ok=True)
        self._samples = (self.path / SAMPLES).open("ab")
        self._trajectories = self._part_path(self._part).open("ab")

    def _roll(self) -> None:
        if self._trajectories is not None:
            os.fsync(self._trajectories.fileno())
            self._trajectories.close()
        self._part += 1
        self._trajectories = self._part_path(self._part).open("ab")

    def _sync(self) -> None:
        # Trajectories first, so that a power cut cannot keep a sample and lose its trajectory.
        for file in (self._trajectories, self._samples):
            if file is not None:
                os.fsync(file.fileno())
        self._synced = time.monotonic()

    def _repair(self) -> None:
        parts = sorted((self.path / TRAJECTORIES).glob("part-*.jsonl"))
        samples = self.path / SAMPLES
        for path in [*parts[-1:], samples]:
            if path.exists():
                _cut_torn_line(path)
        sizes = {_part_number(part): part.stat().st_size for part in parts}
        self._part = max(sizes, default=0)
        rows = read_rows(self.path)
        if any(row["part"] not in sizes for row in rows):
            raise PalestraError(f"{self.path} has lost files of {TRAJECTORIES}/; restore them, or start a new run.")
        if any(row["offset"] >= sizes[row["part"]] for row in rows):
            # A power cut kept these lines and lost the trajectories they point to: draw them again.
            _cut_unbacked_lines(samples, sizes)
            rows = read_rows(self.path)
        self._errored = {sample_id(row): row["error"] is not None for row in rows}


def _line(value: Mapping[str, Any]) -> bytes:
    # ASCII: a lone surrogate in a model's text must not break the write, nor U+2028 a reader of lines.
    return (json.dumps(value, separators=(",", ":")) + "\n").encode("ascii")


def _cut_torn_line(path: Path) -> None:
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        whole = end
        while whole:
            start = max(0, whole - 2**20)
            file.seek(start)
            newline = file.read(whole - start).rfind(b"\n")
            if newline >= 0:
                whole = start + newline + 1
                break
            whole = start
        if whole < end:
            file.truncate(whole)


def _cut_unbacked_lines(samples: Path, sizes: Mapping[int, int]) -> None:
    """Cut the sample lines from the first one on whose trajectory is not there.

    Both files grow in the same order, so all later lines lack theirs too.
    """
    with samples.open("r+b") as file:
        kept = 0
        for line in file:
            row = json.loads(line)
            if row["offset"] >= sizes[row["part"]]:
                break
            kept += len(line)
        file.truncate(kept)


def _part_number(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2) + "\n"


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _locked(root: Path) -> BinaryIO:
    lock = (root / LOCK).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise PalestraError(
            f"another process is writing to {root}; wait for it to end, or choose another folder."
        ) from error
    return lock


def _unwritable(root: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write a run to {root} ({error.strerror}); choose a folder you can write to.")
