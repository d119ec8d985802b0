"""Many environments in one process, and a slow one among fast ones; `bench/envs.py` runs this as a process of its own.

python bench/envs_many.py [--environments 1000] [--quick]
"""

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Sequence

from envs_tasks import LOW, TAGGED, palestra_envs

from palestra.agents.engine import BatchStream, Completion, SamplingParams, Stream
from palestra.agents.rollout import Episode, rollout
from palestra.envs import TextEnv, Turn, make
from palestra.envs.core import Task

SLOW_S = 0.05
"""What a step of the slow environment waits."""
IN_FLIGHT = 64


def round_robin(envs: Sequence[TextEnv], steps: int) -> float:
    """Step each environment in turn, resetting those whose episode is over; return steps per CPU second."""
    place = [0] * len(envs)
    start = time.process_time()
    for n in range(steps):
        i = n % len(envs)
        env, turn = envs[i], place[i]
        _, _, terminated, truncated, _ = env.step(TAGGED[turn])
        place[i] = turn + 1
        if terminated or truncated:
            env.reset(options={"index": n})
            place[i] = 0
    return steps / (time.process_time() - start)


def thousand(number: int, steps: int, rounds: int) -> dict[str, float]:
    """Make and begin so many environments; report their memory and their pace beside that of one alone."""
    guess, _ = palestra_envs()
    alone = [guess()]
    alone[0].reset(options={"index": 0})
    round_robin(alone, 1_000)
    report: dict[str, float] = {}
    for name, build in (("guess", guess), ("dice", lambda: make("palestra/Dice-v0"))):
        tracemalloc.start()
        envs = [build() for _ in range(number)]
        for index, env in enumerate(envs):
            env.reset(options={"index": index})
        report[f"kib_per_{name}"] = tracemalloc.get_traced_memory()[0] / number / 1024
        tracemalloc.stop()
        if name == "guess":
            rates = [(round_robin(alone, steps), round_robin(envs, steps)) for _ in range(rounds)]
            report["steps_per_cpu_s_alone"] = statistics.median(one for one, _ in rates)
            report["steps_per_cpu_s_together"] = statistics.median(many for _, many in rates)
            report["together_by_alone"] = statistics.median(many / one for one, many in rates)
    return report


class Letters:
    """A codec without a model: a token is a character."""

    def start(self, system: str, observation: str) -> list[int]:
        """See `ChatCodec`."""
        return [ord(c) for c in observation]

    def seam(self, role: str, observation: str, ended: bool) -> list[int]:
        """See `ChatCodec`."""
        return [ord(c) for c in observation]

    def decode(self, ids: list[int]) -> str:
        """See `ChatCodec`."""
        return "".join(map(chr, ids))


class Guesser:
    """An engine that takes no time and always says the lowest number."""

    def open(self, params: SamplingParams, most: int) -> Stream:
        """See `Engine`."""
        return BatchStream(self._generate, params, most)

    def _generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        ids = [ord(c) for c in f"<answer>{LOW}</answer>"]
        return [Completion(list(ids), [0.0] * len(ids), "eos") for _ in prompts]


def uneven(episodes: int) -> dict[str, float]:
    """Time the fast episodes of rollouts in which none, one, or one in `IN_FLIGHT` waits in every step.

    A slow one is the first of its kind, so it is in flight from the start; as a tool on another machine would, it
    waits without computing.
    """
    guess, _ = palestra_envs()

    class Uneven(guess):  # type: ignore[misc, valid-type]
        """Guess a number; some episodes are slow."""

        blocking = True
        slow_every = 0

        def feedback(self, task: Task, turn: Turn) -> str:
            if self.is_slow(self.task_id.index):
                time.sleep(SLOW_S)
            return str(super().feedback(task, turn))

        @classmethod
        def is_slow(cls, index: int) -> bool:
            return cls.slow_every > 0 and index % cls.slow_every == 0

    report = {}
    for name, Uneven.slow_every in (("none_slow", 0), ("one_slow", episodes), (f"one_in_{IN_FLIGHT}_slow", IN_FLIGHT)):
        start = time.perf_counter()
        waiting = (Episode(index, 0) for index in range(episodes))
        params = SamplingParams(max_tokens=32)
        fast, last = 0, start
        for episode, _ in rollout(Uneven, waiting, Guesser(), Letters(), params, concurrency=IN_FLIGHT):
            if not Uneven.is_slow(episode.index):
                fast, last = fast + 1, time.perf_counter()
        report[f"fast_episodes_per_s_{name}"] = fast / (last - start)
    return report


def main() -> int:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=int, default=1_000)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rounds, episodes = (3, 256) if args.quick else (15, 1_024)
    print(json.dumps({**thousand(args.environments, 20_000, rounds), **uneven(episodes)}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
