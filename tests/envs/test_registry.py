from importlib.metadata import EntryPoint
from typing import Any

import pytest

from palestra.envs import Calculator, make, register, registry, spec, specs
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
        ("t/Dice-v0", ["train", "test"], "variants must map names to attributes"),
        ("t/Dice-v0", {"train": None}, "variants must map names to attributes"),
        ("palestra/StringCompose-v0", {"train": {}}, "already registered"),
    ],
)
def test_wrong_registrations_are_refused(env_id: str, variants: Any, part: str) -> None:
    class Other(Dice):
        """Another."""

    with pytest.raises(ValueError, match=part):
        register(env_id, variants=variants)(Other)


@pytest.mark.parametrize(
    ("attributes", "kind", "part"),
    [
        ({"tools": (Calculator,)}, TypeError, "tools must be a tuple of Tool objects"),
        ({"tools": Calculator()}, TypeError, "tools must be a tuple of Tool objects"),
        ({"tools": (Calculator(), Calculator())}, ValueError, "two tools are named 'calculator'"),
        ({"max_turns": 0}, ValueError, "max_turns and attempts must be at least 1"),
        ({"process_terms": {"x": (0, 1)}}, TypeError, "process_terms must map names to ProcessTerm"),
        ({"syntax": "yaml"}, UsageError, "unknown tool-call syntax of tests/Odd-v0 'yaml'"),
    ],
)
def test_wrong_declarations_are_named_when_an_environment_is_made(
    attributes: dict[str, Any], kind: type[Exception], part: str
) -> None:
    register("tests/Odd-v0", variants={"train": {}})(type("Odd", (Dice,), {**attributes, "__module__": __name__}))
    with pytest.raises(kind, match=part):
        make("tests/Odd-v0")


def test_a_package_that_does_not_load_is_one_line(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    point = EntryPoint("x", "no_such_module_of_anyone", "palestra.envs")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with caplog.at_level("WARNING"):
        [broken] = registry._load_plugins.__wrapped__()
    assert "the package 'no_such_module_of_anyone' does not load: ModuleNotFoundError" in broken
    [record] = caplog.records
    assert "\n" not in record.getMessage()
    assert record.exc_info is None
