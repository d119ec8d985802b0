"""`palestra play`: a person, the oracle or a guesser plays one episode in the terminal."""

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("play")(play)


def play(
    env: Annotated[str, typer.Argument(help="Environment id, e.g. palestra/Dice-v0.")],
    variant: Annotated[str, typer.Option(help="Variant.")] = "test",
    index: Annotated[int, typer.Option(help="Which task of the variant.", min=0)] = 0,
    policy: Annotated[str, typer.Option(help="human, oracle or random.")] = "human",
    sandbox: Annotated[
        str, typer.Option(help="Where tools run code: local, docker, e2b or unsafe-process (no isolation).")
    ] = "local",
) -> None:
    """Play one episode.

    Example: `palestra play palestra/Dice-v0 --policy oracle`
    """
    from palestra.agents.policies import HumanPolicy, OraclePolicy, RandomPolicy
    from palestra.agents.policies import play as play_episode
    from palestra.envs import make
    from palestra.envs.errors import UsageError, unknown_name
    from palestra.envs.sandbox.shared import use_sandbox

    use_sandbox(sandbox)
    environment = make(env, variant)
    if policy not in ("human", "oracle", "random"):
        raise unknown_name("policy", policy, ("human", "oracle", "random"))
    with environment:
        if policy == "human":
            typer.echo(f"{environment.system_prompt()}\n(one line per turn; Ctrl-D leaves)\n")
            try:
                trajectory = play_episode(environment, HumanPolicy(typer.echo, lambda: input("> ")), index)
            except EOFError:
                raise UsageError("the episode was left before it ended") from None
        else:
            player = OraclePolicy() if policy == "oracle" else RandomPolicy(index)
            trajectory = play_episode(environment, player, index)
            for message in trajectory.messages:
                typer.echo(f"{message['role']}: {message['content']}")
    assert environment.task is not None
    terms = "".join(f", {name} {value:g}" for name, value in trajectory.process.items())
    typer.echo(f"outcome {trajectory.outcome:g}{terms} (the answer is {environment.task.answer})")
