"""One word per problem: sharpened, discovered, lost or unresolved (docs/statistics.md, 12)."""

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from palestra.eval.stats.bounds import lower_bound, upper_bound
from palestra.eval.stats.discovery import BoolArray, DiscoveryRule
from palestra.eval.stats.exact import theta
from palestra.eval.stats.passk import Counts


class ProblemLabel(StrEnum):
    """What training did on one problem."""

    SHARPENED = "sharpened"
    DISCOVERED = "discovered"
    LOST = "lost"
    UNRESOLVED = "unresolved"


def label_problems(
    n: int | Counts,
    c_base: Counts,
    c_rl: Counts,
    *,
    discovered: BoolArray,
    lost: BoolArray,
    rule: DiscoveryRule,
    alpha: float = 0.05,
) -> npt.NDArray[np.str_]:
    """Label every problem.

    With exact one-sided bounds L and U at level alpha, a problem is sharpened if the base reaches it within the
    budget, 1-(1-L_B)^K >= 1/2, the trained model is dependable on it, L_R >= delta, and better, L_R > U_B.
    Without the last condition, 59 % of the problems of two copies of one model came out as sharpened in a
    simulation (p ~ Beta(0.5, 2), n = 256), with it 0.5 %.

    Args:
        n: Samples of either model, one number or shape (m,).
        c_base: Successes of the base, shape (m,).
        c_rl: Successes of the trained model, in the same order.
        discovered: Confirmed discoveries, shape (m,).
        lost: Confirmed losses, shape (m,).
        rule: What a discovery is: K and delta.
        alpha: One minus the coverage of each bound.

    Returns:
        `ProblemLabel` values, shape (m,).

    Raises:
        ValueError: A count is not whole or out of range.
    """
    base_low, base_high = lower_bound(n, c_base, alpha), upper_bound(n, c_base, alpha)
    trained_low = lower_bound(n, c_rl, alpha)
    reached = theta(base_low, rule.budget) >= 0.5
    sharpened = reached & (trained_low >= rule.delta) & (trained_low > base_high)
    conditions = [discovered, lost, sharpened]
    values = [ProblemLabel.DISCOVERED.value, ProblemLabel.LOST.value, ProblemLabel.SHARPENED.value]
    return np.select(conditions, values, default=ProblemLabel.UNRESOLVED.value)
