"""The same small tasks in the environments of others.

Where a package has such an environment it is taken, else one is written as its documentation shows. TextArena's
is taken without the wrapper for language models, which keeps the text of all earlier episodes.
"""

import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from envs_tasks import (
    ATTEMPTS,
    BOXED,
    BRACKETED,
    GUESSES,
    HIGH,
    ITEM,
    LOW,
    PROMPT,
    TAG,
    TAGGED,
    Numbers,
    Play,
    Played,
    steps_of,
    sums,
)


@contextlib.contextmanager
def gem_guess(seeded: bool) -> Iterator[Play]:
    """GEM's own game; `seeded`: reproducible, which its groups need."""
    from gem.envs.game_env.guess_the_number import GuessTheNumberEnv

    env = GuessTheNumberEnv(min_number=LOW, max_number=HIGH, max_turns=GUESSES)
    count = 0

    def reset() -> None:
        nonlocal count
        count += 1
        env.reset(seed=count if seeded else None)

    yield steps_of(reset, lambda action: any(env.step(action)[2:4]), BOXED, 200)


@contextlib.contextmanager
def gem_sum() -> Iterator[Play]:
    """GEM's question answering, over rows that were made before."""
    from datasets import Dataset
    from gem.envs.qa_env import QaEnv

    env = QaEnv(dataset=Dataset.from_list(sums()), extract_boxed=True, load_from_cache_file=False)
    yield steps_of(env.reset, lambda action: any(env.step(action)[2:4]), BOXED[:1], 500)


@contextlib.contextmanager
def gem_item() -> Iterator[Play]:
    """GEM's wrapper of reasoning-gym."""
    from gem.envs.reasoning_gym import ReasoningGymEnv

    env = ReasoningGymEnv(ITEM)
    yield steps_of(env.reset, lambda action: any(env.step(action)[2:4]), BOXED[:1], 200)


@contextlib.contextmanager
def textarena_guess() -> Iterator[Play]:
    """TextArena's own game."""
    import textarena

    env = textarena.make("GuessTheNumber-v0-raw", min_number=LOW, max_number=HIGH, max_turns=GUESSES)
    count = 0

    def reset() -> None:
        nonlocal count
        count += 1
        env.reset(num_players=1, seed=count)
        env.get_observation()

    def step(action: str) -> bool:
        done, _ = env.step(action)
        if not done:
            env.get_observation()
        return bool(done)

    yield steps_of(reset, step, BRACKETED, 100)


@contextlib.contextmanager
def skyrl_guess() -> Iterator[Play]:
    """The game as a `BaseTextEnv`, one object per episode, its number given with the row."""
    import skyrl_gym
    from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput

    class Guess(BaseTextEnv):
        def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
            super().__init__()
            self.number = (extras or {})["reward_spec"]["ground_truth"]
            self.max_turns = GUESSES

        def step(self, action: str) -> BaseTextEnvStepOutput:
            self.turns += 1
            match = TAG.search(action)
            guess = int(match[1]) if match else 0
            if guess == self.number:
                return BaseTextEnvStepOutput(observations=[], reward=1.0, done=True, metadata={})
            text = f"The number is {'lower' if guess > self.number else 'higher'} than {guess}."
            message = {"role": "user", "content": text}
            done = self.turns >= self.max_turns
            return BaseTextEnvStepOutput(observations=[message], reward=0.0, done=done, metadata={})

    skyrl_gym.register(id="bench-guess", entry_point=Guess)
    yield _skyrl("bench-guess", lambda number: number, TAGGED, 200)


@contextlib.contextmanager
def skyrl_sum() -> Iterator[Play]:
    """SkyRL-Gym's own gsm8k, a row per episode."""
    yield _skyrl("gsm8k", str, ("#### 1",), 1_000)


@contextlib.contextmanager
def skyrl_retry() -> Iterator[Play]:
    """SkyRL-Gym's own gsm8k of several turns."""
    yield _skyrl("gsm8k_multi_turn", str, ("#### 0",) * ATTEMPTS, 300)


def _skyrl(env_id: str, truth: Callable[[int], Any], actions: tuple[str, ...], episodes: int) -> Play:
    import skyrl_gym

    rng = random.Random(0)
    numbers = [rng.randint(LOW, HIGH) for _ in range(2_000)]
    rows = [{"reward_spec": {"ground_truth": truth(n)}, "extra_info": {"max_turns": ATTEMPTS}} for n in numbers]
    prompt = [{"role": "user", "content": PROMPT}]
    env: Any = None
    count = 0

    def reset() -> None:
        nonlocal env, count
        env = skyrl_gym.make(env_id, env_config=None, extras=rows[count % len(rows)])
        env.init(prompt)
        count += 1

    return steps_of(reset, lambda action: bool(env.step(action)["done"]), actions, episodes)


@contextlib.contextmanager
def reasoning_gym_item() -> Iterator[Play]:
    """The package by itself."""
    import reasoning_gym

    made = reasoning_gym.create_dataset(ITEM, size=10**9, seed=0)
    count = 0

    def play() -> Played:
        nonlocal count
        for _ in range(200):
            made.score_answer("1", made[count])
            count += 1
        return Played(200, 200)

    yield play


@contextlib.contextmanager
def openenv_guess() -> Iterator[Play]:
    """A server and its client over loopback, both in this process; one session, its WebSocket kept open."""
    import uvicorn
    from openenv.core import GenericEnvClient
    from openenv.core.env_server import Action, Environment, Observation, State, create_app

    class Guess(Action):
        text: str

    class Hint(Observation):
        text: str

    class Served(Environment[Guess, Hint, State]):
        def __init__(self) -> None:
            super().__init__()
            self.game = Numbers()

        def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Hint:
            return Hint(text=self.game.reset())

        def step(self, action: Guess, timeout_s: float | None = None, **kwargs: Any) -> Hint:
            text, reward, done = self.game.step(action.text)
            return Hint(text=text, reward=reward, done=done)

        @property
        def state(self) -> State:
            return State()

    app = create_app(Served, Guess, Hint, env_name="guess")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    with GenericEnvClient(base_url=f"http://127.0.0.1:{port}").sync() as client:
        yield steps_of(client.reset, lambda action: bool(client.step({"text": action}).done), TAGGED, 5)
    server.should_exit = True
    thread.join(5)


_VERIFIERS_TASKSET = """
import verifiers.v1 as vf

class Data(vf.TaskData):
    answer: str

class Task(vf.Task[Data]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return float(self.data.answer in str(trace.last_reply))

class Sum(vf.Taskset[Task, vf.TasksetConfig]):
    def load(self):
        for i in range(1000):
            yield Task(Data(idx=i, prompt=f"What is {i} + {i}?", answer=str(2 * i)), self.config.task)

__all__ = ["Sum"]
"""
_VERIFIERS_EPISODES = 6


@contextlib.contextmanager
def verifiers_sum() -> Iterator[Play]:
    """Its own evaluation, with the null harness and a model that answers at once; without what it costs to start."""
    import verifiers  # noqa: F401

    with tempfile.TemporaryDirectory() as folder, _answering() as url:
        with open(f"{folder}/bench_sum.py", "w", encoding="utf-8") as file:
            file.write(_VERIFIERS_TASKSET)

        def evaluate(episodes: int) -> float:
            code = "from verifiers.v1.cli.eval.main import main; main()"
            command = [sys.executable, "-c", code, "bench-sum", "--no-push", "--no-rich", "--model", "scripted"]
            command += ["--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess"]
            command += ["--client.base-url", url, "--client.api-key-var", "NO_KEY", "-n", str(episodes)]
            command += ["-o", folder, "--run.name", f"run-{time.monotonic_ns()}"]
            return _cpu_of(command, {**os.environ, "NO_KEY": "x", "PYTHONPATH": folder})

        evaluate(1)  # may prepare what its programs need

        def play() -> Played:
            cpu = evaluate(1 + _VERIFIERS_EPISODES) - evaluate(1)
            return Played(_VERIFIERS_EPISODES, _VERIFIERS_EPISODES, cpu)

        yield play


def _cpu_of(command: list[str], environment: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextlib.contextmanager
def _answering() -> Iterator[str]:
    """Serve a model that says `1`."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            choice = {"index": 0, "message": {"role": "assistant", "content": "1"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            common = {"id": "x", "object": "chat.completion", "created": 0, "model": request["model"]}
            body = json.dumps({**common, "choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
