"""Episodes of a model behind an OpenAI-compatible server: one conversation per episode, many at a time.

The server sees chat messages, so tokens and log-probabilities stay with it; a tool's result is a user turn, since
tools are called in text. `seed` is sent with every request; whether equal seeds give equal turns is up to the server.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from palestra.agents.engine import SamplingParams
from palestra.agents.rollout import Episode
from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs.core import TaskId, TextEnv
from palestra.envs.errors import MissingPrerequisiteError, PalestraError, UsageError

RETRIES = 5
"""Attempts at a request after the first, where the server is busy or fails."""
TIMEOUT_S = 600.0
_SEEDS = 2**63 - 1
"""Servers read seeds as signed 64-bit numbers."""


@dataclass(slots=True)
class ServedEpisode:
    """An episode and what the server counted."""

    trajectory: Trajectory
    tokens_in: int = 0
    """Tokens of the last request's prompt, less what the model wrote before."""
    tokens_out: int = 0
    """Tokens the model wrote."""


class ChatServer:
    """A model behind a server that speaks OpenAI's chat completions.

    Args:
        model: Its name there.
        base_url: Address of the API, usually ending in `/v1`; None for OPENAI_BASE_URL. The key is OPENAI_API_KEY.
        params: Sampling settings of a turn; `banned` is not supported.

    Raises:
        MissingPrerequisiteError: The package `openai` is not installed.
        UsageError: There is no address.
    """

    def __init__(self, model: str, base_url: str | None, params: SamplingParams) -> None:
        import os

        try:
            import openai
        except ImportError as error:
            raise MissingPrerequisiteError(
                "models behind a server need the package openai: pip install 'palestra[openai]'"
            ) from error
        if base_url is None and not os.environ.get("OPENAI_BASE_URL"):
            raise UsageError("give the server's address with --base-url, or in OPENAI_BASE_URL")
        self._openai = openai
        self._model, self._params = model, params
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=RETRIES,
            timeout=TIMEOUT_S,
        )

    def rollout(
        self, make_env: Callable[[], TextEnv], episodes: Iterable[Episode], *, concurrency: int
    ) -> Iterator[tuple[Episode, ServedEpisode]]:
        """Run episodes and yield them as they end.

        Args:
            make_env: Makes an environment; called at most `concurrency` times, but for those that broke.
            episodes: What to run; prefixes are not supported.
            concurrency: Conversations at a time.

        Raises:
            UsageError: The server does not know the model or refuses the key or a request.
            PalestraError: The server cannot be reached.
        """
        free: SimpleQueue[TextEnv] = SimpleQueue()
        waiting = iter(episodes)
        running: dict[Future[ServedEpisode], Episode] = {}
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="episode")
        try:
            while True:
                while len(running) < concurrency and (episode := next(waiting, None)) is not None:
                    running[pool.submit(self._play, make_env, free, episode)] = episode
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)
            while not free.empty():
                free.get().close()

    def _play(self, make_env: Callable[[], TextEnv], free: "SimpleQueue[TextEnv]", episode: Episode) -> ServedEpisode:
        started = time.perf_counter()
        try:
            env = free.get_nowait()
        except Empty:
            env = make_env()
        played = ServedEpisode(Trajectory(TaskId(env.env_id, env.variant, episode.index), ""))
        try:
            self._converse(env, episode, played)
            free.put(env)
        except (_Unavailable, UsageError):
            raise
        except Exception as failure:  # an environment that broke costs its own episode
            played.trajectory.fail(failure)
            with suppress(Exception):
                env.close()
        played.trajectory.wall_s = time.perf_counter() - started
        return played

    def _converse(self, env: TextEnv, episode: Episode, played: ServedEpisode) -> None:
        observation, _ = env.reset(options={"index": episode.index})
        assert env.task is not None
        t = played.trajectory
        t.key = env.task.key
        t.messages.append({"role": "user", "content": observation})
        sent: list[dict[str, str]] = [{"role": "system", "content": env.system_prompt()}, *t.messages]
        while not t.stop:
            turn = self._turn(sent, (episode.seed + len(t.turns)) & _SEEDS, played)
            if turn is None:
                t.stop = "length"
                env.end_episode()
                return
            action, cut = turn
            t.messages.append({"role": "assistant", "content": action})
            observation, _, terminated, truncated, info = env.step(action)
            t.turns.append(TurnSpan(0, 0, dict(info["reward"]["process"]), kind=info["kind"], cut=cut))
            t.outcome = info["reward"]["outcome"]
            if observation:
                t.messages.append({"role": info["role"], "content": observation})
            sent += [{"role": "assistant", "content": action}, {"role": "user", "content": observation}]
            if terminated or truncated:
                t.stop = "answer" if terminated else "turns"

    def _turn(self, messages: list[dict[str, str]], seed: int, played: ServedEpisode) -> tuple[str, bool] | None:
        """Have the server write a turn, and whether its limit cut it; None where the context is full."""
        openai: Any = self._openai
        try:
            answer = self._client.chat.completions.create(
                model=self._model,
                messages=messages,  # type: ignore[arg-type]
                temperature=self._params.temperature,
                top_p=self._params.top_p,
                max_tokens=self._params.max_tokens,
                seed=seed,
            )
        except openai.BadRequestError as error:
            if error.code == "context_length_exceeded" or "context length" in str(error).lower():
                return None
            raise UsageError(f"the server refuses a request: {error}") from error
        except (openai.NotFoundError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UsageError(f"the server refuses '{self._model}': {error}") from error
        except openai.APIConnectionError as error:
            raise _Unavailable(
                f"the server at {self._client.base_url} cannot be reached ({error}); start it and run the same "
                "command again"
            ) from error
        if answer.usage is not None:
            played.tokens_in = answer.usage.prompt_tokens - played.tokens_out
            played.tokens_out += answer.usage.completion_tokens
        choice = answer.choices[0]
        return choice.message.content or "", choice.finish_reason == "length"


class _Unavailable(PalestraError):
    """Nothing more can be sampled now."""
