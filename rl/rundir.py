"""The folder of a training run: what it was asked to do, how far it got, and where it may go on."""

import fcntl
import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from accelerate import PartialState
from pydantic import BaseModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from palestra.envs.errors import UsageError
from palestra.envs.folders import writable_folder, write_json
from palestra.rl.cost import COST
from palestra.rl.processes import rank

MANIFEST = "manifest.json"
LOCK = "train.lock"
_COMPLETE = "COMPLETE"
_FREE = {"track", "save_every", "show_every", "keep_checkpoints", "marker"}
"""Settings that a resumed run may change: they decide nothing about what is learned."""
_GROWING = {"steps"}
"""Settings that it may raise: what was learned until then is the same, and the run goes on from there."""


class RunFolder:
    """Opens or creates the output folder of a training run, and keeps other processes out of it until closed.

    Args:
        out: The folder.
        command: `sft`, `rft`, `dpo` or `train`.
        config: The run's configuration; a folder that holds another one is refused, unless that one never
            got as far as a checkpoint. More `steps` than the run had make it longer, also when it was done.

    Raises:
        UsageError: The folder cannot be written, holds something else, or another configuration; or a run that
            was done is to go on, and its checkpoints are gone.
    """

    def __init__(self, out: Path, command: str, config: BaseModel) -> None:
        self.out = out
        # A setting that is younger than a run: what the run did is the default.
        self._defaults = {name: field.default for name, field in type(config).model_fields.items()}
        self.manifest: dict[str, Any] = {
            "command": command,
            "config": config.model_dump(mode="json", exclude={"out"}),
            "status": "running",
        }
        if rank():  # the first of several processes has the folder; the others neither judge nor write it
            self._lock = open(os.devnull, "w", encoding="utf-8")
            existing = _read_manifest(out) if (out / MANIFEST).exists() else None
            self.manifest = self._longer(existing) if existing else self.manifest
            return
        existing = _read_manifest(out)
        writable_folder(out)
        self._lock = (out / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if existing is not None and (existing.get("status") == "done" or self._has_progress()):
                self._check_same(existing)
                self.manifest = self._longer(existing)
                if existing.get("status") == "done" and not self.done and self.last_checkpoint() is None:
                    raise UsageError(f"'{out}' has no checkpoint left to go on from; choose another --out")
            write_json(out / MANIFEST, self.manifest)
        except BlockingIOError as error:
            self.close()
            raise UsageError(
                f"another process is training in '{out}'; wait for it, or choose another --out"
            ) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the folder."""
        self._lock.close()

    @property
    def done(self) -> bool:
        """Whether the run has finished."""
        return bool(self.manifest["status"] == "done")

    def last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that was written whole; torn ones are removed."""
        found = sorted(self.out.glob("checkpoints/checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        for path in reversed(found):
            if (path / _COMPLETE).is_file():
                return path
            if not rank():
                shutil.rmtree(path)
        return None

    def _has_progress(self) -> bool:
        return self.last_checkpoint() is not None or (self.out / "rounds").is_dir()

    def finish(self, cost: dict[str, Any], **facts: Any) -> None:
        """Record that the run is done, with what it cost (also written beside the weights)."""
        self.manifest.update(status="done", versions=versions(), cost=cost, **facts)
        if not rank():
            write_json(self.out / COST, cost)
            write_json(self.out / MANIFEST, self.manifest)

    def _check_same(self, existing: dict[str, Any]) -> None:
        old, new = self._defaults | existing.get("config", {}), self.manifest["config"]
        if existing.get("command") != self.manifest["command"]:
            raise UsageError(f"'{self.out}' holds a run of `palestra {existing.get('command')}`; choose another --out")
        for key in new.keys() - _FREE:
            if old.get(key) != new[key] and not _grows(key, old, new):
                raise UsageError(
                    f"'{self.out}' holds a run with {key} = {old.get(key)!r}, not {new[key]!r}; "
                    "choose another --out, or delete that folder to start over"
                )

    def _longer(self, existing: dict[str, Any]) -> dict[str, Any]:
        """Return the manifest of an existing run; not done if more is asked for now."""
        old, new = existing.get("config", {}), self.manifest["config"]
        more = {key: new[key] for key in new if _grows(key, old, new)}
        return existing | {"config": old | more, "status": "running"} if more else existing


class MarkComplete(TrainerCallback):
    """Marks each checkpoint once it is whole, so that a kill in the middle of saving cannot be resumed from."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the mark, once all processes have written theirs."""
        PartialState().wait_for_everyone()
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            (folder / _COMPLETE).touch()


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    found = {"python": platform.python_version()}
    for name in ("palestra", "torch", "transformers", "trl", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _grows(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    return key in _GROWING and isinstance(old.get(key), int) and old[key] < new[key]


def _read_manifest(out: Path) -> dict[str, Any] | None:
    path = out / MANIFEST
    if not path.exists():
        if out.is_dir() and any(p.name != LOCK for p in out.iterdir()):
            raise UsageError(f"'{out}' is not empty and holds no training run; choose another --out")
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{path}' cannot be read ({error}); choose another --out") from error
    if not isinstance(manifest, dict) or "command" not in manifest:
        raise UsageError(f"'{out}' holds another kind of run; choose another --out")
    return manifest
