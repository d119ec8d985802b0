"""What the base thinks of what the trained model wrote: bounds, novelty and perplexities (docs/statistics.md, 11).

Both runs' trajectories are read again by both models, on one engine. The solutions of either bound the base's success
probability from below, which failed samples cannot: a base that fails 256 times may still write the trained
model's solution once in 300 times.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from palestra.agents.progress import ProgressReport
from palestra.envs.errors import UsageError
from palestra.eval.loading import LoadedRun, load_runs, samples_to_compare
from palestra.eval.reading import Read, Readers
from palestra.eval.records import SampleRecord, read_samples
from palestra.eval.stats.bounds import upper_bound
from palestra.eval.stats.discovery import DiscoveryRule
from palestra.eval.stats.exact import theta
from palestra.eval.stats.likelihood import LikelihoodBound, Scored, mis_lower_bound, novelty, perplexity, sequence_kl

OTHERS = 32
"""Samples of each problem and run, solved or not, behind perplexities, novelty and KL."""
MISMATCH = 0.05
"""Nats per token, on average, by which log-probabilities may differ from those noted when a run was drawn."""


@dataclass(frozen=True)
class ProblemLikelihood:
    """One problem, seen through both models' likelihoods."""

    problem: int
    key: str
    base_successes: int
    trained_successes: int
    bound: LikelihoodBound
    """The base's success probability is at least `bound.low`."""
    high: float
    """Exact upper bound from the base's samples alone, at the same level."""
    novelty: float | None
    """Rank of the trained model's solutions among the base's own samples, mean: 0 usual to it, 1 unlike any."""
    kl: float | None
    """KL(trained || base) of a whole trajectory, in nats; None with fewer than 2 samples that hold a turn."""

    def within_reach(self, rule: DiscoveryRule) -> bool:
        """Tell whether the base provably solves the problem within the budget more often than a discovery allows."""
        return bool(theta(self.bound.low, rule.budget) > rule.eta)


@dataclass(frozen=True)
class VariantLikelihood:
    """All problems of a variant."""

    name: str
    n: int
    """Samples of each problem and run."""
    problems: tuple[ProblemLikelihood, ...]
    perplexities: dict[str, dict[str, float]]
    """Who reads, whose samples: per token, e.g. `["base"]["trained"]`."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        rule = DiscoveryRule()
        return {
            "name": self.name,
            "n": self.n,
            "perplexities": self.perplexities,
            "problems": [
                {
                    **asdict(found),
                    "bound": {**found.bound._asdict(), "weak": found.bound.weak},
                    "within_reach": found.within_reach(rule),
                }
                for found in self.problems
            ],
        }


class Likelihoods(NamedTuple):
    """The likelihoods of two runs' trajectories under both models."""

    runs: tuple[LoadedRun, LoadedRun]
    """The base's and the trained model's."""
    variants: tuple[VariantLikelihood, ...]

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values, with what identifies the models."""
        base, trained = self.runs
        return {
            "v": 1,
            "env": base.env,
            "base": base.info.manifest["model"],
            "trained": trained.info.manifest["model"],
            "sampling": base.info.manifest["sampling"],
            "budget": DiscoveryRule().budget,
            "variants": [variant.to_json() for variant in self.variants],
        }


def likelihoods(
    base: str | Path,
    trained: str | Path,
    *,
    variants: Sequence[str] | None = None,
    samples: int | None = None,
    alpha: float = 0.05,
) -> Likelihoods:
    """Score the trajectories of two runs under both their models.

    Args:
        base: Run of the base.
        trained: Run of the trained model, with the same settings on the same problems.
        variants: Of these only; None for all.
        samples: The first so many samples of each problem; None for as many as both runs have.
        alpha: One minus the coverage of each bound.

    Raises:
        UsageError: The runs cannot be compared, were not sampled from the models' own distributions, hold no tokens,
            or their models are gone, have changed, or do not share a tokenizer.
        PalestraError: A run is damaged.
    """
    runs = load_runs([base, trained], variants)
    temperature = _temperature(runs)
    n = samples_to_compare(runs, samples)
    if n < 2:
        raise UsageError("a bound needs at least 2 samples of every problem; extend both with `palestra eval -n`.")
    chosen = [_chosen(run, n) for run in runs]
    read: list[list[Read]] = []
    with (
        Readers(runs) as readers,
        ProgressReport("score under both models", "trajectories", sum(map(len, chosen))) as progress,
    ):
        for model, (run, samples_of) in enumerate(zip(runs, chosen, strict=True)):
            read.append([])
            for found in readers.read(run, samples_of, temperature):
                read[-1].append(found)
                progress.update(sum(map(len, read)))
            _check_model(run, model, read[-1])
    names = sorted(runs[0].keys, key=lambda name: (name != "test", name))
    return Likelihoods((runs[0], runs[1]), tuple(_variant(name, runs, read, n, alpha) for name in names))


def _temperature(runs: Sequence[LoadedRun]) -> float:
    """Return the temperature of both, having made sure that nothing else shaped the distribution."""
    for run in runs:
        sampling = run.info.manifest["sampling"]
        shaped = sampling.get("power") or sampling.get("banned") or sampling.get("top_p", 1.0) != 1.0
        if shaped or not sampling["temperature"] > 0:
            raise UsageError(
                f"{run.info.path} was not sampled from the model's own distribution; evaluate both with a "
                "--temperature above 0, --top-p 1, and without --power-alpha and --ban."
            )
    return float(runs[0].info.manifest["sampling"]["temperature"])


def _chosen(run: LoadedRun, n: int) -> list[SampleRecord]:
    """Return the samples to read: every success, and the first ones whatever came of them."""
    return [
        sample
        for sample in read_samples(run.info.path)
        if sample.variant in run.keys and sample.sample < n and (sample.outcome or sample.sample < OTHERS)
    ]


def _check_model(run: LoadedRun, model: int, read: Sequence[Read]) -> None:
    apart = [
        abs(found.logprobs[model] - found.sample.logprob) / found.tokens
        for found in read
        if found.sample.logprob is not None
    ]
    if apart and np.mean(apart) > MISMATCH:
        raise UsageError(
            f"the model of {run.info.path} gives its samples other log-probabilities than when they were drawn "
            f"({np.mean(apart):.2f} nats per token apart); evaluate it again."
        )


def _variant(
    name: str, runs: Sequence[LoadedRun], read: Sequence[Sequence[Read]], n: int, alpha: float
) -> VariantLikelihood:
    problems = sorted(runs[0].keys[name])
    of: list[dict[int, list[Read]]] = [{problem: [] for problem in problems} for _ in runs]
    for by_problem, items in zip(of, read, strict=True):
        for found in items:
            if found.sample.variant == name:
                by_problem[found.sample.problem].append(found)
    successes = [run.successes(name, problems, n).tolist() for run in runs]
    return VariantLikelihood(
        name,
        n,
        tuple(
            _problem(problem, runs[0].keys[name][problem], c, (of[0][problem], of[1][problem]), n, alpha)
            for problem, *c in zip(problems, *successes, strict=True)
        ),
        _perplexities([[found for items in by_problem.values() for found in items] for by_problem in of]),
    )


def _problem(
    problem: int, key: str, successes: Sequence[int], read: tuple[list[Read], list[Read]], n: int, alpha: float
) -> ProblemLikelihood:
    solutions = [[found for found in items if found.sample.outcome] for items in read]
    own, drawn = (_random(items) for items in read)
    answers = [found.logprobs[0] / found.tokens for found in solutions[1]]
    return ProblemLikelihood(
        problem=problem,
        key=key,
        base_successes=successes[0],
        trained_successes=successes[1],
        bound=mis_lower_bound(_scored(solutions[0], n), _scored(solutions[1], n), alpha),
        high=float(upper_bound(n, successes[0], alpha)),
        novelty=float(novelty(answers, [found.logprobs[0] / found.tokens for found in own]).mean())
        if answers and own
        else None,
        kl=sequence_kl(_scored(drawn, len(drawn)))[0] if len(drawn) > 1 else None,
    )


def _random(read: Sequence[Read]) -> list[Read]:
    """Return those that were taken whatever came of them."""
    return [found for found in read if found.sample.sample < OTHERS]


def _scored(read: Sequence[Read], n: int) -> Scored:
    """Fill up to n with failures, whose log-probabilities no bound asks for."""
    failed = n - len(read)
    return Scored(
        [found.logprobs[0] for found in read] + [0.0] * failed,
        [found.logprobs[1] for found in read] + [0.0] * failed,
        [True] * len(read) + [False] * failed,
    )


def _perplexities(read: Sequence[Sequence[Read]]) -> dict[str, dict[str, float]]:
    names = ("base", "trained")
    table: dict[str, dict[str, float]] = {}
    for model, reader in enumerate(names):
        table[reader] = {}
        for whose, items in zip(names, map(_random, read), strict=True):
            if items:
                logs = [found.logprobs[model] for found in items]
                table[reader][whose] = perplexity(logs, [found.tokens for found in items])
    return table
