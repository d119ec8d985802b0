"""What the interactive environments share: a world with a potential, and tools that act on it.

Process terms made of a potential's differences telescope: whatever the agent does, it can collect no more in
an episode than the potential of the state it ends in, and going round in circles pays nothing (Ng, Harada and
Russell 1999, with discount 1).
"""

from abc import ABC, abstractmethod
from typing import Any

from palestra.envs.tools.base import EpisodeState, Tool, ToolError


class World(ABC):
    """The state of an interactive episode."""

    def __init__(self) -> None:
        self._settled = 0.0

    @abstractmethod
    def state(self) -> str:
        """Return the state as text: equal exactly if the futures of two episodes of one task are (turns left aside).

        Same-state credit assignment (GiGPO, arXiv 2505.10978) may group turns by it.
        """

    @abstractmethod
    def potential(self) -> float:
        """Return how near the goal this state is, in [0, 1]; 0 at the start, and a function of the state."""

    def gained(self) -> float:
        """Return how much the potential has risen (or fallen) since the last call, or the start of the episode."""
        before, self._settled = self._settled, self.potential()
        return self._settled - before


class WorldTool(Tool):
    """A tool that acts on the world of an episode.

    Args:
        name: What calls name it; a variant may rename it.
    """

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name

    @abstractmethod
    def act(self, world: Any, **arguments: Any) -> str:
        """Act and return what the agent sees; raise `ToolError` for what this world does not allow."""

    def __call__(self, **arguments: Any) -> str:
        """Refuse: without an episode there is no world.

        Raises:
            ToolError: Always.
        """
        raise ToolError(f"{self.name} works in an episode only.")

    def in_episode(self, state: EpisodeState, /, **arguments: Any) -> str:
        """Act on the episode's world."""
        return self.act(state.world, **arguments)
