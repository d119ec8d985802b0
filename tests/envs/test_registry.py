import pytest

from palestra.envs import make, register, spec, specs
from palestra.envs.errors import UsageError, unknown_name
from palestra.envs.tasks.dice import Dice


def test_specs_hold_the_built_in_environments() -> None:
    assert {"palestra/Dice-v0", "palestra/StringCompose-v0"} <= {s.id for s in specs()}
    assert spec("palestra/Dice-v0").summary.startswith("Probability that the sum")


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown environment 'palestra/dice-v0'; did you mean 'palestra/Dice-v0'"):
        make("palestra/dice-v0")
    with pytest.raises(UsageError, match="unknown variant of palestra/Dice-v0 'more_dice'; did you mean 'more-dice'"):
        make("palestra/Dice-v0", "more_dice")
    assert "valid are: a, b" in str(unknown_name("thing", "zzzzzz", ["b", "a"]))
    many = [f"palestra/{letter * 5}-v0" for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"]
    assert str(unknown_name("thing", "zz", many, "palestra things")).endswith(
        "`palestra things` lists the 36 that there are."
    )
    assert "did you mean 'palestra/bbbbb-v0'" in str(unknown_name("thing", "bbbbb", many))


@pytest.mark.parametrize(
    ("env_id", "variants", "part"),
    [
        ("Dice-v0", {"train": {}}, "no environment id"),
        ("t/Dice", {"train": {}}, "no environment id"),
        ("t/Dice-v0", {"test": {}}, "must contain 'train'"),
        ("t/Dice-v0", {"train": {"dices": 3}}, "sets 'dices', which"),
        ("palestra/StringCompose-v0", {"train": {}}, "already registered"),
    ],
)
def test_wrong_registrations_are_refused(env_id: str, variants: dict[str, dict[str, int]], part: str) -> None:
    class Other(Dice):
        """Another."""

    with pytest.raises(ValueError, match=part):
        register(env_id, variants=variants)(Other)
