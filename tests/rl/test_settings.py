import json
import shutil
from pathlib import Path

import pytest

from palestra.envs.config import load_yaml, validate
from palestra.envs.errors import UsageError
from palestra.rl.organisms.recipe import OrganismRecipe, cache_folder, load_recipe, shipped
from palestra.rl.rundir import RunFolder
from palestra.rl.settings import TrainSettings


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model: m\nenv: e\nout: o\nstesp: 3", "unknown key 'stesp' in .*; did you mean 'steps'"),
        ("model: m\nout: o", "lacks the key 'env'"),
        ("model: m\nenv: e\nout: o\nsteps: many", "'steps' in .* is wrong: input should be a valid integer"),
        ("model: m\nenv: e\nout: o\nlr: .inf", "'lr' in .* is wrong: input should be a finite number"),
        ("model: m\nenv: e\nout: o\nprocess_weight: .inf", "'process_weight' in .* finite number"),
        ("model: m\nenv: e\nout: o\nalgo: ppo", "'algo' in .* is wrong: input should be 'grpo' or 'dapo'"),
        ("- 1", "must hold keys and values"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_recipes_get_one_sentence(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        load_yaml(written(tmp_path, text), TrainSettings)
    assert "\n" not in str(caught.value)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "model: m\nenv: e\nout: o\nsteps: 5\nlr: 0.1")
    settings = load_yaml(path, TrainSettings, {"steps": 7})
    assert (settings.steps, settings.lr) == (7, 0.1)


def test_nested_keys_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "name: x\ntraining: {stepz: 3}\nmixture: [{env: e}]")
    with pytest.raises(UsageError, match="unknown key 'training.stepz' in .*; did you mean 'steps'"):
        load_recipe(str(path))
    path = written(tmp_path, "name: x\ntraining: {steps: 3}\nmixture: [{env: e, wieght: 2}]")
    with pytest.raises(UsageError, match=r"unknown key 'mixture.0.wieght' in .*; did you mean 'weight'"):
        load_recipe(str(path))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match="unknown organism 'string-atom'; did you mean 'string-atoms'"):
        load_recipe("string-atom")


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_load_and_their_mixtures_exist(name: str) -> None:
    from palestra.envs import make

    recipe = load_recipe(name)
    assert recipe.name == name
    for part in recipe.mixture:
        assert part.variant.startswith("train"), "an organism must not be built on evaluation tasks"
        make(part.env, part.variant)


def test_the_cache_tells_recipes_and_seeds_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALESTRA_HOME", str(tmp_path))
    recipe = load_recipe("string-atoms")
    changed = OrganismRecipe.model_validate({**recipe.model_dump(), "description": "other"})
    assert len({cache_folder(recipe, 0), cache_folder(recipe, 1), cache_folder(changed, 0)}) == 3
    assert cache_folder(recipe, 0).is_relative_to(tmp_path)


def settings(out: Path, **more: object) -> TrainSettings:
    return validate({"model": "m", "env": "e", "out": out, **more}, TrainSettings, "test")


def test_a_run_folder_is_refused_to_another_configuration(tmp_path: Path) -> None:
    out = tmp_path / "r"
    with RunFolder(out, "train", settings(out, steps=3)) as run:  # died before its first checkpoint
        assert not run.done
    with RunFolder(out, "train", settings(out)) as run:
        assert not run.done
        run.finish({"episodes": 1})
    with RunFolder(out, "train", settings(out)) as run:
        assert run.done
    with pytest.raises(UsageError, match="holds a run with steps = 100, not 7"):
        RunFolder(out, "train", settings(out, steps=7))
    with pytest.raises(UsageError, match="holds a run of `palestra train`"):
        RunFolder(out, "sft", settings(out))


def test_a_run_may_be_made_longer_and_not_shorter(tmp_path: Path) -> None:
    out = tmp_path / "r"
    with RunFolder(out, "train", settings(out, steps=5)) as run:
        checkpoint = out / "checkpoints" / "checkpoint-5"
        checkpoint.mkdir(parents=True)
        (checkpoint / "COMPLETE").touch()
        run.finish({"episodes": 1})
    with pytest.raises(UsageError, match="holds a run with lr = .*, not"):
        RunFolder(out, "train", settings(out, steps=9, lr=1.0))
    with RunFolder(out, "train", settings(out, steps=9)) as run:
        assert not run.done
        assert run.manifest["config"]["steps"] == 9
    with RunFolder(out, "train", settings(out, steps=9)) as run:  # killed before it was done
        assert not run.done
        run.finish({"episodes": 2})
    with pytest.raises(UsageError, match="holds a run with steps = 9, not 5"):
        RunFolder(out, "train", settings(out, steps=5))
    shutil.rmtree(checkpoint)
    with pytest.raises(UsageError, match="no checkpoint left to go on from"):
        RunFolder(out, "train", settings(out, steps=10))
    with RunFolder(out, "train", settings(out, steps=9)) as run:
        assert run.done, "a refused extension leaves the run as it was"


def test_a_run_from_before_there_was_a_choice_of_sandboxes_was_local(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "train", settings(tmp_path)) as run:
        run.finish({"episodes": 1})
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["config"].pop("sandbox") == "local"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with RunFolder(tmp_path, "train", settings(tmp_path)) as run:
        assert run.done
    with pytest.raises(UsageError, match="holds a run with sandbox = 'local', not 'docker'"):
        RunFolder(tmp_path, "train", settings(tmp_path, sandbox="docker"))


def test_foreign_and_unusable_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty and holds no training run"):
        RunFolder(tmp_path / "full", "train", settings(tmp_path / "full"))
    with pytest.raises(UsageError, match="cannot write to the folder"):
        RunFolder(tmp_path / "full" / "thesis.txt" / "x", "train", settings(tmp_path))
    assert (tmp_path / "full" / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_torn_checkpoints_are_not_resumed_from(tmp_path: Path) -> None:
    for step, complete in ((5, True), (10, True), (15, False)):
        folder = tmp_path / "r" / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if complete:
            (folder / "COMPLETE").touch()
    (tmp_path / "r" / "manifest.json").write_text('{"command": "train", "config": {}}', encoding="utf-8")
    with pytest.raises(UsageError, match="holds a run with"):  # a whole checkpoint protects the folder
        RunFolder(tmp_path / "r", "train", settings(tmp_path / "r"))
    assert not (tmp_path / "r" / "checkpoints" / "checkpoint-15").exists()


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "r", "train", settings(tmp_path / "r")):
        with pytest.raises(UsageError, match="another process is training"):
            RunFolder(tmp_path / "r", "train", settings(tmp_path / "r"))
    RunFolder(tmp_path / "r", "train", settings(tmp_path / "r")).close()
