"""The rollout loop, with an engine that follows a script: no model."""

import math
import random
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import BatchStream, Completion, SamplingParams
from palestra.agents.rollout import Episode, replay, rollout
from palestra.envs import Demonstration, Reward, Task, format_tool_call, make, register
from palestra.envs.core import TextEnv
from palestra.envs.errors import PalestraError
from palestra.rl.organisms.tokenizer import character_tokenizer

CODEC = ChatCodec(character_tokenizer())


class OracleEngine:
    """Answers each prompt with the oracle's turn, found by the prompt's tokens."""

    def __init__(self, env_id: str, variant: str, indices: Sequence[int], cut: int | None = None) -> None:
        self.most = 0
        self.batches: list[int] = []
        self.seeds: list[int] = []
        self.cut = cut
        self.turns: dict[tuple[int, ...], list[int]] = {}
        env = make(env_id, variant)
        for index in indices:
            t = replay(env, CODEC, index, env.solve(env.task_at(index)).turns)
            ids = t.prompt_ids + t.completion_ids
            for turn in t.turns:
                at = len(t.prompt_ids) + turn.start
                self.turns[tuple(ids[:at])] = ids[at : len(t.prompt_ids) + turn.end]

    def open(self, params: SamplingParams, most: int) -> BatchStream:
        self.most = most
        return BatchStream(self.generate, params, most)

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        self.batches.append(len(prompts))
        self.seeds += seeds
        turns = [self.turns[tuple(p)] for p in prompts]
        if self.cut is not None:
            return [Completion(t[: self.cut], [-0.5] * len(t[: self.cut]), "length") for t in turns]
        return [Completion(t, [-0.5] * len(t), "eos") for t in turns]


def run(env: str, variant: str, indices: list[int], **settings: int) -> tuple[dict[int, object], OracleEngine]:
    engine = OracleEngine(env, variant, indices)
    made: list[TextEnv] = []

    def make_env() -> TextEnv:
        made.append(make(env, variant))
        return made[-1]

    episodes = [Episode(i, i) for i in indices]
    done = {e.index: t for e, t in rollout(make_env, episodes, engine, CODEC, SamplingParams(200), **settings)}
    assert len(made) <= settings.get("concurrency", 256)
    return done, engine


@pytest.mark.parametrize(
    ("env", "variant"), [("palestra/Dice-v0", "test"), ("palestra/StringCompose-v0", "test-tool")]
)
def test_every_episode_ends_once_with_its_tokens_accounted_for(env: str, variant: str) -> None:
    done, _ = run(env, variant, list(range(20)), concurrency=7)
    assert sorted(done) == list(range(20))
    for t in done.values():
        assert t.outcome == 1.0
        assert t.stop == "answer"
        assert len(t.completion_ids) == len(t.mask) == len(t.logprobs)
        assert len(t.turns) == sum(m["role"] == "assistant" for m in t.messages) > 1
        spans = {i for turn in t.turns for i in range(turn.start, turn.end)}
        assert spans == {i for i, m in enumerate(t.mask) if m}
        assert {t.logprobs[i] for i in spans} == {-0.5}
        assert all(t.logprobs[i] == 0.0 for i in range(len(t.mask)) if i not in spans)
        rendered = CODEC.tokenizer.apply_chat_template(t.messages, return_dict=False)
        assert t.prompt_ids + t.completion_ids == rendered


def test_ended_episodes_are_replaced_at_once() -> None:
    _, engine = run("palestra/StringCompose-v0", "test", list(range(20)), concurrency=8)
    assert engine.batches == [8, 8, 4]
    assert len(set(engine.seeds)) == 20


@pytest.mark.parametrize(("settings", "most"), [({}, 3), ({"concurrency": 2}, 2)])
def test_an_engine_is_asked_for_no_more_room_than_there_are_episodes(settings: dict[str, int], most: int) -> None:
    _, engine = run("palestra/StringCompose-v0", "test", [0, 1, 2], **settings)
    assert engine.most == most


def test_turns_of_an_episode_have_seeds_of_their_own() -> None:
    _, engine = run("palestra/Dice-v0", "test", [0, 1])
    assert len(set(engine.seeds)) == len(engine.seeds) == 4


def test_an_episode_that_cannot_fit_ends_with_length() -> None:
    engine = OracleEngine("palestra/Dice-v0", "test", [0])
    ((_, first),) = rollout(
        lambda: make("palestra/Dice-v0", "test"),
        [Episode(0, 0)],
        engine,
        CODEC,
        SamplingParams(50),
        max_length=60,
    )
    assert (first.stop, first.outcome, first.turns) == ("length", 0.0, [])


@pytest.mark.parametrize("cut", [None, 3])
def test_turns_that_the_limit_cut_are_marked(cut: int | None) -> None:
    engine = OracleEngine("palestra/StringCompose-v0", "test", [0], cut=cut)
    make_env = partial(make, "palestra/StringCompose-v0", "test")
    [(_, episode)] = rollout(make_env, [Episode(0, 0)], engine, CODEC, SamplingParams(50))
    assert [turn.cut for turn in episode.turns] == [cut is not None]


def test_a_cut_turn_is_malformed_and_the_episode_goes_on() -> None:
    engine = OracleEngine("palestra/StringCompose-v0", "test-tool", [0], cut=3)
    running = rollout(
        lambda: make("palestra/StringCompose-v0", "test-tool"),
        [Episode(0, 0)],
        engine,
        CODEC,
        SamplingParams(3),
    )
    with pytest.raises(KeyError):  # the scripted engine knows no continuation; the loop did ask for one
        list(running)
    assert engine.batches == [1, 1]


def test_broken_machinery_is_no_failure_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OracleEngine("palestra/Dice-v0", "test", [0])

    def broken(self: TextEnv, action: str) -> None:
        raise PalestraError("the sandbox is gone")

    monkeypatch.setattr(TextEnv, "step", broken)
    ((_, t),) = rollout(lambda: make("palestra/Dice-v0", "test"), [Episode(0, 0)], engine, CODEC, SamplingParams(200))
    assert (t.stop, t.error) == ("error", "the sandbox is gone")


class Ending:
    """Notes when environments end their episodes and are closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: set[TextEnv] = set()
        self.closed: set[TextEnv] = set()
        reset, end, close = TextEnv.reset, TextEnv.end_episode, TextEnv.close

        def noted_reset(env: TextEnv, **arguments: Any) -> Any:
            started = reset(env, **arguments)
            self.open.add(env)
            return started

        def noted_end(env: TextEnv) -> None:
            self.open.discard(env)
            end(env)

        def noted_close(env: TextEnv) -> None:
            self.closed.add(env)
            close(env)

        monkeypatch.setattr(TextEnv, "reset", noted_reset)
        monkeypatch.setattr(TextEnv, "end_episode", noted_end)
        monkeypatch.setattr(TextEnv, "close", noted_close)


def test_an_episode_is_ended_for_its_environment_however_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(monkeypatch)
    made: list[TextEnv] = []

    def make_env() -> TextEnv:
        made.append(make("palestra/Dice-v0", "test"))
        return made[-1]

    engine = OracleEngine("palestra/Dice-v0", "test", range(3))
    cut = rollout(make_env, [Episode(0, 0)], engine, CODEC, SamplingParams(50), max_length=60)
    assert [t.stop for _, t in cut] == ["length"]
    assert ending.closed == set(made)

    def broken(self: TextEnv, action: str) -> None:
        assert self in ending.open
        raise PalestraError("the sandbox is gone")

    monkeypatch.setattr(TextEnv, "step", broken)
    episodes = [Episode(i, i) for i in range(3)]
    stopped = rollout(make_env, episodes, engine, CODEC, SamplingParams(200), concurrency=1)
    for _, t in stopped:
        assert t.stop == "error"
        assert not ending.open
    assert ending.closed == set(made)


def test_a_rollout_that_is_left_closes_its_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(monkeypatch)
    engine = OracleEngine("palestra/StringCompose-v0", "test", range(8))
    episodes = [Episode(i, i) for i in range(8)]
    make_env = partial(make, "palestra/StringCompose-v0", "test")
    running = rollout(make_env, episodes, engine, CODEC, SamplingParams(200), concurrency=4)
    next(running)
    running.close()
    assert not ending.open
    assert len(ending.closed) >= 4


def test_a_replay_that_stops_short_ends_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = Ending(monkeypatch)
    replay(make("palestra/Dice-v0"), CODEC, 0, ["Hm."])
    assert not ending.open


def test_calls_are_read_from_what_was_written() -> None:
    env = make("palestra/Dice-v0")
    t = replay(env, CODEC, 0, [format_tool_call("calculator", {"expression": "1+1"}), "<answer>2</answer>", "unused"])
    assert [m["role"] for m in t.messages] == ["user", "assistant", "tool", "assistant"]
    assert t.messages[2]["content"] == "2"


@register("test/Hostile-v0", variants={"train": {}, "test": {}})
class Hostile(TextEnv):
    """Breaks in the way that the task's index says."""

    max_turns = 3

    def sample(self, rng: random.Random) -> Task:
        return Task(prompt="?", answer="a", key=str(rng.random()))

    def grade(self, task: Task, answer: str) -> Reward:
        return Reward(1.0)

    def solve(self, task: Task) -> Demonstration:
        return Demonstration(("<answer>a</answer>",))

    def reset(self, **arguments: Any) -> Any:
        started = super().reset(**arguments)
        if self.task_id is not None and self.task_id.index == 5:
            raise RuntimeError("no reset")
        return started

    def step(self, action: str) -> Any:
        assert self.task_id is not None
        match self.task_id.index:
            case 1:
                raise ZeroDivisionError("in the author's code")
            case 2:
                time.sleep(3)
            case 3:
                return "garbage"
            case 4:
                observation, _, *rest, info = super().step(action)
                info["reward"]["outcome"] = 7.0
                return observation, 7.0, *rest, info
            case 6:
                observation, *rest, info = super().step(action)
                info["reward"]["process"] = {"x": math.nan}
                return observation, *rest, info
            case 8:
                observation, *rest, info = super().step(action)
                info["reward"]["process"] = {"x": 1e308, "y": 1e308}
                return observation, *rest, info
        return super().step(action)

    def anchor(self) -> Any:
        assert self.task_id is not None
        match self.task_id.index:
            case 9:
                raise RuntimeError("no anchor")
            case 10:
                return ["no text"]
        return super().anchor()


class AlwaysAnswers:
    """Says the same in every turn."""

    def open(self, params: SamplingParams, most: int) -> BatchStream:
        ids = CODEC.encode_turn("<answer>a</answer>")
        return BatchStream(
            lambda prompts, *_: [Completion(ids, [0.0] * len(ids), "eos") for _ in prompts], params, most
        )


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3, 32])
def test_an_environment_that_breaks_costs_its_own_episode_only(blocking: bool, concurrency: int) -> None:
    def make_env() -> TextEnv:
        env = make("test/Hostile-v0")
        env.blocking = blocking
        return env

    episodes = [Episode(i % 11, i) for i in range(33)]
    done = list(
        rollout(
            make_env,
            episodes,
            AlwaysAnswers(),
            CODEC,
            SamplingParams(50),
            concurrency=concurrency,
            step_limit_s=0.3,
        )
    )
    assert {e for e, _ in done} == set(episodes)
    assert len(done) == 33
    reasons = {e.index: t.error for e, t in done}
    for e, t in done:
        broken = e.index not in (0, 7)
        assert (t.stop, t.outcome) == (("error", 0.0) if broken else ("answer", 1.0))
    assert reasons[1] == "ZeroDivisionError: in the author's code"
    assert reasons[2] == "StepTimeoutError: a step took longer than 0.3 s"
    assert "unpack" in (reasons[3] or "")
    assert "outcome 7.0" in (reasons[4] or "")
    assert reasons[5] == "RuntimeError: no reset"
    assert "nan" in (reasons[6] or "")
    assert "1e+308" in (reasons[8] or "")
    assert reasons[9] == "RuntimeError: no anchor"
    assert "named its state ['no text']" in (reasons[10] or "")


def test_what_waits_for_an_environment_does_not_hold_up_the_others() -> None:
    started = time.perf_counter()

    class Slow(Hostile):
        def step(self, action: str) -> Any:
            time.sleep(0.5)
            return TextEnv.step(self, action)

    def make_env() -> TextEnv:
        env = Slow("train")
        env.blocking = True
        return env

    done = list(rollout(make_env, [Episode(8, i) for i in range(4)], AlwaysAnswers(), CODEC, SamplingParams(50)))
    assert len(done) == 4
    assert time.perf_counter() - started < 1.5


def test_a_prefix_is_played_before_the_model_takes_over() -> None:
    env_id, variant = "palestra/StringCompose-v0", "test-tool"
    engine = OracleEngine(env_id, variant, [0])
    ((_, whole),) = rollout(lambda: make(env_id, variant), [Episode(0, 0)], engine, CODEC, SamplingParams(200))
    first = whole.turns[0]
    prefix = (tuple(whole.completion_ids[first.start : first.end]),)
    engine = OracleEngine(env_id, variant, [0])
    ((_, rest),) = rollout(lambda: make(env_id, variant), [Episode(0, 0, prefix)], engine, CODEC, SamplingParams(200))
    assert rest.completion_ids == whole.completion_ids
    assert rest.messages == whole.messages
    assert [t.state for t in rest.turns] == [t.state for t in whole.turns]
    assert rest.outcome == 1.0
    assert len(engine.seeds) == len(whole.turns) - 1
