"""Runs for other tools: inspect's log, a Parquet table, a trackio project. Nothing leaves the machine."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from palestra.envs.errors import MissingPrerequisiteError, UsageError
from palestra.eval.records import MANIFEST, SampleRecord, read_manifest, read_rows, read_samples, read_trajectory
from palestra.eval.stats.passk import k_grid, pass_at_k_curve


def to_parquet(run: str | Path, out: str | Path) -> int:
    """Write the samples of a run as a Parquet table, a row per sample and a column per field.

    Process terms become columns `process_NAME`. Returns the number of rows.

    Raises:
        UsageError: The file cannot be written, or `run` is no run.
        PalestraError: A line is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_manifest(run)
    rows = []
    for row in read_rows(run):
        process = {f"process_{name}": value for name, value in row.pop("process").items()}
        rows.append({name: _text(v) if isinstance(v, str) else v for name, v in {**row, **process}.items()})
    names = list(dict.fromkeys(name for row in rows for name in row))
    types = {"seed": pa.uint64()}  # 64 bits without a sign
    columns = {name: pa.array([row.get(name) for row in rows], types.get(name)) for name in names}
    with _written_to(out):
        pq.write_table(pa.table(columns), out, compression="zstd")
    return len(rows)


def to_inspect(run: str | Path, out: str | Path) -> int:
    """Write a run as a log of inspect (`inspect view`, `inspect log dump`): a sample per problem, an epoch per sample.

    Returns the number of samples.

    Raises:
        MissingPrerequisiteError: inspect-ai is not installed.
        UsageError: `out` does not end in .eval or cannot be written, or `run` is no run.
        PalestraError: A line or a trajectory is damaged.
    """
    try:
        import inspect_ai.log as log
        from inspect_ai.scorer import Score
    except ImportError as error:
        raise MissingPrerequisiteError("this needs inspect-ai: pip install 'palestra[inspect]'") from error
    if Path(out).suffix != ".eval":
        raise UsageError(f"inspect's logs end in .eval, and '{out}' does not.")
    manifest = read_manifest(run)
    samples = read_samples(run)
    ids = sorted({_name(sample) for sample in samples})
    shown = [
        _inspect_sample(log, Score, sample, read_trajectory(run, sample.part, sample.offset)) for sample in samples
    ]
    solved = [sample.outcome for sample in samples if sample.error is None]
    metric = log.EvalMetric(name="mean", value=float(np.mean(solved)) if solved else 0.0)
    written = log.EvalLog(
        status="success" if manifest["status"] == "done" else "cancelled",
        eval=log.EvalSpec(
            created=datetime.fromtimestamp((Path(run) / MANIFEST).stat().st_mtime, UTC).isoformat(),
            task=manifest["env"],
            dataset=log.EvalDataset(name=manifest["env"], samples=len(ids), sample_ids=list(ids)),
            model=_model(manifest),
            config=log.EvalConfig(epochs=max(sample.sample for sample in samples) + 1),
            metadata=manifest,
        ),
        results=log.EvalResults(
            total_samples=len(samples),
            completed_samples=len(solved),
            scores=[log.EvalScore(name="outcome", scorer="outcome", metrics={"mean": metric})],
        ),
        samples=shown,
    )
    with _written_to(out):
        log.write_eval_log(written, str(Path(out).resolve()))
    return len(samples)


def to_trackio(run: str | Path, project: str) -> int:
    """Log the pass@k curves of a run to a local trackio project, one step per k; returns the number of points.

    Raises:
        MissingPrerequisiteError: trackio is not installed.
        UsageError: `run` is no run.
        PalestraError: A line is damaged.
    """
    try:
        import trackio
    except ImportError as error:
        raise MissingPrerequisiteError("this needs trackio: pip install 'palestra[trackio]'") from error
    manifest = read_manifest(run)
    curves = {variant: _curve(samples) for variant, samples in _by_variant(read_samples(run))}
    trackio.init(project=project, name=Path(run).resolve().name, config=manifest, embed=False)
    steps = sorted({k for curve in curves.values() for k in curve})
    for k in steps:
        trackio.log({f"{name}/pass@k": curve[k] for name, curve in curves.items() if k in curve}, step=k)
    trackio.finish()
    return sum(map(len, curves.values()))


@contextmanager
def _written_to(out: str | Path) -> Iterator[None]:
    """Make the folder of a file that is about to be written, and say it in a sentence if either fails."""
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UsageError(f"cannot write {out} ({error.strerror or error}); choose another file.") from error


def _by_variant(samples: list[SampleRecord]) -> Iterable[tuple[str, list[SampleRecord]]]:
    def variant(sample: SampleRecord) -> str:
        return sample.variant

    drawn = [sample for sample in samples if sample.error is None]
    return ((name, list(group)) for name, group in groupby(sorted(drawn, key=variant), variant))


def _curve(samples: list[SampleRecord]) -> dict[int, float]:
    counts: dict[int, list[float]] = {}
    for sample in samples:
        counts.setdefault(sample.problem, []).append(sample.outcome)
    n = min(map(len, counts.values()))
    ks = k_grid(n)
    # Of each problem the first n in the order of their numbers would do as well: samples are exchangeable.
    curve = pass_at_k_curve(n, [int(sum(outcomes[:n])) for outcomes in counts.values()])[:, ks - 1].mean(axis=0)
    return dict(zip(ks.tolist(), curve.tolist(), strict=True))


def _name(sample: SampleRecord) -> str:
    return f"{sample.variant}-{sample.problem}"


def _model(manifest: dict[str, Any]) -> str:
    model = manifest.get("model")
    return str(model.get("name") if isinstance(model, dict) else model)


def _inspect_sample(log: Any, score: Callable[..., Any], sample: SampleRecord, trajectory: dict[str, Any]) -> Any:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageTool, ChatMessageUser

    kinds = {"assistant": ChatMessageAssistant, "tool": ChatMessageTool}
    messages = [
        kinds.get(message["role"], ChatMessageUser)(content=_text(message["content"]))
        for message in trajectory.get("messages", [])
    ]
    return log.EvalSample(
        id=_name(sample),
        epoch=sample.sample + 1,
        input=messages[0].text if messages else "",
        target="",
        messages=messages,
        scores={"outcome": score(value=sample.outcome, metadata=sample.process or None)},
        metadata={"key": sample.key, "seed": str(sample.seed), "stop": sample.stop, "turns": sample.turns},
        total_time=sample.wall_s,
        error=None if sample.error is None else log.EvalError(message=sample.error, traceback="", traceback_ansi=""),
    )


def _text(content: object) -> str:
    # A lone surrogate has no UTF-8 form, which both are written in.
    return str(content).encode("utf-8", "replace").decode("utf-8")
