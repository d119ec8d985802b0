"""What an episode leaves behind: the tokens as sampled, who wrote them, and what each turn earned."""

from dataclasses import dataclass, field
from typing import Any

from palestra.envs.core import TaskId
from palestra.envs.errors import PalestraError


@dataclass(slots=True)
class TurnSpan:
    """One assistant turn: its sampled tokens and its process terms."""

    start: int
    """First token of the turn, as an index into `completion_ids`."""
    end: int
    """One past its last token."""
    process: dict[str, float] = field(default_factory=dict)
    """Process terms the turn earned."""
    state: str = ""
    """Names the state in which the turn began (`TextEnv.anchor`)."""
    kind: str = ""
    """What the environment took the turn for: `tool`, `answer` or `malformed`; empty if it did not say."""
    cut: bool = False
    """Whether the limit of tokens per turn ended it, and not the model."""


@dataclass(slots=True)
class Trajectory:
    """A finished episode. `completion_ids`, `mask` and `logprobs` have one entry per token after the prompt."""

    task: TaskId
    key: str
    """The task's canonical content."""
    prompt_ids: list[int] = field(default_factory=list)
    completion_ids: list[int] = field(default_factory=list)
    """Sampled turns and, between them, the environment's tokens."""
    mask: list[int] = field(default_factory=list)
    """1 where the model wrote the token, 0 where the environment did."""
    logprobs: list[float] = field(default_factory=list)
    """Log-probability of each sampled token under the sampling temperature, in nats; 0.0 elsewhere."""
    turns: list[TurnSpan] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)
    """The readable conversation, system prompt excluded."""
    outcome: float = 0.0
    stop: str = ""
    """`answer`, `turns` (the environment truncated), `length` (the context is full), or `error`."""
    error: str | None = None
    """What failed, if a tool's machinery did: such an episode says nothing about the model."""
    wall_s: float = 0.0
    """From reset to end, waiting for other episodes of the batch included."""

    @property
    def process(self) -> dict[str, float]:
        """Process terms summed over turns."""
        total: dict[str, float] = {}
        for turn in self.turns:
            for name, value in turn.process.items():
                total[name] = total.get(name, 0.0) + value
        return total

    @property
    def sampled(self) -> int:
        """Number of tokens the model wrote."""
        return sum(self.mask)

    def fail(self, failure: Exception) -> None:
        """End the episode with stop `error`: what it met says nothing about the model."""
        text = str(failure) if isinstance(failure, PalestraError) else f"{type(failure).__name__}: {failure}"
        self.stop, self.error = "error", text[:500]

    def to_json(self) -> dict[str, Any]:
        """Return what people read (messages, rewards, how it ended) and the tokens behind it, where there are any."""
        read = {
            "task": str(self.task),
            "key": self.key,
            "messages": self.messages,
            "outcome": self.outcome,
            "process": self.process,
            "stop": self.stop,
        }
        if not self.completion_ids:
            return read
        turns = [[turn.start, turn.end] for turn in self.turns]
        return {**read, "tokens": {"completion_ids": self.completion_ids, "turns": turns}}
