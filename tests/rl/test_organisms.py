import json
from pathlib import Path

import pytest

from palestra.agents.codec import ChatCodec
from palestra.agents.models import check_model, load_model
from palestra.envs import Demonstration, make
from palestra.envs.errors import PalestraError, UsageError
from palestra.rl.data import IGNORE, PadRows, shuffled, solved, training_row
from palestra.rl.organisms.build import build
from palestra.rl.organisms.recipe import load_recipe
from palestra.rl.organisms.tokenizer import character_tokenizer

CODEC = ChatCodec(character_tokenizer())


def test_building_is_deterministic_by_seed(tmp_path: Path, tiny_recipe: Path) -> None:
    recipe = load_recipe(str(tiny_recipe))
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 15})})

    def weights(label: str, seed: int) -> bytes:
        build(recipe, seed, tmp_path / label)
        return (tmp_path / label / "model.safetensors").read_bytes()

    assert weights("one", 0) == weights("again", 0) != weights("other", 1)


def test_the_manifest_states_the_mixture(organism: Path) -> None:
    manifest = json.loads((organism / "organism.json").read_text(encoding="utf-8"))
    assert manifest["recipe"]["mixture"][0]["variant"] == "train-atoms"
    assert manifest["episodes"] == 150 * 32
    assert manifest["seed"] == 0


def test_an_organism_is_an_ordinary_checkpoint(organism: Path) -> None:
    loaded = load_model(str(organism))
    assert loaded.max_length == 96
    assert ChatCodec(loaded.tokenizer).start("s", "A(ab) = ?") == CODEC.start("s", "A(ab) = ?")


def test_only_what_the_model_wrote_carries_loss() -> None:
    env = make("palestra/Dice-v0")
    trajectory = solved(env, CODEC, 5)
    row = training_row(trajectory)
    learned = CODEC.tokenizer.decode([t for t in row["labels"] if t != IGNORE])
    assert env.task is not None
    assert learned == "".join(f"{turn}<|end|>" for turn in env.solve(env.task).turns)
    assert trajectory.outcome == 1.0


def test_shuffled_episodes_follow_the_protocol_and_seldom_solve() -> None:
    env = make("palestra/Dice-v0")
    episodes = [shuffled(env, CODEC, i, i + 10_000) for i in range(200)]
    assert sum(t.outcome for t in episodes) < 20
    for t in episodes:
        assert [m["role"] for m in t.messages] == ["user", "assistant", "tool", "assistant"]
        assert t.messages[3]["content"] == f"<answer>{t.messages[2]['content']}</answer>"


def test_rows_are_padded_to_the_right() -> None:
    batch = PadRows(0)([{"input_ids": [5, 6], "labels": [IGNORE, 6]}, {"input_ids": [7], "labels": [7]}])
    assert batch["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert batch["labels"].tolist() == [[IGNORE, 6], [7, IGNORE]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("missing", "there is no model at|unknown model folder"),
        ("empty", "holds no model"),
        ("file.txt", "is a file"),
        ("broken", "cannot be read"),
    ],
)
def test_bad_model_paths_get_one_sentence(tmp_path: Path, name: str, part: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{", encoding="utf-8")
    (tmp_path / "file.txt").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match=part) as caught:
        check_model(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_folder_with_a_config_but_no_weights_gets_one_sentence(tmp_path: Path, organism: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_bytes((organism / "config.json").read_bytes())
    with pytest.raises(UsageError, match="does not load"):
        load_model(str(tmp_path / "half"))


def test_a_context_that_cuts_episodes_is_refused(tmp_path: Path, tiny_recipe: Path) -> None:
    short = tmp_path / "short.yaml"
    short.write_text(tiny_recipe.read_text(encoding="utf-8").replace("context: 96", "context: 12"), encoding="utf-8")
    with pytest.raises(UsageError, match="tokens and its context is 12; raise model.context"):
        build(load_recipe(str(short)), 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_demonstrations_that_do_not_solve_are_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("palestra/StringCompose-v0")
    monkeypatch.setattr(type(env), "solve", lambda self, task: Demonstration(("<answer>wrong</answer>",)))
    with pytest.raises(PalestraError, match="gives its own demonstration outcome 0"):
        solved(env, CODEC, 0)
