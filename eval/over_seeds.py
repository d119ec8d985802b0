"""Comparisons of the same arms under several training seeds: the seed is the unit of replication."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table

from palestra.eval.comparison import Comparison
from palestra.eval.stats.intervals import Interval, t_interval_over_seeds


class SeedDifference(NamedTuple):
    """A difference of two arms, over training seeds."""

    variant: str
    label: str
    """For example `rl - base`."""
    k: int
    per_seed: tuple[float, ...]
    """The difference in pass@k of each seed."""
    interval: Interval
    """Mean over seeds with its Student-t interval."""


def differences_over_seeds(comparisons: Sequence[Comparison], ks: Sequence[int]) -> list[SeedDifference]:
    """Return every difference of arms at each k, with a t interval over seeds (stats: Welch's rule for few seeds).

    Args:
        comparisons: One per training seed, of arms with the same labels and variants.
        ks: Values of k.

    Raises:
        ValueError: Fewer than two seeds, or comparisons of other arms or variants.
    """
    compared = [[(v.name, [d.label for d in v.differences]) for v in c.variants] for c in comparisons]
    if any(other != compared[0] for other in compared):
        raise ValueError(f"the seeds' comparisons are not of the same arms and variants: {compared}.")
    found = []
    for v, variant in enumerate(comparisons[0].variants):
        for d, difference in enumerate(variant.differences):
            for k in ks:
                values = [c.variants[v].differences[d].at(k).estimate for c in comparisons]
                interval = t_interval_over_seeds(values)
                found.append(SeedDifference(variant.name, difference.label, k, tuple(values), interval))
    return found


def seeds_table(found: Sequence[SeedDifference]) -> Table:
    """Lay out differences over seeds for the terminal; a star marks intervals that exclude 0."""
    seeds = len(found[0].per_seed)
    table = Table(
        "variant",
        "difference",
        "k",
        f"mean over {seeds} seeds [95% t interval]",
        "per seed",
        title="over training seeds",
    )
    for row in found:
        star = " *" if row.interval.excludes(0.0) else ""
        i = row.interval
        table.add_row(
            row.variant,
            row.label,
            str(row.k),
            f"{i.estimate:+.3f} [{i.low:+.3f}, {i.high:+.3f}]{star}",
            ", ".join(f"{value:+.3f}" for value in row.per_seed),
        )
    return table
