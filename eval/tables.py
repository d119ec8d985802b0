"""A comparison as a table for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from palestra.eval.comparison import TRAINING_NOTE, Comparison, Curve, Difference, VariantComparison

_SHORT = {"in-distribution": "ID", "out-of-distribution": "OOD", "training problems": "training"}


def comparison_table(comparison: Comparison) -> RenderableType:
    """Lay out a comparison: a row per variant and k, a column per run and per difference, verdicts, footnotes.

    Numbers are percentages, and percentage points in differences; each cell holds the estimate above its
    pointwise interval. `*` marks a difference whose interval excludes 0, `**` one whose simultaneous band
    over all k does too.
    """
    labels = [run.label for run in comparison.runs]
    differences = [difference.label for difference in comparison.variants[0].differences]
    table = Table(title=Text(f"{comparison.env}: pass@k in %"), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variant")
    table.add_column("k", justify="right")
    for label in [*labels, *differences]:
        table.add_column(Text(label), justify="right")
    for variant in comparison.variants:
        for row, k in enumerate(comparison.shown_ks):
            last = row == len(comparison.shown_ks) - 1
            cells = [_run_cell(run, k) for run in variant.runs]
            cells += [_difference_cell(difference, k) for difference in variant.differences]
            name = _variant_cell(variant) if row == 0 else Text()
            table.add_row(name, str(k), *cells, end_section=last)
    warnings = [Text(f"Warning: {text}", style="bold yellow") for text in comparison.warnings]
    return Group(*warnings, table, *_verdict_lines(comparison), *(Text(line) for line in _footnotes(comparison)))


def print_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print `comparison_table` to a console (standard output by default)."""
    (console or Console()).print(comparison_table(comparison))


def _variant_cell(variant: VariantComparison) -> Text:
    return Text(f"{variant.name}\n{_SHORT[variant.distribution]}, m={len(variant.problems)}")


def _run_cell(curve: Curve, k: int) -> Text:
    at = curve.at(k)
    return Text(f"{100 * at.estimate:.1f}\n{100 * at.low:.1f} to {100 * at.high:.1f}")


def _difference_cell(difference: Difference, k: int) -> Text:
    at = difference.at(k)
    mark = ""
    if difference.excludes_zero(k):
        mark = " **" if difference.band_excludes_zero(k) else " *"
    return Text(
        f"{100 * at.estimate:+.1f}{mark}\n{100 * at.low:+.1f} to {100 * at.high:+.1f}",
        style="bold" if mark else "",
    )


def _verdict_lines(comparison: Comparison) -> list[Text]:
    """List each verdict with its reasons and what would decide it, and then the budgets, once each."""
    lines = []
    budgets: dict[str, list[str]] = {}
    for found in comparison.verdicts:
        where = f"{found.variant}, {found.run} against {found.base}: "
        lines.append(Text.assemble(where, (found.title, "bold"), f" ({found.meaning})"))
        details = [*found.why, *found.unconfirmed, *(f"to decide {need}" for need in found.verdict.needs)]
        lines += [Text(f"  - {detail}") for detail in details]
        budgets.setdefault(found.verdict.budget, []).append(found.variant)
    lines += [Text(f"{held.variant}: {held}") for held in comparison.controls]
    for budget, variants in budgets.items():
        lines += [Text(f"{', '.join(dict.fromkeys(variants))}: {budget}"), Text()]
    return lines


def _footnotes(comparison: Comparison) -> list[str]:
    lines = [comparison.estimand]
    if comparison.verdicts:
        lines.append(comparison.verdict_note)
    if comparison.variants[0].differences:
        lines.append(
            "* the interval of this difference at this k excludes 0; ** so does its simultaneous band over all k."
        )
    lines.append(TRAINING_NOTE)
    if comparison.solid_k == 0:
        lines.append("n=1: nothing but pass@1 can be estimated, and no verdict given.")
    return lines + [f"Note: {note}" for note in comparison.notes if note not in comparison.warnings]
