"""Micro-batches dealt anew: nothing is lost, nothing but padding is cut, and nothing else is learned."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import GRPOTrainer

from palestra.envs import Reward
from palestra.envs.tasks.string_compose import StringCompose
from palestra.rl.microbatches import deal
from palestra.rl.prefix_tree import Packing, PassCost, PrefixTrees
from palestra.rl.rundir import RunFolder
from palestra.rl.settings import TrainSettings
from palestra.rl.train import train

LENGTHS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 9)), min_size=1, max_size=6)


def padded(lengths: list[tuple[int, int]], first: int) -> dict[str, Any]:
    """Rows whose tokens name the row, padded to 6 and 9 columns with zeros."""
    prompt, tokens = torch.zeros(len(lengths), 6), torch.zeros(len(lengths), 9)
    for row, (before, after) in enumerate(lengths):
        prompt[row, 6 - before :] = first + row
        tokens[row, :after] = first + row
    return {
        "prompt_ids": prompt,
        "prompt_mask": (prompt > 0).int(),
        "completion_ids": tokens,
        "completion_mask": (tokens > 0).int(),
        "advantages": 10 * tokens,
        "per_row": torch.arange(first, first + len(lengths)),
        "num_items_in_batch": torch.tensor(7),
    }


def step(organism: Path, out: Path, **more: Any) -> dict[str, Any]:
    """Train a step, on groups of four if nothing else is said; returns what it logged."""
    options: dict[str, Any] = {"prompts": 4, "group_size": 4, **more}
    settings = TrainSettings(
        model=str(organism), env="palestra/StringCompose-v0", variant="train-atoms", out=out, steps=1, max_tokens=16,
        track="none", **options,
    )  # fmt: skip
    with RunFolder(out, "train", settings) as folder:
        train(settings, folder)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    log: dict[str, Any] = next(row for row in manifest["history"] if "loss" in row)
    return log


def row_of(batch: dict[str, Any], i: int) -> tuple[int, ...]:
    """A row's own number, and its tokens without padding, of every column."""
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
    return (int(batch["per_row"][i]), *(int(x) for name in names for x in batch[name][i] if x))


@given(LENGTHS, st.integers(1, 4), st.sampled_from([None, PassCost(1.0), PassCost(1e4)]))
@settings(deadline=None)
def test_rows_are_the_same_and_only_padding_is_cut(
    lengths: list[tuple[int, int]], count: int, cost: PassCost | None
) -> None:
    before = [padded(lengths, 1 + i * len(lengths)) for i in range(count)]
    after = deal(before, cost)
    assert [len(batch["per_row"]) for batch in after] == [len(lengths)] * count
    rows = [[row_of(batch, i) for batch in batches for i in range(len(lengths))] for batches in (before, after)]
    assert sorted(rows[0]) == sorted(rows[1])
    for batch in after:
        assert batch["num_items_in_batch"] == 7
        assert batch["prompt_ids"].shape[1] == batch["prompt_mask"].sum(1).max()
        assert batch["completion_ids"].shape == batch["advantages"].shape
        assert batch["completion_ids"].shape[1] == max(1, batch["completion_mask"].sum(1).max())
    longest = [int((batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)).max()) for batch in after]
    assert cost is not None or longest == sorted(longest, reverse=True)


def test_short_rows_are_not_padded_to_the_longest_of_the_step() -> None:
    batches = deal([padded([(2, 9), (2, 1)], 1), padded([(2, 1), (2, 9)], 3)])
    assert [batch["completion_ids"].shape for batch in batches] == [(2, 9), (2, 1)]


@pytest.mark.parametrize(("alike", "expected"), [(True, [[0, 2], [1, 3]]), (False, [[1, 2], [0, 3]])])
def test_rows_that_begin_alike_are_dealt_together_where_much_is_shared(alike: bool, expected: list[list[int]]) -> None:
    """Two groups whose members differ in length: (0, 2) and (1, 3)."""
    lengths = (2, 9, 8, 3)
    rows = [[1 + row % 2 if alike else 1 + row] * 6 + [5] * length for row, length in enumerate(lengths)]
    batches = [
        {
            "prompt_ids": torch.tensor([rows[row][:6] for row in part]),
            "prompt_mask": torch.ones(2, 6, dtype=torch.int),
            "completion_ids": torch.tensor([rows[row][6:] + [0] * (9 - lengths[row]) for row in part]),
            "completion_mask": torch.tensor([[1] * lengths[row] + [0] * (9 - lengths[row]) for row in part]),
            "row": torch.tensor(part),
        }
        for part in ([0, 1], [2, 3])
    ]
    assert [sorted(batch["row"].tolist()) for batch in deal(batches, PassCost(100.0))] == expected


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=30), min_size=1, max_size=24),
    st.integers(1, 4),
    st.sampled_from([PassCost(1.0), PassCost(30.0), PassCost(1e4)]),
)
@settings(deadline=None)
def test_merged_micro_batches_have_all_rows_and_are_no_larger_than_one_may_be(
    rows: list[list[int]], size: int, cost: PassCost
) -> None:
    rows = rows[: len(rows) // size * size] or [rows[0]] * size
    batches = [
        {
            "prompt_ids": torch.tensor([row[:1] for row in part]),
            "prompt_mask": torch.ones(size, 1, dtype=torch.int),
            "completion_ids": torch.tensor([row[1:] + [0] * (30 - len(row)) for row in part]),
            "completion_mask": torch.tensor([[1] * (len(row) - 1) + [0] * (30 - len(row)) for row in part]),
            "row": torch.arange(start, start + size),
        }
        for start in range(0, len(rows), size)
        if (part := rows[start : start + size])
    ]
    dealt = deal(batches, cost, merge=True)
    there = [batch for batch in dealt if batch]
    assert len(dealt) == len(batches)
    assert dealt[: len(there)] == there, "what is empty comes last"
    assert sorted(row for batch in there for row in batch["row"].tolist()) == list(range(len(rows)))
    longest = max(map(len, rows))
    for batch in there:
        assert len(batch["row"]) % size == 0
        chosen = [rows[row] for row in batch["row"].tolist()]
        sizes = Packing.best(chosen, cost).sizes
        assert min(len(chosen) * max(map(len, chosen)), len(sizes) * max(sizes) or 10**9) <= size * longest
    apart = deal(batches, cost)
    assert len(apart) == len(batches) >= len(there)


def test_micro_batches_are_merged_where_much_is_shared() -> None:
    """Four micro-batches of a group each, whose members part late: 13 nodes, and a pass may have 4 x 8."""
    batches = [
        {
            "prompt_ids": torch.tensor([[9, group, 8]] * 4),
            "prompt_mask": torch.ones(4, 3, dtype=torch.int),
            "completion_ids": torch.tensor([[5, 6, 7, member, 3] for member in range(4)]),
            "completion_mask": torch.ones(4, 5, dtype=torch.int),
        }
        for group in range(4)
    ]
    assert [len(batch) and len(batch["prompt_ids"]) for batch in deal(batches, PassCost(100.0), merge=True)] == [
        8, 8, 0, 0,
    ]  # fmt: skip
    assert [len(batch["prompt_ids"]) for batch in deal(batches, PassCost(100.0))] == [4] * 4


@pytest.mark.parametrize("algo", ["grpo", "dapo"])
@pytest.mark.parametrize("way", ["merged", "trees", "rows"])
def test_small_micro_batches_have_the_gradient_of_a_large_one(
    algo: str, way: str, monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path
) -> None:
    trees = way != "rows"
    if way == "trees":
        monkeypatch.setattr("palestra.rl.trl_trainer._EPISODE_MEANS", set())
        monkeypatch.setattr("palestra.rl.trl_trainer._TOKEN_SUMS", set())
    monkeypatch.setattr(StringCompose, "grade", lambda self, task, answer: Reward(float(answer > "d")))
    logs = []
    inputs, read = PrefixTrees.inputs, []
    monkeypatch.setattr(PrefixTrees, "inputs", lambda self: read.append(len(self.place)) or inputs(self))
    for micro in (4, 16):
        if not trees or micro == 16:  # what small trees teach is what one pass over rows teaches
            monkeypatch.setattr("palestra.rl.trl_trainer.reads_trees", lambda model: False)
        logs.append(step(organism, tmp_path / str(micro), algo=algo, micro_batch=micro, beta=0.01))
    assert read[:4] == [4] * 4 * trees, "four passes of the reference"
    assert sum(read[4:]) == 16 * trees
    assert len(read[4:]) == 4 if way == "trees" else len(read[4:]) < 4
    assert logs[0]["completions/min_length"] < logs[0]["completions/max_length"], "all are as long: nothing is cut"
    assert logs[0]["grad_norm"] > 0.01
    assert logs[0]["grad_norm"] == pytest.approx(logs[1]["grad_norm"], rel=1e-4)
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], abs=1e-5)
    assert logs[0]["entropy"] == pytest.approx(logs[1]["entropy"], rel=1e-4), "a mean over the tokens of the step"
    assert logs[0]["kl"] == pytest.approx(logs[1]["kl"], abs=1e-6)


def test_the_extremes_of_clipping_are_those_of_the_step(
    monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path
) -> None:
    """Each pass is given a share of its own, the first one none that is a number."""
    monkeypatch.setattr("palestra.rl.trl_trainer.reads_trees", lambda model: False)
    loss = GRPOTrainer._compute_loss
    shares = iter([math.nan, 0.25, 0.75, 0.5])

    def noted(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        found, share = loss(self, model, inputs), next(shares)
        self._metrics["train"]["clip_ratio/low_min"][-1] = share
        self._metrics["train"]["clip_ratio/high_max"][-1] = share
        return found

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", noted)
    log = step(organism, tmp_path, micro_batch=4)
    assert (log["clip_ratio/low_min"], log["clip_ratio/high_max"]) == (0.25, 0.75)


def test_a_batch_that_does_not_divide_has_smaller_micro_batches(
    monkeypatch: pytest.MonkeyPatch, organism: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("palestra.rl.trl_trainer.reads_trees", lambda model: False)  # those may be merged
    passes: list[int] = []
    loss = GRPOTrainer._compute_loss

    def noted(self: Any, model: Any, inputs: dict[str, Any]) -> Any:
        passes.append(len(inputs["completion_ids"]))
        return loss(self, model, inputs)

    monkeypatch.setattr(GRPOTrainer, "_compute_loss", noted)
    step(organism, tmp_path, prompts=3, group_size=5, micro_batch=8)
    assert passes == [5, 5, 5]
