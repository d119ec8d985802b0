"""Credit assignment: from the rewards of episodes and turns to per-turn advantages.

Pure functions on arrays, one module per rule, each with its paper, its pitfalls and how it can be gamed. A rule
takes the episodes of whole groups, members standing together, and returns one array `(turns,)` per episode.
"""

from palestra.rl.credit.normalise import EPSILON, group_advantages, turn_advantages
from palestra.rl.credit.registry import CREDIT_RULES, OPTIONS, CreditRule
from palestra.rl.credit.rewards import Advantages, EpisodeRewards
from palestra.rl.credit.step_groups import singleton_share

__all__ = [
    "CREDIT_RULES",
    "EPSILON",
    "OPTIONS",
    "Advantages",
    "CreditRule",
    "EpisodeRewards",
    "group_advantages",
    "singleton_share",
    "turn_advantages",
]
