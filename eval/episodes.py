"""Where the episodes of an evaluation come from: scripted policies, a model in this process, or one of a server."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from palestra.agents.markers import markers_of, tokens_to_ban
from palestra.agents.policies import OraclePolicy, RandomPolicy, play
from palestra.agents.rollout import Episode
from palestra.agents.trajectory import Trajectory
from palestra.envs.answers import extract_answer
from palestra.envs.core import TaskId
from palestra.envs.errors import UsageError
from palestra.envs.registry import make
from palestra.eval.records import SampleId, SampleRecord
from palestra.eval.settings import POLICIES, SERVED, EvalSettings

VLLM_MEMORY = 0.9
"""Share of a GPU's memory that vLLM takes where nothing is trained beside it."""


class Played(NamedTuple):
    """One finished episode."""

    key: SampleId
    trajectory: Trajectory
    tokens_in: int | None
    tokens_out: int | None
    logprob: float | None = None
    tokens_drawn: int | None = None


def sample_seed(run_seed: int, env: str, variant: str, problem: int, sample: int) -> int:
    """Return the 64-bit seed of one sample: it depends on nothing but what the sample is."""
    text = f"{run_seed}|{env}|{variant}|{problem}|{sample}"
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def model_identity(settings: EvalSettings) -> dict[str, str]:
    """Name the model and, for a folder, the digest of its weights.

    Raises:
        UsageError: There is no such model.
    """
    if settings.served or settings.model in POLICIES:
        return {"name": settings.model}
    from palestra.agents.models import weight_files

    digest = sha256()
    for path in weight_files(settings.model):
        digest.update(path.read_bytes())
    return {"name": settings.model, "weights": digest.hexdigest()[:16]}


def training_cost(settings: EvalSettings) -> dict[str, Any]:
    """Return what the model cost to train, as `training`, where its folder says so (`cost.json`)."""
    try:
        return {"training": json.loads((Path(settings.model) / "cost.json").read_text(encoding="utf-8"))}
    except (OSError, ValueError):
        return {}


def episodes(settings: EvalSettings, todo: list[SampleId]) -> Iterator[Played]:
    """Play the samples asked for, in any order.

    Raises:
        UsageError: The model cannot be loaded, or its server refuses it; or it cannot do what is asked.
        PalestraError: Its server cannot be reached.
    """
    if not todo:
        return iter(())
    if settings.model in POLICIES:
        if settings.ban:
            raise UsageError(f"--ban is for models; '{settings.model}' samples no tokens")
        return _policy_episodes(settings, todo)
    return _served_episodes(settings, todo) if settings.served else _local_episodes(settings, todo)


def record(settings: EvalSettings, played: Played) -> SampleRecord:
    """Return the line that statistics read."""
    (variant, problem, sample), trajectory = played.key, played.trajectory
    return SampleRecord(
        env=settings.env,
        variant=variant,
        problem=problem,
        key=trajectory.key,
        sample=sample,
        seed=_seed(settings, played.key),
        outcome=trajectory.outcome,
        process=trajectory.process,
        turns=len(trajectory.turns),
        tokens_in=played.tokens_in,
        tokens_out=played.tokens_out,
        wall_s=round(trajectory.wall_s, 3),
        stop=trajectory.stop,
        error=trajectory.error,
        answer=answer_digest(trajectory.messages, fenced=_fenced(settings.env, variant)),
        logprob=None if played.logprob is None else round(played.logprob, 4),
        tokens_drawn=played.tokens_drawn,
        cut=sum(turn.cut for turn in trajectory.turns),
    )


def answer_digest(messages: list[dict[str, str]], *, fenced: bool) -> str | None:
    """Return a digest of the answer that the last assistant turn states, or None if it states none."""
    last = next((m["content"] for m in reversed(messages) if m["role"] == "assistant"), "")
    answer = extract_answer(last, fenced=fenced)
    return None if answer is None else sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@cache
def _fenced(env: str, variant: str) -> bool:
    return make(env, variant).answers_in_fences


def _seed(settings: EvalSettings, key: SampleId) -> int:
    return sample_seed(settings.seed, settings.env, *key)


def _policy_episodes(settings: EvalSettings, todo: list[SampleId]) -> Iterator[Played]:
    with ExitStack() as made:
        envs = {variant: made.enter_context(make(settings.env, variant)) for variant in settings.variant}
        for key in todo:
            policy = OraclePolicy() if settings.model == "oracle" else RandomPolicy(_seed(settings, key))
            env = envs[key[0]]
            try:
                trajectory = play(env, policy, key[1])
            except Exception as failure:  # an environment that broke costs its own episode
                trajectory = Trajectory(TaskId(env.env_id, env.variant, key[1]), "")
                trajectory.fail(failure)
                envs[key[0]] = made.enter_context(make(settings.env, key[0]))
            yield Played(key, trajectory, 0, 0)


def _local_episodes(settings: EvalSettings, todo: list[SampleId]) -> Iterator[Played]:
    from palestra.agents.codec import ChatCodec
    from palestra.agents.engine import Engine, SamplingParams
    from palestra.agents.models import load_model, load_tokenizer
    from palestra.agents.rollout import rollout, turn_seed
    from palestra.agents.transformers_engine import TransformersEngine
    from palestra.agents.vllm_engine import VLLMEngine
    from palestra.eval.power import PowerEngine, PowerSettings

    plain: Engine
    power = None
    if settings.engine == "vllm":
        source, tokenizer, max_length = load_tokenizer(settings.model)
        codec = ChatCodec(tokenizer)
        plain = VLLMEngine(source, codec.stop_ids, max_length, VLLM_MEMORY)
    else:
        loaded = load_model(settings.model)
        codec, max_length = ChatCodec(loaded.tokenizer), loaded.max_length
        plain = own = TransformersEngine(loaded.model, codec.stop_ids, codec.pad_id)
        if settings.power_alpha is not None:
            how = PowerSettings(alpha=settings.power_alpha, block=settings.power_block, moves=settings.power_moves)
            power = PowerEngine(own, how)
    banned = banned_ids(codec.tokenizer, settings.ban)
    params = SamplingParams(settings.max_tokens, settings.temperature, settings.top_p, banned)
    for variant in settings.variant:
        keys = {Episode(p, _seed(settings, (v, p, s))): (v, p, s) for v, p, s in todo if v == variant}
        for episode, trajectory in rollout(
            lambda variant=variant: make(settings.env, variant, syntax=codec.syntax),  # type: ignore[misc]
            list(keys),
            power or plain,
            codec,
            params,
            concurrency=settings.concurrency,
            max_length=max_length,
        ):
            read = len(trajectory.prompt_ids) + len(trajectory.mask) - trajectory.sampled
            drawn = None
            if power is not None:
                drawn = sum(power.drawn.pop(turn_seed(episode.seed, i)) for i in range(len(trajectory.turns)))
            yield Played(keys[episode], trajectory, read, trajectory.sampled, sum(trajectory.logprobs), drawn)


def banned_ids(tokenizer: Any, words: tuple[str, ...]) -> tuple[int, ...]:
    """Return the ids whose text holds one of the words.

    Raises:
        UsageError: A word is in no token.
    """
    texts = [tokenizer.decode([i]) for i in range(len(tokenizer))] if words else []
    ids: set[int] = set()
    for word in words:
        found = tokens_to_ban(texts, markers_of((word,)))
        if not found:
            raise UsageError(f"no single token of this model holds '{word}', so --ban cannot keep it out")
        ids.update(found)
    return tuple(sorted(ids))


def _served_episodes(settings: EvalSettings, todo: list[SampleId]) -> Iterator[Played]:
    from palestra.agents.chat_server import ChatServer
    from palestra.agents.engine import SamplingParams

    params = SamplingParams(settings.max_tokens, settings.temperature, settings.top_p)
    server = ChatServer(settings.model.removeprefix(SERVED), settings.base_url, params)
    for variant in settings.variant:
        keys = {Episode(p, _seed(settings, (v, p, s))): (v, p, s) for v, p, s in todo if v == variant}
        for episode, played in server.rollout(
            lambda variant=variant: make(settings.env, variant),  # type: ignore[misc]
            list(keys),
            concurrency=settings.concurrency,
        ):
            yield Played(keys[episode], played.trajectory, played.tokens_in, played.tokens_out)
