"""The credit rules by name, as `--credit` takes them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from palestra.rl.credit.monte_carlo import monte_carlo_credit
from palestra.rl.credit.outcome import outcome_credit, unscaled_outcome_credit
from palestra.rl.credit.potential import potential_credit
from palestra.rl.credit.return_to_go import return_to_go_credit
from palestra.rl.credit.rewards import Advantages, EpisodeRewards
from palestra.rl.credit.step_groups import step_group_credit
from palestra.rl.credit.turn import turn_credit
from palestra.rl.credit.two_phase import two_phase_credit

OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "weight": "weight of process terms, or of the turn-level part",
        "gamma": "discount per turn",
        "process_weight": "weight of process terms in the step rewards of step-groups",
        "scale": "whether step-groups and monte-carlo divide by the spread within the group",
        "trace": "how far potential credits a turn with what follows it, 0 to 1",
        "step": "optimiser steps done so far",
        "dense_steps": "step at which two-phase turns strict",
        "values": "chances to succeed before each turn, for monte-carlo",
    }
)
"""What any rule may be told, by keyword."""


@dataclass(frozen=True, slots=True)
class CreditRule:
    """A rule with its help text. Called with all options, it hands on those that the rule takes."""

    function: Callable[..., list[Advantages]]
    description: str
    """One line, for the command line's help."""
    options: frozenset[str]
    """Names of the options that the rule takes."""
    needs: frozenset[str]
    """Those of them that have no default."""

    def __call__(self, episodes: Sequence[EpisodeRewards], group_size: int, **options: Any) -> list[Advantages]:
        """Return per-turn advantages.

        Raises:
            TypeError: An option that no rule has, or one missing that this rule needs.
            ValueError: As the rule raises.
        """
        unknown = sorted(options.keys() - OPTIONS.keys())
        missing = sorted(self.needs - options.keys())
        if unknown or missing:
            raise TypeError(f"no rule takes {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}")
        return self.function(episodes, group_size, **{k: v for k, v in options.items() if k in self.options})


def _rule(function: Callable[..., list[Advantages]], description: str) -> CreditRule:
    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return CreditRule(
        function,
        description,
        frozenset(p.name for p in keywords),
        frozenset(p.name for p in keywords if p.default is p.empty),
    )


CREDIT_RULES: Mapping[str, CreditRule] = MappingProxyType(
    {
        "outcome": _rule(outcome_credit, "GRPO: the outcome against the group's, the same for every turn"),
        "outcome-no-std": _rule(unscaled_outcome_credit, "Dr. GRPO: as outcome, not divided by the group's spread"),
        "turn": _rule(turn_credit, "MT-GRPO: outcome and each turn's process terms, compared separately and added"),
        "step-groups": _rule(
            step_group_credit, "GiGPO: outcome, and returns of steps that start from the same state compared"
        ),
        "return-to-go": _rule(return_to_go_credit, "discounted rewards from each turn on, compared turn by turn"),
        "potential": _rule(potential_credit, "outcome with potential-based shaping, which leaves the optimum alone"),
        "monte-carlo": _rule(
            monte_carlo_credit, "what each turn changed in the chance to succeed, by rollouts from its prefix"
        ),
        "two-phase": _rule(two_phase_credit, "process terms for the first steps, then the strict outcome alone"),
    }
)
