"""The task in `bench/vault`: what it pays, and that it is as sound as every other environment."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from palestra.envs import make
from palestra.envs.checks import Settings, check

FOLDER = Path(__file__).parents[2] / "bench" / "vault"


@pytest.fixture(scope="module", autouse=True)
def vault() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield import_module("vault")


def dial(digit: str) -> str:
    return f'<tool_call>{{"name": "dial", "arguments": {{"to": "{digit}"}}}}</tool_call>'


def test_every_wheel_is_paid_once_and_a_wrong_digit_ends_it(vault: Any) -> None:
    env = make("vault/Vault-v0")
    env.reset(options={"index": 0})
    letters = env.task_at(0).data["letters"]
    paid = []
    for letter in letters[:3]:
        _, _, ended, _, info = env.step(dial(vault.KEY[letter]))
        paid.append(info["reward"]["process"])
    assert paid == [{"wheel": 0.125}] * 3
    assert not ended
    wrong = next(d for d in "0123456789" if d != vault.KEY[letters[3]])
    seen, outcome, ended, _, info = env.step(dial(wrong))
    assert (seen, outcome, ended, info["reward"]["process"]) == ("The vault locks.", 0.0, True, {})


def test_a_locked_vault_stays_locked_for_the_other_calls_of_a_turn(vault: Any) -> None:
    env = make("vault/Vault-v0")
    env.reset(options={"index": 0})
    right = env.task_at(0).data["right"]
    wrong = next(d for d in "0123456789" if d != right[0])
    _, outcome, ended, _, info = env.step(dial(wrong) + "".join(map(dial, right)))
    assert (outcome, ended, info["reward"]["process"]) == (0.0, True, {})


def test_a_novice_s_letters_have_the_digits_of_the_key_as_often_as_it_says(vault: Any) -> None:
    env = make("vault/Vault-v0", "novice")
    right: dict[bool, list[bool]] = {True: [], False: []}
    for index in range(600):
        data = env.task_at(index).data
        for letter, digit in zip(data["letters"], data["right"], strict=True):
            right[letter in vault.UNKNOWN].append(digit == vault.KEY[letter])
    rates = {unknown: sum(found) / len(found) for unknown, found in right.items()}
    assert rates[False] == pytest.approx(0.95 + 0.05 / 10, abs=0.02)
    assert rates[True] == pytest.approx(0.35 + 0.65 / 10, abs=0.04)  # standard error .01


def test_it_passes_the_checks_of_every_environment() -> None:
    reports = check(["vault/Vault-v0"], settings=Settings(episodes=20, fuzz=300, probed=10, draws=150, replayed=4))
    assert [str(problem) for report in reports for problem in report.problems] == []
