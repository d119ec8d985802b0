"""A folder with an adapter is a model: its base with the adapter merged in."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig

from palestra.agents import models
from palestra.agents.models import LoadedModel, check_model, load_model, weight_files
from palestra.envs.errors import MissingPrerequisiteError, UsageError


@pytest.fixture(scope="module")
def adapter(organism: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(load_model(str(organism)).model, config).save_pretrained(folder)
    return folder


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = loaded.model(torch.tensor([[5, 6, 7, 8]])).logits
    return found


def test_an_adapter_is_merged_into_its_base(adapter: Path, organism: Path) -> None:
    base, merged = load_model(str(organism)), load_model(str(adapter))
    assert type(merged.model) is type(base.model)
    assert merged.max_length == base.max_length
    assert merged.tokenizer.chat_template == base.tokenizer.chat_template
    expected = peft.PeftModel.from_pretrained(base.model, adapter)
    with torch.no_grad():
        unmerged = expected(torch.tensor([[5, 6, 7, 8]])).logits
    assert torch.allclose(logits(merged), unmerged, atol=1e-4)
    assert not torch.allclose(logits(load_model(str(organism))), unmerged, atol=1e-2)


def test_an_adapter_names_its_base_wherever_it_is_loaded_from(
    organism: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(organism.parent)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(load_model(organism.name).model, config).save_pretrained(tmp_path / "lora")
    monkeypatch.chdir(tmp_path)
    load_model("lora")


def test_the_weights_of_an_adapter_are_its_own_and_those_of_its_base(adapter: Path, organism: Path) -> None:
    assert weight_files(str(adapter)) == [adapter / "adapter_model.safetensors", organism / "model.safetensors"]
    assert weight_files(str(organism)) == [organism / "model.safetensors"]


def test_only_models_are_suggested(tmp_path: Path) -> None:
    for name in ("arm-1", "arm-1-eval", "adapter-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "arm-1-eval" / "manifest.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="there is no model at '.*arm-2'"):
        check_model(str(tmp_path / "arm-2"))
    (tmp_path / "arm-1" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "adapter-1" / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="did you mean 'arm-1'") as raised:
        check_model(str(tmp_path / "arm-2"))
    assert "eval" not in str(raised.value)


def test_an_adapter_that_cannot_be_loaded_says_why(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = tmp_path / "lost"
    shutil.copytree(adapter, lost)
    config = json.loads((lost / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (lost / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match="'.*lost' is an adapter of '.*gone' .*: (unknown model|there is no model)"):
        check_model(str(lost))
    (lost / "adapter_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read"):
        check_model(str(lost))
    torn = tmp_path / "torn"
    shutil.copytree(adapter, torn)
    (torn / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match="does not load"):
        load_model(str(torn))
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(MissingPrerequisiteError, match=r"palestra\[lora\]"):
        check_model(str(adapter))
