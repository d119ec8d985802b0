"""`palestra play`: a person, a script, the oracle or a guesser plays one episode in the terminal."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from palestra.agents.policies import Policy
    from palestra.agents.trajectory import Trajectory
    from palestra.envs.core import TextEnv

POLICIES = ("human", "oracle", "random")
HELP = """A turn ends with an empty line (not inside a block of code that ``` opened). Ctrl-D leaves.
  /tool NAME KEY=VALUE ...   call a tool, for example: {example}
  /help                      this
  /quit                      leave the episode"""


class _LeftError(Exception):
    """The player asked to leave."""


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("play")(play)


def play(
    env: Annotated[str, typer.Argument(help="Environment id, e.g. palestra/Dice-v0.")],
    variant: Annotated[str, typer.Option(help="Variant.")] = "test",
    index: Annotated[int, typer.Option(help="Which task of the variant.", min=0)] = 0,
    policy: Annotated[str, typer.Option(help="human, oracle or random.")] = "human",
    script: Annotated[
        Path | None, typer.Option(help="Play the turns of this file, separated by lines that hold only ---.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the episode to this JSON file, as `palestra eval` keeps a model's."),
    ] = None,
    sandbox: Annotated[
        str, typer.Option(help="Where tools run code: local, docker, e2b or unsafe-process (no isolation).")
    ] = "local",
) -> None:
    """Play one episode.

    You see what a model sees, and what each turn earns. A turn of several lines ends with an empty line; `/help`
    lists shortcuts.

    Examples: `palestra play palestra/Dice-v0`, `palestra play palestra/Dice-v0 --policy oracle`,
    `palestra play palestra/Dice-v0 --script turns.txt --save episode.json`
    """
    from palestra.agents.policies import play as play_episode
    from palestra.envs import make
    from palestra.envs.errors import UsageError, unknown_name
    from palestra.envs.sandbox.shared import use_sandbox

    use_sandbox(sandbox)
    if policy not in POLICIES:
        raise unknown_name("policy", policy, POLICIES)
    if script is not None and policy != "human":
        raise UsageError("give either --script or --policy, not both")
    if save is not None and save.exists():
        raise UsageError(f"'{save}' exists already; save to another file, or remove it first")
    turns = iter(()) if script is None else _turns(script)
    with make(env, variant) as environment:
        typer.echo(f"{environment.system_prompt()}\n")
        player = _player(environment, policy, index, turns if script is not None else None)
        try:
            trajectory = play_episode(environment, player, index, watch=lambda info: _show_reward(info["reward"]))
        except _LeftError:
            typer.echo("left; the episode has not ended, and nothing was saved")
            return
        except EOFError:
            left = f"the script '{script}' ends before the episode does; add turns, or an answer"
            raise UsageError(left if script is not None else "the episode was left before it ended") from None
        assert environment.task is not None
        _show_end(trajectory, environment.task.answer)
        if unplayed := sum(1 for _ in turns):
            typer.echo(f"note: the episode ended {unplayed} turn(s) before the script did")
    if save is not None:
        _save(save, trajectory)


def _player(env: "TextEnv", policy: str, index: int, turns: Iterator[str] | None) -> "Policy":
    from palestra.agents.policies import HumanPolicy, OraclePolicy, RandomPolicy

    if turns is not None:
        return HumanPolicy(typer.echo, lambda: _echoed(expand(env, _next(turns))))
    if policy == "human":
        typer.echo(f"({_help(env)})\n")
        return HumanPolicy(typer.echo, lambda: ask(env, lambda prompt: input(prompt)))
    chooser = OraclePolicy() if policy == "oracle" else RandomPolicy(index)
    return _Shown(chooser)


class _Shown:
    """Shows what another policy sees and does."""

    def __init__(self, policy: "Policy") -> None:
        self._policy = policy

    def act(self, env: "TextEnv", observation: str) -> str:
        """Return the policy's turn."""
        typer.echo(observation)
        return _echoed(self._policy.act(env, observation))


def ask(env: "TextEnv", read: Callable[[str], str]) -> str:
    """Read one turn of a person: lines up to an empty one, or a shortcut.

    Args:
        env: Whose tools `/tool` calls.
        read: Reads a line, given what to show before it; raises EOFError at the end.
    """
    from palestra.envs.errors import UsageError

    while True:
        first = read("> ")
        word = first.strip().partition(" ")[0]
        if word == "/quit":
            raise _LeftError
        if word == "/help":
            typer.echo(_help(env))
        elif word.startswith("/"):
            try:
                return _echoed(expand(env, first.strip()))
            except UsageError as error:
                typer.echo(str(error))
        elif first.strip():
            return _rest(first, read)


def expand(env: "TextEnv", turn: str) -> str:
    """Write `/tool NAME KEY=VALUE ...` as a call of the tool; other turns stay as they are.

    Raises:
        UsageError: An unknown shortcut or tool, or arguments that are not KEY=VALUE.
    """
    from palestra.envs.errors import UsageError, unknown_name

    if not turn.startswith("/"):
        return turn
    try:
        command, *words = shlex.split(turn)
    except ValueError as error:
        raise UsageError(f"cannot read the shortcut: {str(error).lower()}") from error
    if command != "/tool" or not words:
        raise UsageError(f"'{command}' is no shortcut here; there are /tool NAME KEY=VALUE ..., /help and /quit")
    tools = {tool.name: tool for tool in env.tools}
    name, *pairs = words
    if name not in tools:
        raise unknown_name("tool", name, tools)
    arguments = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"'{pair}' is not KEY=VALUE; put quotes around a value with spaces")
        arguments[key] = _value(tools[name].parameters.get(key, {}).get("type"), value)
    return env.format_call(name, arguments)


def _value(kind: object, text: str) -> Any:
    """Return a value of the type that a parameter wants; the text itself where it is not one of those."""
    import json

    if kind == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _rest(first: str, read: Callable[[str], str]) -> str:
    lines = [first]
    while True:
        try:
            line = read("  ")
        except EOFError:
            break
        if not line.strip() and sum(each.lstrip().startswith("```") for each in lines) % 2 == 0:
            break
        lines.append(line)
    return "\n".join(lines)


def _help(env: "TextEnv") -> str:
    if not env.tools:
        return HELP.format(example="this environment has no tools")
    tool = env.tools[0]
    return HELP.format(example=" ".join([f"/tool {tool.name}", *(f'{key}="..."' for key in tool.parameters)]))


def _turns(script: Path) -> Iterator[str]:
    from palestra.envs.errors import UsageError

    try:
        lines = script.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the script '{script}': {getattr(error, 'strerror', None) or error}") from error
    turns: list[list[str]] = [[]]
    for line in lines:
        if line.rstrip() == "---":
            turns.append([])
        else:
            turns[-1].append(line)
    if not "".join(turns[-1]).strip():  # the last separator ends a turn
        turns.pop()
    return iter(["\n".join(turn).strip("\n") for turn in turns])


def _next(turns: Iterator[str]) -> str:
    turn = next(turns, None)
    if turn is None:
        raise EOFError
    return turn


def _echoed(turn: str) -> str:
    typer.echo("\n".join(f"> {line}" for line in turn.splitlines() or [""]))
    return turn


def _show_reward(reward: dict[str, Any]) -> None:
    if reward["process"]:
        typer.echo("[" + ", ".join(f"{name} {value:+g}" for name, value in reward["process"].items()) + "]")


def _show_end(trajectory: "Trajectory", answer: str) -> None:
    if trajectory.messages[-1]["role"] != "assistant":
        typer.echo(trajectory.messages[-1]["content"])
    if trajectory.stop == "turns":
        typer.echo("the turns are used up")
    terms = "".join(f", {name} {value:g}" for name, value in trajectory.process.items())
    stated = f" (the answer is {answer})" if answer and "\n" not in answer else ""
    typer.echo(f"outcome {trajectory.outcome:g}{terms}{stated}")


def _save(path: Path, trajectory: "Trajectory") -> None:
    from palestra.envs.errors import UsageError
    from palestra.envs.folders import write_json

    try:
        write_json(path, trajectory.to_json())
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {(error.strerror or str(error)).lower()}") from error
    typer.echo(f"saved: {path}")
