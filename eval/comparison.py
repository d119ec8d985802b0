"""What a comparison of runs holds: typed, immutable, and JSON-serialisable."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from palestra.eval.control_results import ControlResult
from palestra.eval.stats.chance import chance_curve
from palestra.eval.stats.intervals import CurveIntervals, Interval
from palestra.eval.stats.passk import FloatArray, IntArray
from palestra.eval.verdicts import RunVerdict

Distribution = Literal["in-distribution", "out-of-distribution", "training problems"]

TRAINING_NOTE = (
    "One training seed per run: intervals cover problems, not training. Training again with another seed may "
    "move a result by more than its interval."
)


@dataclass(frozen=True)
class RunInfo:
    """One run that was compared."""

    label: str
    """Name in tables and figures."""
    path: Path
    """The run directory."""
    manifest: dict[str, Any]
    """The manifest as stored."""


@dataclass(frozen=True)
class Curve:
    """pass@k of one run, or a difference of two, over a grid of k from 1 to n."""

    label: str
    """Label of the run, or of the difference, e.g. "rl - base"."""
    intervals: CurveIntervals
    """Arrays of shape (K,), one column per entry of `ks`."""
    ks: IntArray
    """The grid, shape (K,), increasing: every k up to 128 samples, else 8 to the octave with all powers of two."""

    def at(self, k: int) -> Interval:
        """Return the estimate at a k of the grid with its pointwise interval."""
        return self.intervals.interval(self._column(k))

    def band_at(self, k: int) -> Interval:
        """Return the estimate at a k of the grid with the simultaneous band over all of it."""
        return self.intervals.band(self._column(k))

    def _column(self, k: int) -> int:
        column: int = self.ks.tolist().index(k)
        return column


@dataclass(frozen=True)
class RunCurve(Curve):
    """pass@k of one run on one variant."""

    successes: IntArray
    """Successes among the first n samples of each problem, shape (m,)."""


@dataclass(frozen=True)
class Difference(Curve):
    """pass@k of one run minus pass@k of another on the same problems."""

    first: str
    """Label of the run subtracted from."""
    second: str
    """Label of the run subtracted."""

    def excludes_zero(self, k: int) -> bool:
        """Tell whether the pointwise interval at k excludes 0."""
        return self.at(k).excludes(0.0)

    def band_excludes_zero(self, k: int) -> bool:
        """Tell whether the simultaneous band at k excludes 0."""
        return self.band_at(k).excludes(0.0)


@dataclass(frozen=True)
class VariantComparison:
    """All runs on one variant."""

    name: str
    """Name of the variant."""
    problems: tuple[int, ...]
    """Indices of the problems, in the order of `RunCurve.successes`."""
    keys: tuple[str, ...]
    """Their content keys."""
    runs: tuple[RunCurve, ...]
    """One per run, in the order given."""
    differences: tuple[Difference, ...]
    """Each run minus the first, then the last run minus each one between."""
    verdicts: tuple[RunVerdict, ...]
    """Of each run against the first; none where every problem has 1 sample."""
    controls: tuple[ControlResult, ...] = ()
    """What the base reaches otherwise, for each run but the first and each control."""
    chance: FloatArray | None = None
    """Chance rate of each problem, shape (m,); None if it was not measured."""

    @property
    def distribution(self) -> Distribution:
        """What the variant says about generalisation: "test" is in-distribution, "train" was trained on."""
        if self.name.startswith("train"):
            return "training problems"
        return "in-distribution" if self.name == "test" else "out-of-distribution"


@dataclass(frozen=True)
class Comparison:
    """The result of `compare_runs`."""

    env: str
    """Environment id."""
    sampling: dict[str, Any]
    """Sampling settings that all runs share."""
    n: int
    """Samples of each problem that were used."""
    runs: tuple[RunInfo, ...]
    """The runs; the first is the reference."""
    variants: tuple[VariantComparison, ...]
    """"test" first, the others by name."""
    alpha: float
    """One minus the coverage of intervals and bands."""
    resamples: int
    """Bootstrap resamples."""
    seed: int
    """Seed of the bootstrap."""
    notes: tuple[str, ...]
    """What a reader must know, one sentence each; the warnings among them."""
    warnings: tuple[str, ...]
    """What is wrong with the runs themselves: samples that are not there, or not yet."""

    @property
    def ks(self) -> tuple[int, ...]:
        """1, 2, 4, ... up to n."""
        return tuple(2**power for power in range(self.n.bit_length()))

    @property
    def solid_k(self) -> int:
        """Greatest k of the solid part of a curve, n/2: beyond it few distinct draws of k are left."""
        return self.n // 2

    @property
    def shown_ks(self) -> tuple[int, ...]:
        """The few k of a summary: 1, 4, 16 and the greatest power of two in the solid part."""
        solid = [k for k in self.ks if k <= self.solid_k]
        return tuple(k for k in solid if k in (1, 4, 16, solid[-1])) or (1,)

    @property
    def verdicts(self) -> tuple[RunVerdict, ...]:
        """The verdicts of all variants."""
        return tuple(found for variant in self.variants for found in variant.verdicts)

    @property
    def controls(self) -> tuple[ControlResult, ...]:
        """What the base reaches otherwise, on all variants."""
        return tuple(found for variant in self.variants for found in variant.controls)

    @property
    def verdict_note(self) -> str:
        """What a reader of the verdicts must know, in words."""
        count = len(self.verdicts)
        note = f"Each of {count} verdicts" if count > 1 else "The verdict"
        note += (
            f" holds at its budget, with {1 - self.alpha:.0%} confidence by itself. Its intervals of Delta hold at "
            "all k together, and so are wider than those of the table, which hold at one k each."
        )
        if any("fresh samples" in need for found in self.verdicts for need in found.verdict.needs):
            note += (
                " Fresh samples are those of a run beyond the ones compared: extend it with `palestra eval -n`, and "
                f"compare with `--samples {self.n}`."
            )
        return note

    @property
    def estimand(self) -> str:
        """What the numbers estimate, in words."""
        sizes = ", ".join(f"{variant.name} m={len(variant.problems)}" for variant in self.variants)
        return (
            "pass@k is the chance that at least one of k attempts succeeds. Population: new problems of the "
            f"same generator. Estimated without bias from n={self.n} samples of each of m problems "
            f"({sizes}); {1 - self.alpha:.0%} intervals from {self.resamples} paired bootstrap resamples "
            "of problems."
        )

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values: verdicts, points at `ks` with everything, and the curves."""
        return {
            "v": 1,
            "env": self.env,
            "sampling": self.sampling,
            "n": self.n,
            "solid_k": self.solid_k,
            "alpha": self.alpha,
            "resamples": self.resamples,
            "seed": self.seed,
            "estimand": self.estimand,
            "training": TRAINING_NOTE,
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "runs": [{"label": r.label, "folder": r.path.name, "manifest": r.manifest} for r in self.runs],
            "variants": [self._variant_json(variant) for variant in self.variants],
        }

    def _variant_json(self, variant: VariantComparison) -> dict[str, Any]:
        return {
            "name": variant.name,
            "distribution": variant.distribution,
            "problems": list(variant.problems),
            "keys": list(variant.keys),
            "runs": [
                {"label": run.label, "successes": run.successes.tolist(), **self._curve_json(run)}
                for run in variant.runs
            ],
            "differences": [
                {"label": d.label, "first": d.first, "second": d.second, **self._curve_json(d)}
                for d in variant.differences
            ],
            "verdicts": [found.to_json() for found in variant.verdicts],
            "controls": [found.to_json() for found in variant.controls],
            "chance": None
            if variant.chance is None
            else [{"k": k, "pass": round(float(chance_curve(variant.chance, [k])[0]), 6)} for k in self.ks],
        }

    def _curve_json(self, curve: Curve) -> dict[str, Any]:
        points = []
        for k in self.ks:
            at, band = curve.at(k), curve.band_at(k)
            ends = {"estimate": at.estimate, "low": at.low, "high": at.high}
            band_ends = {"band_low": band.low, "band_high": band.high}
            point = {name: round(value, 6) for name, value in {**ends, **band_ends}.items()}
            flags = {"solid": k <= self.solid_k}
            if isinstance(curve, Difference):
                flags["excludes_zero"] = curve.excludes_zero(k)
                flags["band_excludes_zero"] = curve.band_excludes_zero(k)
            points.append({"k": k, **point, **flags})
        arrays = curve.intervals
        return {
            "points": points,
            "curve": {
                "k": curve.ks.tolist(),
                **{
                    name: np.round(getattr(arrays, name), 6).tolist()
                    for name in ("estimate", "low", "high", "band_low", "band_high")
                },
            },
        }
