"""`palestra play` with a script, a person and a policy, and the trace that it writes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from palestra.cli.main import app
from palestra.cli.play import ask, expand
from palestra.envs import make
from palestra.envs.errors import UsageError

DICE = "palestra/Dice-v0"


def run(*arguments: str | Path, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, ["play", *map(str, arguments)], input=typed)


def right_answer(index: int = 0) -> str:
    return make(DICE, "test").task_at(index).answer


def test_a_script_is_played_and_shown_as_a_model_would_see_it(tmp_path: Path) -> None:
    script = tmp_path / "turns.txt"
    script.write_text(f"Let me see.\nHm.\n---\n/tool calculator expression='1/6 + 1/4'\n---\n{right_answer()}\n---\n")
    with script.open("a", encoding="utf-8") as file:
        file.write(f"<answer>{right_answer()}</answer>\n")
    result = run(DICE, "--script", script, "--save", tmp_path / "episode.json")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Find the exact probability")
    assert "> Hm." in lines
    assert '> <tool_call>{"name": "calculator", "arguments": {"expression": "1/6 + 1/4"}}</tool_call>' in lines
    assert lines[lines.index("5/12") - 1].startswith("> <tool_call>")
    assert "[reduced +1, possible +1]" in lines
    assert f"outcome 1, reduced 1, possible 1 (the answer is {right_answer()})" in lines


def test_the_trace_is_the_one_that_a_models_run_keeps(tmp_path: Path) -> None:
    from palestra.eval.run import evaluate
    from palestra.eval.settings import EvalSettings

    evaluate(EvalSettings(model="oracle", env=DICE, variant=("test",), samples=1, problems=1, out=tmp_path / "eval"))
    kept = json.loads((tmp_path / "eval" / "trajectories" / "part-00000.jsonl").read_text(encoding="utf-8"))
    index = int(kept["task"].rsplit("/", 1)[1])
    assert run(DICE, "--index", str(index), "--policy", "oracle", "--save", tmp_path / "p.json").exit_code == 0
    saved = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert saved == {key: kept[key] for key in saved}
    assert {"task", "key", "messages", "outcome", "process", "stop"} == saved.keys()


def test_a_person_types_several_lines_and_shortcuts() -> None:
    typed = f'/help\n/tool calculator expression="1/2 + 1/3"\nfirst\nsecond\n\n<answer>{right_answer()}</answer>\n\n'
    result = run(DICE, typed=typed)
    assert result.exit_code == 0, result.output
    assert "5/6" in result.stdout.splitlines()
    assert '/tool calculator expression="..."' in result.stdout
    assert "outcome 1" in result.stdout


def test_turns_that_are_left_over_are_told_of(tmp_path: Path) -> None:
    script = tmp_path / "turns.txt"
    script.write_text("<answer>1/2</answer>\n---\nmore\n---\n")
    assert "the episode ended 1 turn(s) before the script did" in run(DICE, "--script", script).stdout
    script.write_text("<answer>1/2</answer>\n---\n")
    assert "before the script did" not in run(DICE, "--script", script).stdout


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    saved = tmp_path / "e.json"
    saved.write_text("mine")
    assert run(DICE, "--policy", "oracle", "--save", saved).exit_code != 0
    assert saved.read_text() == "mine"


def test_leaving_saves_nothing(tmp_path: Path) -> None:
    result = run(DICE, "--save", tmp_path / "e.json", typed="/quit\n")
    assert result.exit_code == 0
    assert "nothing was saved" in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_random_player_is_shown() -> None:
    result = run(DICE, "--policy", "random")
    assert result.exit_code == 0
    assert any(line.startswith("> <answer>") for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("content", "arguments", "part"),
    [
        ("Hm.", [], "ends before the episode does"),
        (None, [], "cannot read the script"),
        ("x", ["--policy", "oracle"], "either --script or --policy"),
        ("/tool calcu a=1", [], "did you mean 'calculator'"),
        ("/toll calculator a=1", [], "'/toll' is no shortcut"),
        ("/tool calculator 1+1", [], "'1+1' is not KEY=VALUE"),
        ("/tool calculator a='1", [], "cannot read the shortcut"),
        ("<answer>1</answer>", ["--save", "/proc/no/such.json"], "cannot write '/proc/no/such.json'"),
    ],
)
def test_mistakes_get_one_sentence(content: str | None, arguments: list[str], part: str, tmp_path: Path) -> None:
    script = tmp_path / "turns.txt"
    if content is not None:
        script.write_text(content, encoding="utf-8")
    error = run(DICE, "--script", script, *arguments).exception
    assert isinstance(error, UsageError)
    assert part in str(error)


def typed(*lines: str) -> Iterator[str]:
    yield from lines
    raise EOFError


def read_turn(*lines: str) -> str:
    source = typed(*lines)
    with make(DICE) as env:
        return ask(env, lambda prompt: next(source))


def test_an_empty_line_ends_a_turn_but_not_inside_a_block_of_code() -> None:
    assert read_turn("", "one", "two", "", "three") == "one\ntwo"
    code = ("So:", "```python", "a = 1", "", "print(a)", "```")
    assert read_turn(*code, "", "more") == "\n".join(code)


def test_the_end_of_the_input_ends_a_turn_that_was_begun() -> None:
    assert read_turn("one") == "one"
    with pytest.raises(EOFError):
        read_turn()


def test_arguments_have_the_types_that_the_tool_wants() -> None:
    with make("palestra/Navigation-v0") as env:
        assert '"direction": "3"' in expand(env, "/tool turn direction=3")
        assert expand(env, "no shortcut") == "no shortcut"
