"""The rollout loop: a batch of episodes in flight, an ended one replaced at once."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import Completion, Engine, SamplingParams
from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs.core import TextEnv
from palestra.envs.errors import PalestraError

_MASK64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode to run."""

    index: int
    """Index of the task in the environment's variant."""
    seed: int
    """Seeds the sampling; equal (index, seed) give the same episode."""


@dataclass(slots=True)
class _Running:
    episode: Episode
    env: TextEnv
    ids: list[int]
    trajectory: Trajectory
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
) -> Iterator[tuple[Episode, Trajectory]]:
    """Run episodes and yield each as it ends, in order of ending.

    Args:
        make_env: Makes one environment; at most `concurrency` are made, reset for later episodes, and closed when
            the loop ends or is left.
        episodes: May be endless: it is drawn from as places become free.
        engine: Samples the assistant's turns.
        codec: Chat to tokens.
        params: Sampling settings of a turn.
        concurrency: Episodes in flight.
        max_length: Context of the model in tokens. An episode whose next turn might not fit ends with stop
            `length` and outcome 0.

    Yields:
        The episode and its trajectory. If a tool's machinery failed (not the agent), `stop` is `error` and
        `error` says why: such a trajectory says nothing about the model.
    """
    waiting = iter(episodes)
    free: list[TextEnv] = []
    running: list[_Running] = []
    with ExitStack() as made, ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1)) as threads:
        while True:
            while len(running) < concurrency and (episode := next(waiting, None)) is not None:
                if not free:
                    free.append(make_env())
                    made.callback(free[-1].close)
                running.append(_begin(episode, free.pop(), codec))
            if not running:
                return
            ended = [r for r in running if _out_of_context(r, params, max_length)]
            running = [r for r in running if not r.trajectory.stop]
            if running:
                seeds = [(r.episode.seed + len(r.trajectory.turns) * 0x9E3779B97F4A7C15) & _MASK64 for r in running]
                completions = engine.generate([r.ids for r in running], params, seeds)
                advance = threads.map if running[0].env.blocking else map
                list(advance(partial(_advance, codec), running, completions))
            ended += [r for r in running if r.trajectory.stop]
            running = [r for r in running if not r.trajectory.stop]
            for r in ended:
                r.env.end_episode()  # one that broke or was cut short is not over for its environment
                free.append(r.env)
                r.trajectory.wall_s = time.perf_counter() - r.started
                yield r.episode, r.trajectory


def replay(env: TextEnv, codec: ChatCodec, index: int, turns: Sequence[str]) -> Trajectory:
    """Play given assistant turns and return the trajectory with the tokens a model would have sampled.

    Turns left over when the episode ends are not played.
    """
    running = _begin(Episode(index, 0), env, codec)
    try:
        for turn in turns:
            ids = codec.encode_turn(turn)
            _advance(codec, running, Completion(ids, [0.0] * len(ids), "eos"))
            if running.trajectory.stop:
                break
    finally:
        env.end_episode()
    return running.trajectory


def _begin(episode: Episode, env: TextEnv, codec: ChatCodec) -> _Running:
    observation, _ = env.reset(options={"index": episode.index})
    assert env.task_id is not None
    assert env.task is not None
    prompt = codec.start(env.system_prompt(), observation)
    trajectory = Trajectory(
        task=env.task_id,
        key=env.task.key,
        prompt_ids=prompt,
        messages=[{"role": "user", "content": observation}],
    )
    return _Running(episode, env, list(prompt), trajectory)


def _out_of_context(r: _Running, params: SamplingParams, max_length: int | None) -> bool:
    if max_length is not None and len(r.ids) + params.max_tokens > max_length:
        r.trajectory.stop = "length"
    return bool(r.trajectory.stop)


def _advance(codec: ChatCodec, r: _Running, completion: Completion) -> None:
    t = r.trajectory
    start = len(t.completion_ids)
    _extend(r, completion.ids, 1, completion.logprobs)
    t.turns.append(TurnSpan(start, len(t.completion_ids)))
    action = codec.decode(completion.ids)
    t.messages.append({"role": "assistant", "content": action})
    try:
        observation, _, terminated, truncated, info = r.env.step(action)
    except PalestraError as error:
        t.stop, t.error = "error", str(error)
        return
    t.turns[-1].process = dict(info["reward"]["process"])
    t.outcome = info["reward"]["outcome"]
    if observation:
        t.messages.append({"role": info["role"], "content": observation})
    if terminated or truncated:
        t.stop = "answer" if terminated else "turns"
        return
    seam = codec.seam(info["role"], observation, ended=completion.stop == "eos")
    _extend(r, seam, 0, [0.0] * len(seam))


def _extend(r: _Running, ids: list[int], mask: int, logprobs: list[float]) -> None:
    r.ids += ids
    r.trajectory.completion_ids += ids
    r.trajectory.mask += [mask] * len(ids)
    r.trajectory.logprobs += logprobs
