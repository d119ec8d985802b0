from palestra.agents.policies import HumanPolicy, OraclePolicy, RandomPolicy, ScriptedPolicy, play
from palestra.envs import make


def test_the_oracle_solves_and_the_guesser_does_not() -> None:
    env = make("palestra/Dice-v0", "test")
    assert all(play(env, OraclePolicy(), i).outcome == 1.0 for i in range(50))
    guessed = [play(env, RandomPolicy(i), i) for i in range(200)]
    assert 0 <= sum(t.outcome for t in guessed) < 20
    assert {t.stop for t in guessed} == {"answer"}
    assert play(env, RandomPolicy(3), 3).messages == guessed[3].messages


def test_a_script_repeats_its_last_turn() -> None:
    t = play(make("palestra/Dice-v0", "test"), ScriptedPolicy(["a", "b"]), 0)
    assert [m["content"] for m in t.messages if m["role"] == "assistant"] == ["a", "b", "b", "b"]
    assert t.stop == "turns"


def test_a_person_sees_each_observation() -> None:
    shown: list[str] = []
    answers = iter(["what?", "<answer>1/2</answer>"])
    t = play(make("palestra/Dice-v0", "test"), HumanPolicy(shown.append, lambda: next(answers)), 0)
    assert shown[0].startswith("Roll ")
    assert "No answer found" in shown[1]
    assert len(t.turns) == 2
