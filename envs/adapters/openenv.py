"""A registered environment behind OpenEnv's protocol: every WebSocket session plays in an environment of its own.

Invariant: a session sees what `reset` and `step` of the environment return in this process, and nothing that it sends
reaches another one. Names here are OpenEnv's: `reward` is the strict outcome of the step, `done` says that the episode
is over, and `metadata` carries the rest, with the process terms in a channel of their own.

Importing this module needs the package `openenv` (written against 0.10).
"""

from functools import partial
from typing import Annotated, Any

import gymnasium
from pydantic import BeforeValidator

from palestra.envs.core import TextEnv
from palestra.envs.errors import MissingPrerequisiteError, UsageError
from palestra.envs.registry import make, spec

try:
    from openenv.core.env_server import (
        Action,
        ConcurrencyConfig,
        Environment,
        Observation,
        State,
        create_app,
    )
    from openenv.core.env_server.types import EnvironmentMetadata
except ModuleNotFoundError as error:
    raise MissingPrerequisiteError(
        "serving needs OpenEnv, which wants older packages than Palestra's tests ran with: in an environment of its "
        'own, pip install palestra "openenv>=0.10,<0.11"'
    ) from error


def _encodable(text: Any) -> Any:
    """Replace lone surrogates: JSON can name them, but no answer that quotes them could be sent."""
    return text.encode("utf-8", "replace").decode("utf-8") if isinstance(text, str) else text


class TextAction(Action):
    """One assistant turn, as the model wrote it."""

    text: Annotated[str, BeforeValidator(_encodable)]


class TextObservation(Observation):
    """What the agent sees next.

    `metadata` has `task` (its identity) and `role`; after `reset` also `system_prompt` and `tools` (their schemas),
    after a step `kind` of the turn, `outcome`, `process` and `truncated`.
    """

    text: str


class EpisodeStatus(State):
    """Where a session stands; it holds nothing that the agent must not see."""

    task: str | None = None
    variant: str = ""
    done: bool = False


class ServedEnvironment(Environment[TextAction, TextObservation, EpisodeStatus]):
    """One session's environment."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, env_id: str, variant: str) -> None:
        super().__init__()
        self._env: TextEnv = make(env_id, variant)
        self._status = EpisodeStatus(variant=variant)
        self._closed = False

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> TextObservation:
        """Start an episode.

        Args:
            seed: Draws the task; equal seeds, equal tasks.
            episode_id: Only reported by `state`; the task's identity unless given.
            **kwargs: `index` chooses the task by identity and wins over `seed`; there are no others.

        Raises:
            UsageError: An argument is wrong or unknown, or the session has ended.
        """
        self._check_open()
        unknown = sorted(kwargs.keys() - {"index"})
        if unknown:
            raise UsageError(f"reset has no argument '{unknown[0][:100]}'; it takes seed, episode_id and index")
        index = _natural("index", kwargs.get("index"))
        observation, info = self._env.reset(
            seed=_natural("seed", seed), options=None if index is None else {"index": index}
        )
        name = info["task"] if episode_id is None else _encodable(str(episode_id))[:255]
        self._status = EpisodeStatus(episode_id=name, task=info["task"], variant=self._env.variant)
        tools = [tool.schema() for tool in self._env.tools]
        return TextObservation(
            text=observation, metadata={**info, "system_prompt": self._env.system_prompt(), "tools": tools}
        )

    def step(self, action: TextAction, timeout_s: float | None = None, **kwargs: Any) -> TextObservation:
        """Play one turn; the environment's tools have time limits of their own, so `timeout_s` changes nothing.

        Raises:
            UsageError: No episode is going on.
        """
        self._check_open()
        try:
            observation, reward, terminated, truncated, info = self._env.step(action.text)
        except gymnasium.error.ResetNeeded:
            raise UsageError(
                "no episode is going on: call reset first (plain HTTP requests share no environment; "
                "play over the WebSocket /ws)"
            ) from None
        self._status = self._status.model_copy(
            update={"step_count": self._status.step_count + 1, "done": terminated or truncated}
        )
        metadata = {"task": info["task"], "role": info["role"], "kind": info["kind"], "truncated": truncated}
        return TextObservation(
            text=observation, done=terminated or truncated, reward=reward, metadata={**metadata, **info["reward"]}
        )

    @property
    def state(self) -> EpisodeStatus:
        """Where the session stands."""
        return self._status

    def get_metadata(self) -> EnvironmentMetadata:
        """Describe the environment by its id and the first line of its docstring."""
        known = spec(self._env.env_id)
        return EnvironmentMetadata(name=known.id, description=known.summary, version=known.id.rpartition("-v")[2])

    def close(self) -> None:
        """End the session; OpenEnv also does so to one that was idle for too long, whose socket stays open."""
        self._closed = True
        self._env.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this session has ended (it was idle for too long): connect again")


def make_app(env_id: str, variant: str, *, max_sessions: int, idle_s: float) -> Any:
    """Return the ASGI application that serves an environment.

    Args:
        env_id: A registered environment.
        variant: The variant that every session plays.
        max_sessions: WebSocket sessions at a time; one more is told so and turned away.
        idle_s: Seconds without a message after which a session's environment is closed.

    Raises:
        UsageError: No such environment or variant.
    """
    from fastapi import Request
    from fastapi.responses import JSONResponse

    make(env_id, variant).close()
    app = create_app(
        partial(ServedEnvironment, env_id, variant),
        TextAction,
        TextObservation,
        env_name=spec(env_id).cls.__name__,
        concurrency_config=ConcurrencyConfig(max_concurrent_envs=max_sessions, session_timeout=idle_s),
        state_cls=EpisodeStatus,
    )

    async def wrong_request(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=400)

    app.add_exception_handler(UsageError, wrong_request)
    return app


def _natural(name: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise UsageError(f"{name} must be a whole number from 0 on, not {str(value)[:100]}")
    return value
