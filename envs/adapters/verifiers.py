"""A registered environment for verifiers (`verifiers.v1`): a taskset of its problems, and what plays one of them.

Invariant: the episode is the environment's own. The agent's replies go to `step` as they are, observations come back
as user messages (verifiers knows no tool messages that its harness did not make), the strict outcome is the one
reward, and process terms are metrics, which verifiers never adds to a reward.

`palestra export verifiers` writes the package under whose name verifiers finds these classes. Importing this module
needs the package `verifiers` (written against 0.4).
"""

import asyncio
from collections.abc import Iterator
from contextlib import closing

from palestra.envs.errors import MissingPrerequisiteError
from palestra.envs.registry import make

try:
    import verifiers.v1 as vf
except ModuleNotFoundError as error:
    raise MissingPrerequisiteError(
        "this needs verifiers, which wants other packages than Palestra's tests ran with: in an environment of its "
        'own, pip install palestra "verifiers>=0.4,<0.5"'
    ) from error


class PalestraConfig(vf.TasksetConfig):
    """Which problems the taskset has."""

    env_id: str = "palestra/Dice-v0"
    """Environment id."""
    variant: str = "train"
    """Variant: what verifiers calls a split."""
    count: int = 100
    """Problems, all different."""


class PalestraData(vf.TaskData):
    """A problem by its identity; verifiers sends this to its workers."""

    env_id: str
    variant: str
    index: int


class PalestraTask(vf.Task[PalestraData]):
    """A problem; the episode itself is scored by the environment, turn by turn."""

    @property
    def key(self) -> str:
        """The task's identity, whatever its place in the taskset."""
        return f"{self.data.env_id}/{self.data.variant}/{self.data.index}"


class PalestraTaskset(vf.Taskset[PalestraTask, PalestraConfig]):
    """The first `count` different problems of a variant."""

    def load(self) -> Iterator[PalestraTask]:
        """Yield the problems in the order of their indices."""
        wanted: PalestraConfig = self.config
        with closing(make(wanted.env_id, wanted.variant)) as env:
            for index in env.distinct_indices(wanted.count):
                data = PalestraData(
                    env_id=wanted.env_id,
                    variant=wanted.variant,
                    index=index,
                    prompt=env.task_at(index).prompt,
                    system_prompt=env.system_prompt(),
                )
                yield PalestraTask(data, wanted.task)


class PalestraEnvConfig(vf.EnvConfig):
    """Who plays: a plain chat loop in this machine's processes, since our tools run in the environment."""

    agent: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime={"type": "subprocess"})


class PalestraEnv(vf.Env[PalestraEnvConfig]):
    """Plays one problem."""

    async def run(self, task: PalestraTask, agents: vf.Agents) -> None:
        """Play until the environment or verifiers ends the episode; in the latter case the outcome is 0.

        Raises:
            PalestraError: A tool's machinery failed; verifiers then counts the episode as failed, not as lost.
        """
        data = task.data
        with closing(make(data.env_id, data.variant)) as env:
            env.reset(options={"index": data.index})
            outcome, process = 0.0, dict.fromkeys(env.process_terms, 0.0)
            async with agents.agent.interaction(task) as exchange:
                segment = await exchange.turn()
                while not segment.terminated:
                    step = asyncio.to_thread(env.step, segment.last_reply)
                    observation, outcome, terminated, truncated, info = await step
                    for name, value in info["reward"]["process"].items():
                        process[name] += value
                    if terminated or truncated:
                        break
                    segment = await exchange.turn(observation)
                if not exchange.trace.errors:  # else it says nothing about the model
                    exchange.trace.record_reward("outcome", outcome)
                    exchange.trace.record_metrics(process)
