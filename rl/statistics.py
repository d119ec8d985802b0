"""What a step's episodes were like, as sums that add up over processes and the numbers made of them."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from palestra.agents.markers import Markers
from palestra.agents.trajectory import Trajectory
from palestra.rl.overlong import is_cut

_PER_EPISODE = ("turns", "out_of_context", "cut", "markers")


def count(
    episodes: Iterable[Trajectory], stop_ids: Collection[int], markers: Markers | None = None
) -> dict[str, float]:
    """Return the sums over some episodes.

    Args:
        episodes: All that were sampled, also those that were not taken.
        stop_ids: Ids that end a turn.
        markers: What counts as back-tracking; by default English phrases.
    """
    markers = markers or Markers()
    sums: dict[str, float] = defaultdict(float)
    for t in episodes:
        called = [message["content"] for message in t.messages if message["role"] == "tool"]
        for name, value in (
            ("episodes", 1),
            ("tokens", t.sampled),
            ("outcomes", t.outcome),
            ("broken", t.stop == "error"),
            ("turns", len(t.turns)),
            ("malformed", sum(turn.kind == "malformed" for turn in t.turns)),
            ("out_of_context", t.stop == "length"),
            ("cut", is_cut(t, stop_ids)),
            ("markers", any(markers.count(m["content"]) for m in t.messages if m["role"] == "assistant")),
            ("tool_calls", len(called)),
            ("tool_errors", sum(text.startswith("Error:") for text in called)),
            *((f"process/{name}", value) for name, value in t.process.items()),
        ):
            sums[name] += value
    return sums


def total(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sums of several parts together."""
    sums: dict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.items():
            sums[name] += value
    return sums


def numbers(sums: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return what is logged.

    Args:
        sums: Over the episodes of all processes; at least one.
        seconds: What they took.
    """
    episodes, turns = sums["episodes"], max(1, sums["turns"])
    found = {
        "outcome_before_filter": sums["outcomes"] / max(1, episodes - sums["broken"]),
        "errors": sums["broken"],
        "tokens_per_second": sums["tokens"] / max(1e-9, seconds),
        "tokens_per_turn": sums["tokens"] / turns,
        "malformed_turns": sums["malformed"] / turns,
        **{name: sums[name] / episodes for name in _PER_EPISODE},
        **{name: value / episodes for name, value in sorted(sums.items()) if name.startswith("process/")},
    }
    if sums["tool_calls"]:
        found["tool_errors"] = sums["tool_errors"] / sums["tool_calls"]
    return found
