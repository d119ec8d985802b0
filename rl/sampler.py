"""Groups of episodes for the trainer: TRL's `rollout_func`, free of TRL."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from palestra.agents.codec import ChatCodec
from palestra.agents.engine import Engine, SamplingParams
from palestra.agents.markers import Markers
from palestra.agents.rollout import Episode, RolloutClock, rollout
from palestra.agents.trajectory import Trajectory, TurnSpan
from palestra.envs.core import TaskId
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.registry import make
from palestra.rl.overlong import is_cut
from palestra.rl.processes import gather, rank, whole_weights, world
from palestra.rl.rewards import RewardRule, strict_outcome
from palestra.rl.statistics import count, numbers, total
from palestra.rl.step_values import step_values

LEAST_RATE = 0.25
"""Dynamic sampling never counts on fewer than this share of groups having contrast: rounds stay bounded."""


@dataclass(frozen=True, slots=True)
class SamplerSettings:
    """What is sampled, and what counts."""

    env: str
    variant: str
    params: SamplingParams
    group_size: int
    """Episodes per task."""
    seed: int
    """With the step and the place in the batch, decides every episode: a resumed run samples what the uninterrupted
    one would have, and several processes sample what one would, but for tasks that refill a batch."""
    max_length: int | None = None
    """The model's context in tokens."""
    rounds: int = 1
    """Rounds of sampling in which groups whose rewards do not differ are replaced by groups of fresh tasks: DAPO's
    dynamic sampling (arXiv 2503.14476, equation 11). 1: they are kept."""
    reward: RewardRule = strict_outcome
    by_process: bool = False
    """Whether process terms count."""
    filter_cut: bool = False
    """Overlong filtering: episodes that the token limits ended carry no loss."""
    value_rollouts: int = 0
    """Rollouts per state for Monte-Carlo values; 0: none."""
    markers: Markers = field(default_factory=Markers)
    """What is counted as back-tracking in the statistics."""


@dataclass(slots=True)
class Sample:
    """An episode with what it counts for."""

    trajectory: Trajectory
    seed: int
    reward: float | None
    """None if it broke."""
    values: list[float] = field(default_factory=list)
    """Chances to succeed before each turn and after the last, if they were asked for."""
    stale: bool = False
    """Whether it was sampled for an earlier step, with the weights of that step."""


class GroupSampler:
    """Runs a group of episodes per task and returns their tokens, masks and rewards.

    Args:
        settings: What to sample.
        codec: Chat to tokens.
        engine_of: Makes the engine for a model.
    """

    def __init__(self, settings: SamplerSettings, codec: ChatCodec, engine_of: Callable[[Any], Engine]) -> None:
        self.settings, self.codec, self.engine_of = settings, codec, engine_of
        self.statistics: dict[str, float] = {}
        """Of the last call: what dynamic sampling hides, the shape of episodes, and where the time went."""
        self.sampled: list[list[Sample]] = []
        """All groups of the last call, also those that were not taken. Where there are several processes: of all of
        them, without the tokens."""
        self.costs = Counter[str]()
        """Since the run began, by all processes: `episodes` and `tokens` sampled."""
        self._carried: list[list[Sample]] = []
        self._rate = 1.0

    def sample(self, indices: list[int], model: Any, place: str) -> list[list[Sample]]:
        """Return a group for each task index of this process; `place` decides the seeds."""
        clock = RolloutClock()
        groups = self._sample(indices, self.engine_of(model), place, rank() * len(indices), clock)
        self._count(groups, clock, {})
        return groups

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """Sample for TRL.

        Args:
            prompts: Task indices as text, each repeated `group_size` times in a row.
            trainer: The trainer; its model samples, its step seeds.

        Returns:
            TRL's `prompt_ids`, `completion_ids`, `logprobs` and `env_mask`, and per episode what `_as_columns` adds.
        """
        indices = [int(prompt) for prompt in prompts[:: self.settings.group_size]]
        where = f"{self.settings.seed}|{trainer.state.global_step}|0"
        with whole_weights(trainer) as model:
            groups = self._groups(indices, self.engine_of(model), where, rank() * len(indices))
        return _as_columns([s for group in groups for s in group], self)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to restore, as JSON takes it."""
        carried = [[asdict(sample) for sample in group] for group in self._carried]
        return {"carried": carried, "rate": self._rate, "costs": dict(self.costs)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._carried = [[_sample_from(sample) for sample in group] for group in state["carried"]]
        self._rate, self.costs = state["rate"], Counter(state["costs"])

    def _groups(self, indices: list[int], engine: Engine, where: str, first: int) -> list[list[Sample]]:
        """Return as many groups as there are indices: carried ones, then those with contrast, then the others."""
        clock = RolloutClock()
        sampled: list[list[Sample]] = []
        ready, self._carried = self._carried, []
        for sample in (sample for group in ready for sample in group):
            sample.stale = True
        taken, flat = len(ready), []
        for attempt in range(self.settings.rounds):
            missing = len(indices) - len(ready)
            if missing <= 0:
                break
            wanted = min(2 * len(indices), -(-missing // max(self._rate, LEAST_RATE))) if attempt else missing
            rng = random.Random(f"refill|{where}|{first}|{attempt}")
            tasks = indices[:missing] if attempt == 0 else [rng.getrandbits(48) for _ in range(int(wanted))]
            new = self._sample(tasks, engine, f"{where}|{attempt}", first, clock)
            sampled += new
            mixed = [group for group in new if self.settings.rounds == 1 or not self._flat(group)]
            self._rate += 0.2 * (len(mixed) / len(new) - self._rate)
            ready += mixed
            flat += [group for group in new if group not in mixed]
        self._carried = ready[len(indices) :]
        chosen = ready[: len(indices)]
        chosen += flat[: len(indices) - len(chosen)]
        sums: dict[str, float] = {"carried": taken, "flat": len(flat)}
        if self.settings.value_rollouts:
            sums["value_tokens"] = self._estimate_values(chosen, engine)
        self._count(sampled, clock, sums)
        return chosen

    def _sample(
        self, indices: list[int], engine: Engine, where: str, first: int, clock: RolloutClock
    ) -> list[list[Sample]]:
        places = {}
        for g, index in enumerate(indices, first):
            for member in range(self.settings.group_size):
                seed = random.Random(f"{where}|{g}|{member}").getrandbits(64)
                places[Episode(index, seed)] = (g - first, member)
        done: dict[tuple[int, int], Sample] = {}
        for episode, t in self._run(engine, list(places), clock):
            reward = None if t.stop == "error" else self.settings.reward(t, episode.seed)
            done[places[episode]] = Sample(t, episode.seed, reward)
        return [[done[g, member] for member in range(self.settings.group_size)] for g in range(len(indices))]

    def _run(
        self, engine: Engine, episodes: Iterable[Episode], clock: RolloutClock
    ) -> Iterator[tuple[Episode, Trajectory]]:
        s = self.settings
        return rollout(
            lambda: make(s.env, s.variant, syntax=self.codec.syntax),
            episodes,
            engine,
            self.codec,
            s.params,
            max_length=s.max_length,
            clock=clock,
        )

    def _estimate_values(self, groups: list[list[Sample]], engine: Engine) -> int:
        """Give every sample its values; returns the tokens that this took."""
        samples = [s for group in groups for s in group]
        values, tokens = step_values(
            [s.trajectory for s in samples],
            [s.seed for s in samples],
            self.settings.value_rollouts,
            lambda episodes: self._run(engine, episodes, RolloutClock()),
        )
        for sample, value in zip(samples, values, strict=True):
            sample.values = value
        return tokens

    def _flat(self, group: list[Sample]) -> bool:
        """Whether no reward that counts differs within the group."""
        counted = {
            (s.reward, tuple(_turn_rewards(s.trajectory)) if self.settings.by_process else ())
            for s in group
            if s.reward is not None
        }
        return len(counted) <= 1

    def _count(self, groups: list[list[Sample]], clock: RolloutClock, more: Mapping[str, float]) -> None:
        """Put together what all processes sampled: `sampled`, `statistics` and `costs`."""
        own = [s.trajectory for group in groups for s in group]
        sums = {**count(own, self.codec.stop_ids, self.settings.markers), **more}
        seconds = (clock.sampling_s, clock.environment_s)
        failed = next((t.error for t in own if t.stop == "error"), None)
        if world() > 1:
            groups = [[_without_tokens(s) for s in group] for group in groups]
        everyone = gather([(groups, sums, seconds, failed)])
        self.sampled = [group for part in everyone for group in part[0]]
        sums = total(part[1] for part in everyone)
        seconds = tuple(max(s) for s in zip(*(part[2] for part in everyone), strict=True))  # all wait for the slowest
        self.costs.update(episodes=int(sums["episodes"]), tokens=int(sums["tokens"] + sums["value_tokens"]))
        self.statistics = {
            "groups_sampled": float(len(self.sampled)),
            "groups_carried_over": sums["carried"],
            "groups_without_contrast": sums["flat"],
            "tokens_sampled": sums["tokens"],
            "seconds/sampling": seconds[0],
            "seconds/environments": seconds[1],
        }
        if self.settings.value_rollouts:
            self.statistics["value_tokens"] = sums["value_tokens"]
        if not sums["episodes"]:
            return
        if sums["broken"] == sums["episodes"]:
            why = next(part[3] for part in everyone if part[3])
            raise PalestraError(f"every episode of a step failed in its environment or tools: {why}")
        if not sums["turns"]:
            raise UsageError(
                f"no episode fits: prompts and max_tokens ({self.settings.params.max_tokens}) exceed the model's "
                f"context of {self.settings.max_length} tokens; lower --max-tokens"
            )
        self.statistics |= numbers(sums, sum(seconds))


def _without_tokens(sample: Sample) -> Sample:
    """Return what the other processes need to know of an episode: all that people read, and nothing that is large."""
    return replace(
        sample, trajectory=replace(sample.trajectory, prompt_ids=[], completion_ids=[], mask=[], logprobs=[])
    )


def _turn_rewards(t: Trajectory) -> list[float]:
    return [sum(span.process.values()) for span in t.turns]


def _as_columns(samples: list[Sample], sampler: GroupSampler) -> dict[str, Any]:
    """Lay out episodes for TRL.

    An episode that broke, never began, or is filtered carries no loss; a broken one has no reward (None).
    """
    settings, stop_ids = sampler.settings, sampler.codec.stop_ids
    episodes = [s.trajectory for s in samples]
    silent = [t.stop == "error" or not t.turns or (settings.filter_cut and is_cut(t, stop_ids)) for t in episodes]
    if settings.rounds > 1:
        # Without contrast there is nothing to learn; such groups must not count in the loss's denominator either.
        size = settings.group_size
        flat = [sampler._flat(samples[i - i % size : i - i % size + size]) for i in range(len(samples))]
        if not all(flat):
            silent = [a or b for a, b in zip(silent, flat, strict=True)]
    return {
        "prompt_ids": [t.prompt_ids or [sampler.codec.pad_id] for t in episodes],
        "completion_ids": [t.completion_ids or t.prompt_ids[-1:] or [sampler.codec.pad_id] for t in episodes],
        "logprobs": [t.logprobs or [0.0] for t in episodes],
        "env_mask": [[0] * max(1, len(t.mask)) if off else t.mask for t, off in zip(episodes, silent, strict=True)],
        "outcome": [None if t.stop == "error" else t.outcome for t in episodes],
        "reward": [s.reward for s in samples],
        "process": [None if t.stop == "error" else sum(_turn_rewards(t)) for t in episodes],
        "turns": [
            [] if t.stop == "error" else [(s.start, s.end, sum(s.process.values())) for s in t.turns] for t in episodes
        ],
        "states": [[] if t.stop == "error" else [s.state for s in t.turns] for t in episodes],
        "values": [s.values for s in samples],
        "stale": [s.stale for s in samples],
    }


def _sample_from(state: Mapping[str, Any]) -> Sample:
    t = dict(state["trajectory"])
    t["task"] = TaskId(**t["task"])
    t["turns"] = [TurnSpan(**turn) for turn in t["turns"]]
    return Sample(Trajectory(**t), state["seed"], state["reward"], state["values"], state["stale"])
