"""accelerate reads the launch recipes, and takes from them what they are for."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

import palestra.rl.recipes

RECIPES = sorted(Path(palestra.rl.recipes.__file__).parent.glob("*.yaml"))
CHOSEN = {"ddp": "multi_gpu", "fsdp2": "use_fsdp", "zero3": "use_deepspeed"}


def test_every_recipe_is_known() -> None:
    assert {path.stem for path in RECIPES} == CHOSEN.keys()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_accelerate_takes_a_recipe(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "bf16"
    command = ["--config_file", str(path), "--num_processes", "2", "-m", "palestra", "train", "--steps", "1"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    assert [name for name in CHOSEN.values() if getattr(args, name)] == [CHOSEN[path.stem]]
    assert args.num_processes == 2, "the command line wins"
    assert (args.training_script, args.training_script_args) == ("palestra", ["train", "--steps", "1"])
    if path.stem == "fsdp2":
        assert (args.fsdp_version, args.fsdp_state_dict_type) == (2, "FULL_STATE_DICT")
    if path.stem == "zero3":
        assert (args.zero_stage, args.zero3_save_16bit_model) == (3, True)
