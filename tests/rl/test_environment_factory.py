"""An environment in TRL's own multi-turn loop: the methods TRL finds, and a training step of the real trainer."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM, set_seed
from transformers.utils import get_json_schema
from trl import GRPOConfig, GRPOTrainer
from trl.chat_template_utils import qwen3_chat_template

from palestra.envs import Calculator, make, register, specs
from palestra.envs.errors import PalestraError, UsageError
from palestra.envs.tasks.dice import Dice
from palestra.rl.environment_factory import OVER, dataset, environment_factory
from palestra.rl.organisms.tokenizer import character_tokenizer

DICE = "palestra/Dice-v0"


class Nested(Calculator):
    """Every kind of parameter."""

    name = "nested"
    description = "Takes\n  all kinds."
    parameters = {
        "unit": {"type": "string", "enum": ["m", "km"], "description": "which unit"},
        "many": {"type": "array", "items": {"type": "integer"}, "description": "numbers"},
        "flag": {"type": "boolean"},
        "either": {"type": ["string", "number"], "description": "text or number"},
        "point": {
            "type": "object",
            "properties": {"x": {"type": "number"}},
            "required": ["x"],
            "description": "where",
        },
    }
    required = ("unit",)


class Nesting(Dice):
    """Dice with such a tool."""

    tools = (Nested(),)


register("tests/Nesting-v0", variants={"train": {}})(Nesting)


def test_methods_have_the_tools_schemas() -> None:
    environment: Any = environment_factory(DICE, "test")()
    schema = get_json_schema(environment.calculator)["function"]
    ours = Calculator().schema()["function"]
    assert {key: schema[key] for key in ours} == ours
    assert get_json_schema(environment.submit)["function"]["parameters"]["required"] == ["answer"]


def test_all_kinds_of_parameters_reach_the_model() -> None:
    environment: Any = environment_factory("tests/Nesting-v0")()
    schema = get_json_schema(environment.nested)["function"]
    assert schema["description"] == "Takes all kinds."
    properties = schema["parameters"]["properties"]
    for key in ("unit", "many"):
        assert properties[key] == Nested.parameters[key]
    assert properties["flag"] == {"type": "boolean", "description": "flag"}
    assert sorted(properties["either"]["type"]) == ["number", "string"]
    assert properties["point"]["type"] == "object"
    assert '"required": ["x"]' in properties["point"]["description"]
    assert schema["parameters"]["required"] == ["unit"]


def test_every_environment_has_its_tools_as_methods() -> None:
    for spec in specs():
        for variant in spec.variants if spec.id.count("/") == 1 else ():
            environment: Any = environment_factory(spec.id, variant)()
            for tool in make(spec.id, variant).tools:
                schema = get_json_schema(getattr(environment, tool.name))["function"]["parameters"]
                assert schema.get("required", []) == tool.schema()["function"]["parameters"]["required"]
                assert list(schema["properties"]) == list(tool.parameters)


def test_an_oracle_episode_is_worth_one() -> None:
    environment: Any = environment_factory(DICE, "test")()
    task = make(DICE, "test").task_at(3)
    assert environment.reset(index=3, prompt=[]) == task.prompt
    assert environment.get_reward() == 0.0
    assert environment.calculator(expression="1/2+1/3") == "5/6"
    assert environment.submit(answer=task.answer) == OVER
    assert environment.get_reward() == 1.0


def test_nothing_counts_after_the_end() -> None:
    environment: Any = environment_factory(DICE, "test")()
    environment.reset(index=3)
    environment.submit(answer="0/1")
    assert environment.submit(answer=make(DICE, "test").task_at(3).answer) == OVER
    assert environment.get_reward() == 0.0
    environment.reset(index=3)
    assert environment.submit(answer=make(DICE, "test").task_at(3).answer) == OVER
    assert environment.get_reward() == 1.0


def test_wrong_arguments_are_answered_and_cost_a_turn() -> None:
    environment: Any = environment_factory(DICE, "test")()
    environment.reset(index=0)
    for wrong in ({}, {"expression": 3}, {"formula": "1"}):
        assert environment.calculator(**wrong).startswith("Error: ")
    assert environment.calculator(expression="1+1") == f"2\n{OVER}", "the fourth turn of four"
    assert environment.get_reward() == 0.0


def test_a_failed_tool_gives_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Calculator, **arguments: Any) -> str:
        raise PalestraError("the sandbox is gone")

    environment: Any = environment_factory(DICE, "test")()
    environment.reset(index=0)
    with monkeypatch.context() as patch:
        patch.setattr(Calculator, "__call__", broken)
        with pytest.raises(PalestraError, match="sandbox is gone"):
            environment.calculator(expression="1")
    assert environment.get_reward() is None
    assert environment.submit(answer="1/2") == OVER
    assert environment.get_reward() is None
    environment.reset(index=0)
    assert environment.get_reward() == 0.0


def test_names_that_trl_needs_are_refused() -> None:
    class Reset(Calculator):
        name = "reset"

    class Clashing(Dice):
        tools = (Reset(),)

    register("tests/Clashing-v0", variants={"train": {}})(Clashing)
    with pytest.raises(UsageError, match="the tool 'reset'"):
        environment_factory("tests/Clashing-v0")


def test_the_dataset_names_different_tasks() -> None:
    rows = dataset(DICE, "test", 20)
    env = make(DICE, "test")
    assert len({env.task_at(index).key for index in rows["index"]}) == 20
    assert rows[0]["prompt"][-1] == {"role": "user", "content": ""}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    """One token per character, with Qwen3's chat template, which TRL knows how to parse."""
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens(  # type: ignore[no-untyped-call]
        {
            "eos_token": "<|im_end|>",
            "additional_special_tokens": [AddedToken("<|im_start|>", special=True, normalized=False)],
        }
    )
    tokenizer.chat_template = qwen3_chat_template
    return tokenizer


@pytest.fixture
def trainer(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Callable[[int], GRPOTrainer]:
    """Makes a trainer of a tiny random model: two problems, four episodes of each of so many tokens, one step."""

    def made(length: int) -> GRPOTrainer:
        set_seed(0)
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
        arguments = GRPOConfig(
            output_dir=str(tmp_path / "run"),
            max_steps=1,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=length,
            learning_rate=1e-2,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        return GRPOTrainer(
            model=Qwen3ForCausalLM(config),
            args=arguments,
            train_dataset=dataset(DICE, "train", 2),
            processing_class=tokenizer,
            environment_factory=environment_factory(DICE, "train"),
        )

    return made


def script(tokenizer: PreTrainedTokenizerBase) -> Callable[..., Any]:
    """A model for TRL's loop: every other episode calculates and submits the right answer, the rest a wrong one."""
    env = make(DICE, "train")
    answers = {env.task_at(index).prompt: env.task_at(index).answer for index in env.distinct_indices(2)}

    def call(name: str, argument: str, value: str) -> str:
        return f'<tool_call>\n{{"name": "{name}", "arguments": {{"{argument}": "{value}"}}}}\n</tool_call>'

    def turn(text: str, row: int) -> str:
        results = re.findall(r"<tool_response>\n(.*?)\n</tool_response>", text, re.DOTALL)
        if not results:
            return call("submit", "answer", "7") if row % 2 else call("calculator", "expression", "1/6 + 1/4")
        if results[-1] == "5/12":
            prompt = next(p for p in answers if p in text)
            return call("submit", "answer", answers[prompt])
        assert results[-1] == OVER
        return "Done."

    def generate(self: GRPOTrainer, prompt_ids: list[list[int]], *rest: Any, **more: Any) -> Any:
        texts = [tokenizer.decode(ids) for ids in prompt_ids]
        turns = [turn(text, row) + "<|im_end|>" for row, text in enumerate(texts)]
        return [tokenizer.encode(text, add_special_tokens=False) for text in turns], None

    return generate


def test_trls_own_loop_trains_on_our_outcomes(
    trainer: Callable[[int], GRPOTrainer], tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", script(tokenizer))
    it = trainer(400)
    before = {name: value.clone() for name, value in it.model.named_parameters()}
    it.train()
    log = it.state.log_history[0]
    assert log["rewards/Dice/mean"] == 0.5
    assert log["tools/call_frequency"] == 1.5, "half call the calculator and submit, half submit only"
    assert log["tools/failure_frequency"] == 0.0
    assert log["frac_reward_zero_std"] == 0.0
    tasks = [environment._env.task_id for environment in it.environments]
    assert tasks[:4] == tasks[:1] * 4, "the members of a group share their task"
    assert tasks[4:] == tasks[4:5] * 4
    assert tasks[0] != tasks[4]
    assert any(not torch.equal(value, before[name]) for name, value in it.model.named_parameters())


def test_a_random_models_own_turns_go_through_the_loop(trainer: Callable[[int], GRPOTrainer]) -> None:
    it = trainer(16)
    it.train()
    assert it.state.log_history[0]["rewards/Dice/mean"] == 0.0
    assert it.state.global_step == 1


def test_a_row_without_an_index_is_refused_and_any_argument_is_a_turn() -> None:
    environment: Any = environment_factory(DICE, "test")()
    with pytest.raises(UsageError, match="a row has no index"):
        environment.reset(index=None)
    environment.reset(index=0)
    assert "has no argument 'self'" in environment.calculator(**{"self": 1, "expression": "1"})
