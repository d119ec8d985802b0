"""The rollout loop: episodes in flight, each replaced at once when it ends, steps beside the sampling.

An environment that raises, hangs or returns garbage costs its own episode: that one ends with stop `error`, which
says nothing about the model and is never a reward.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import Completion, Engine, SamplingParams, Stream
from palestra.agents.stepping import StepRunner
from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs.core import TaskId, TextEnv
from palestra.envs.errors import PalestraError

STEP_LIMIT_S = 120.0
"""Seconds that an environment may take for a reset or a step."""
_MASK64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode to run."""

    index: int
    """Index of the task in the environment's variant."""
    seed: int
    """Seeds the sampling; equal (index, seed) give the same episode."""
    prefix: tuple[tuple[int, ...], ...] = ()
    """Turns (token ids) that are played before the model takes over; their log-probabilities are recorded as 0."""


def turn_seed(episode_seed: int, turn: int) -> int:
    """Return the 64-bit seed with which a turn of an episode is sampled, counted from 0."""
    return (episode_seed + turn * 0x9E3779B97F4A7C15) & _MASK64


@dataclass(slots=True)
class RolloutClock:
    """Where the wall time of rollouts went."""

    sampling_s: float = 0.0
    """Seconds in the engine; environments may have been at work meanwhile."""
    environment_s: float = 0.0
    """Seconds in which the loop took turns to environments and waited for them."""


@dataclass(slots=True)
class _Running:
    episode: Episode
    env: TextEnv
    trajectory: Trajectory
    ids: list[int] = field(default_factory=list)
    held: bool = False
    """Whether the stream has its sequence."""
    new: list[int] = field(default_factory=list)
    """What the stream has to be given before the next turn."""
    started: float = field(default_factory=time.perf_counter)


def rollout(
    make_env: Callable[[], TextEnv],
    episodes: Iterable[Episode],
    engine: Engine,
    codec: ChatCodec,
    params: SamplingParams,
    *,
    concurrency: int = 256,
    max_length: int | None = None,
    step_limit_s: float = STEP_LIMIT_S,
    clock: RolloutClock | None = None,
) -> Iterator[tuple[Episode, Trajectory]]:
    """Run episodes and yield them as they end.

    Args:
        make_env: Makes an environment; called at most `concurrency` times, but for those that broke.
        episodes: What to run.
        engine: Samples the assistant's turns.
        codec: Chat to tokens.
        params: Sampling settings of a turn.
        concurrency: Episodes in flight.
        max_length: Context of the model in tokens. An episode whose next turn might not fit ends with stop
            `length` and outcome 0.
        step_limit_s: Seconds that an environment may take for a reset or a step.
        clock: Is told where the time went.

    Yields:
        The episode and its trajectory. If the environment or a tool's machinery failed (not the agent), `stop`
        is `error` and `error` says why: such a trajectory says nothing about the model.
    """
    if isinstance(episodes, Sized):
        concurrency = max(1, min(concurrency, len(episodes)))  # an engine may keep room for each
    with ExitStack() as made, engine.open(params, concurrency) as stream:
        loop = _Loop(make_env, episodes, stream, codec, params, concurrency, max_length, step_limit_s)
        made.callback(loop.close)
        yield from loop.run(clock or RolloutClock())


class _Loop:
    """Keeps the stream busy: what waits for an environment never keeps the others from sampling."""

    def __init__(
        self,
        make_env: Callable[[], TextEnv],
        episodes: Iterable[Episode],
        stream: Stream,
        codec: ChatCodec,
        params: SamplingParams,
        concurrency: int,
        max_length: int | None,
        step_limit_s: float,
    ) -> None:
        self._make_env, self._waiting, self._stream, self._codec = make_env, iter(episodes), stream, codec
        self._params, self._concurrency, self._max_length = params, concurrency, max_length
        self._steps: StepRunner | None = None
        self._limit_s = step_limit_s
        self._running: dict[int, _Running] = {}
        self._free: list[TextEnv] = []
        self._made: list[TextEnv] = []
        self._numbers = 0
        self._more = True

    def run(self, clock: RolloutClock) -> Iterator[tuple[Episode, Trajectory]]:
        """Yield episodes as they end."""
        while True:
            before = time.perf_counter()
            self._begin()
            if not self._running:
                return
            started = time.perf_counter()
            finished = self._stream.step()
            sampled = time.perf_counter()
            for key, completion in finished:
                self._play(key, completion)
            over = [self._end(key) for key in self._collect()]
            clock.sampling_s += sampled - started
            clock.environment_s += (started - before) + (time.perf_counter() - sampled)
            yield from over

    def close(self) -> None:
        """Close the environments, also those in the middle of an episode."""
        if self._steps is not None:
            self._steps.close()
        for env in self._made:
            with suppress(Exception):  # an environment that broke may break again
                env.close()

    def _begin(self) -> None:
        """Start as many episodes as there is room for."""
        room = min(self._stream.room(), self._concurrency - len(self._running))
        while self._more and room > 0:
            episode = next(self._waiting, None)
            if episode is None:
                self._more = False
                return
            room -= 1
            if not self._free:
                self._free.append(self._make_env())
                self._made.append(self._free[-1])
            env = self._free.pop()
            running = _Running(episode, env, Trajectory(TaskId(env.env_id, env.variant, episode.index), ""))
            self._numbers += 1
            self._running[self._numbers] = running
            self._runner(env).submit(self._numbers, partial(_opening, env, episode, self._codec))

    def _runner(self, env: TextEnv) -> StepRunner:
        if self._steps is None:
            # One thread for what does not wait: more would only take turns with each other.
            self._steps = StepRunner(2 * (os.cpu_count() or 1) if env.blocking else 1, self._limit_s)
        return self._steps

    def _play(self, key: int, completion: Completion) -> None:
        """Have the environment answer a turn."""
        r = self._running[key]
        action = _write(r, completion, self._codec)
        self._runner(r.env).submit(key, lambda: (completion, _step(r, action)))

    def _collect(self) -> list[int]:
        """Take what environments answered; returns the episodes that came to their end."""
        assert self._steps is not None
        over = []
        # Steps that wait for nothing are over in no time; the others are waited for when nothing else can be done.
        quick = not next(iter(self._running.values())).env.blocking
        wait = quick or self._steps.pending == len(self._running)
        while self._steps.pending:
            for done in self._steps.collect(wait=wait):
                if self._take(self._running[done.key], done.value, done.error):
                    over.append(done.key)
                else:
                    self._ask(done.key)
            if not quick:
                break
        return over

    def _take(self, r: _Running, value: Any, error: Exception | None) -> bool:
        """Apply an answer of the environment; whether the episode is over."""
        try:
            if error is not None:
                raise error
            if isinstance(value, Trajectory):
                r.trajectory, r.ids = value, value.prompt_ids + value.completion_ids
                r.new = list(r.ids)
            else:
                completion, answer = value
                r.new = _read(r, completion, answer, self._codec)
        except Exception as failure:
            r.trajectory.fail(failure)
        if r.trajectory.stop:
            return True
        if self._max_length is not None and len(r.ids) + self._params.max_tokens > self._max_length:
            r.trajectory.stop = "length"
        return bool(r.trajectory.stop)

    def _ask(self, key: int) -> None:
        """Have the next turn of an episode sampled."""
        r = self._running[key]
        seed = turn_seed(r.episode.seed, len(r.trajectory.turns))
        if r.held:
            self._stream.extend(key, r.new, seed)
        else:
            self._stream.submit(key, r.new, seed)
            r.held = True

    def _end(self, key: int) -> tuple[Episode, Trajectory]:
        r = self._running.pop(key)
        if r.held:
            self._stream.drop(key)
        if r.trajectory.stop == "error":
            self._made.remove(r.env)  # nobody knows what state it is in
            with suppress(Exception):
                r.env.close()
        else:
            r.env.end_episode()  # one that was cut short is not over for its environment
            self._free.append(r.env)
        r.trajectory.wall_s = time.perf_counter() - r.started
        return r.episode, r.trajectory


def replay(env: TextEnv, codec: ChatCodec, index: int, turns: Sequence[str]) -> Trajectory:
    """Play given assistant turns and return the trajectory with the tokens a model would have sampled.

    Turns left over when the episode ends are not played.
    """
    try:
        return _opening(env, Episode(index, 0, tuple(tuple(codec.encode_turn(turn)) for turn in turns)), codec)
    finally:
        env.end_episode()


def _opening(env: TextEnv, episode: Episode, codec: ChatCodec) -> Trajectory:
    """Reset and play the episode's prefix; the trajectory so far, with the seam to the next turn."""
    observation, _ = env.reset(options={"index": episode.index})
    assert env.task_id is not None
    assert env.task is not None
    prompt = codec.start(env.system_prompt(), observation)
    messages = [{"role": "user", "content": observation}]
    trajectory = Trajectory(env.task_id, env.task.key, prompt_ids=prompt, messages=messages)
    r = _Running(episode, env, trajectory, list(prompt))
    for ids in episode.prefix:
        completion = Completion(list(ids), [0.0] * len(ids), "eos" if ids[-1] in codec.stop_ids else "length")
        action = _write(r, completion, codec)
        try:
            _read(r, completion, _step(r, action), codec)
        except PalestraError as error:
            trajectory.fail(error)
        if trajectory.stop:
            break
    return trajectory


def _write(r: _Running, completion: Completion, codec: ChatCodec) -> str:
    """Add a sampled turn to the trajectory and return it as text."""
    t = r.trajectory
    start = len(t.completion_ids)
    _extend(r, completion.ids, 1, completion.logprobs)
    t.turns.append(TurnSpan(start, len(t.completion_ids), cut=completion.stop == "length"))
    action = codec.decode(completion.ids)
    t.messages.append({"role": "assistant", "content": action})
    return action


def _step(r: _Running, action: str) -> Any:
    """Have the environment name the state in which the turn began, and answer it."""
    r.trajectory.turns[-1].state = r.env.anchor()
    return r.env.step(action)


def _read(r: _Running, completion: Completion, answer: Any, codec: ChatCodec) -> list[int]:
    """Add what the environment answered; returns the tokens between the turn and the next, none at the end.

    Raises:
        ValueError: It answered with something that no environment may answer.
    """
    observation, _, terminated, truncated, info = answer
    t = r.trajectory
    outcome, process = info["reward"]["outcome"], dict(info["reward"]["process"])
    if not isinstance(observation, str) or outcome not in (0.0, 1.0):
        raise ValueError(f"the environment answered with {type(observation).__name__} and outcome {outcome!r}")
    if not math.isfinite(sum(process.values())):
        raise ValueError(f"the environment paid {process}")
    if not isinstance(t.turns[-1].state, str):
        raise ValueError(f"the environment named its state {t.turns[-1].state!r}")
    t.turns[-1].process = process
    t.turns[-1].kind = info["kind"]
    t.outcome = float(outcome)
    if observation:
        t.messages.append({"role": info["role"], "content": observation})
    if terminated or truncated:
        t.stop = "answer" if terminated else "turns"
        return []
    seam = codec.seam(info["role"], observation, ended=completion.stop == "eos")
    _extend(r, seam, 0, [0.0] * len(seam))
    return seam


def _extend(r: _Running, ids: list[int], mask: int, logprobs: list[float]) -> None:
    r.ids += ids
    r.trajectory.completion_ids += ids
    r.trajectory.mask += [mask] * len(ids)
    r.trajectory.logprobs += logprobs
