"""Building an organism: a Qwen3-shaped transformer from scratch, on the mixture its recipe states."""

import os
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments, set_seed

from palestra.agents.codec import ChatCodec
from palestra.agents.models import tune_threads
from palestra.envs.errors import UsageError
from palestra.envs.folders import write_json
from palestra.envs.registry import make
from palestra.rl.data import PadRows, shuffled, solved, training_row
from palestra.rl.organisms.recipe import FORMAT, OrganismRecipe
from palestra.rl.organisms.tokenizer import character_tokenizer
from palestra.rl.progress import ProgressCallback
from palestra.rl.rundir import versions

MANIFEST = "organism.json"


def build(recipe: OrganismRecipe, seed: int, out: Path) -> None:
    """Train the organism and save it, with its tokenizer and a manifest, as an ordinary checkpoint in `out`.

    The folder appears whole: it is written beside its place and moved there at the end.
    """
    out = out.resolve()
    tokenizer = character_tokenizer()
    codec = ChatCodec(tokenizer)
    set_seed(seed)
    model = Qwen3ForCausalLM(_config(recipe, len(tokenizer), tokenizer))
    tune_threads(model)
    t = recipe.training
    dataset = MixtureDataset(recipe, codec, seed)
    dataset.check_context()
    arguments = TrainingArguments(
        output_dir=f"{out}.trainer-{os.getpid()}",
        max_steps=t.steps,
        per_device_train_batch_size=1,  # one micro-batch of the mixture
        gradient_accumulation_steps=dataset.micro_batches,
        train_sampling_strategy="sequential",
        learning_rate=t.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, t.steps // 20),
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=max(1, t.steps // 50),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=seed,
        remove_unused_columns=False,
        dataloader_num_workers=1,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=partial(_flatten, PadRows(codec.pad_id)),
        callbacks=[ProgressCallback(f"organism {recipe.name}", {"loss": "loss"})],
    )
    trainer.remove_callback(PrinterCallback)
    result = trainer.train()
    part = Path(f"{out}.part-{os.getpid()}")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    manifest = {
        "format": FORMAT,
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "episodes": t.steps * t.batch_size,
        "final_loss": result.training_loss,
        "seconds": result.metrics["train_runtime"],
        "versions": versions(),
    }
    write_json(part / MANIFEST, manifest)
    try:
        part.rename(out)
    except OSError:
        shutil.rmtree(part)
        if not (out / MANIFEST).is_file():  # else another process built the same organism meanwhile
            raise
    shutil.rmtree(str(arguments.output_dir), ignore_errors=True)


class MixtureDataset(Dataset[list[dict[str, list[int]]]]):
    """The recipe's episodes in micro-batches: those of one step are sorted by length and cut in four.

    Short episodes are so not padded to the longest (40% fewer tokens for string-atoms); the trainer adds the
    micro-batches of a step up again. Episode i is a pure function of the seed and i.
    """

    def __init__(self, recipe: OrganismRecipe, codec: ChatCodec, seed: int) -> None:
        self.recipe = recipe
        self.codec = codec
        self.seed = seed
        self.envs = [make(part.env, part.variant) for part in recipe.mixture]
        self.weights = [part.weight for part in recipe.mixture]
        self.micro_batches = min(4, recipe.training.batch_size)
        self._step = -1
        self._rows: list[dict[str, list[int]]] = []

    def __len__(self) -> int:
        return self.recipe.training.steps * self.micro_batches

    def __getitem__(self, i: int) -> list[dict[str, list[int]]]:
        step, part = divmod(i, self.micro_batches)
        size = self.recipe.training.batch_size
        if step != self._step:
            cut = slice(self.recipe.model.context)
            rows = [self._episode(k) for k in range(step * size, (step + 1) * size)]
            rows = [{key: values[cut] for key, values in row.items()} for row in rows]
            self._step, self._rows = step, sorted(rows, key=lambda row: len(row["input_ids"]))
        return self._rows[part * size // self.micro_batches : (part + 1) * size // self.micro_batches]

    def check_context(self) -> None:
        """Refuse a context that cuts any of the first 500 episodes.

        Raises:
            UsageError: The recipe's context is too short; the message says what would do.
        """
        longest = max(len(self._episode(i)["input_ids"]) for i in range(500))
        if longest > self.recipe.model.context:
            raise UsageError(
                f"episodes of organism '{self.recipe.name}' have up to {longest} tokens and its context is "
                f"{self.recipe.model.context}; raise model.context"
            )

    def _episode(self, i: int) -> dict[str, list[int]]:
        rng = random.Random(f"mixture|{self.seed}|{i}")
        part = rng.choices(range(len(self.envs)), self.weights)[0]
        env, index = self.envs[part], rng.getrandbits(48)
        if self.recipe.mixture[part].turns == "solve":
            episode = solved(env, self.codec, index)
        else:
            episode = shuffled(env, self.codec, index, rng.getrandbits(48))
        return training_row(episode)


def _flatten(pad: PadRows, batch: list[list[dict[str, list[int]]]]) -> dict[str, torch.Tensor]:
    return pad([row for rows in batch for row in rows])


def _config(recipe: OrganismRecipe, vocabulary: int, tokenizer: Any) -> Qwen3Config:
    shape = recipe.model
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        intermediate_size=3 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.width // shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype=torch.float32,
    )
