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

from palestra.agents.engine import Completion, SamplingParams
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

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, seeds: Sequence[int]
    ) -> list[Completion]:
        """See `Engine`."""
        ids = [ord(c) for c in f"<answer>{LOW}</answer>"]
        return [Completion(list(ids), [0.0] * len(ids), "eos") for _ in prompts]


def uneven(episodes: int) -> dict[str, float]:
    """Time rollouts of which none or one in `IN_FLIGHT` waits in every step, as a tool on another machine would."""
    guess, _ = palestra_envs()

    class Uneven(guess):  # type: ignore[misc, valid-type]
        """Guess a number; some episodes are slow."""

        blocking = True
        slow = False

        def feedback(self, task: Task, turn: Turn) -> str:
            if self.slow and self.task_id.index % IN_FLIGHT == 0:
                time.sleep(SLOW_S)
            return super().feedback(task, turn)

    report = {}
    for slow in (False, True):
        Uneven.slow = slow
        start = time.perf_counter()
        waiting = (Episode(index, 0) for index in range(episodes))
        params = SamplingParams(max_tokens=32)
        played = sum(1 for _ in rollout(Uneven, waiting, Guesser(), Letters(), params, concurrency=IN_FLIGHT))
        assert played == episodes
        report["episodes_per_s_one_slow" if slow else "episodes_per_s_all_fast"] = episodes / (
            time.perf_counter() - start
        )
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
