import random

from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.envs.core import split_cell
from palestra.envs.episode import generator
from palestra.envs.splits import Cell, hash64


def test_disjointness_does_not_rest_on_the_generators() -> None:
    variants = {"train": {}, "train-x": {}, "test": {}, "a": {}, "b": {}}
    cells = [split_cell(variants, v) for v in ("train", "test", "a", "b")]
    assert cells[0] == split_cell(variants, "train-x") == (0.0, 0.5)
    assert [low for low, _ in cells[1:]] == [high for _, high in cells[:-1]]
    assert cells[-1][1] == 1.0


def test_what_nothing_is_held_out_from_is_not_split() -> None:
    assert split_cell({"train": {}, "train-x": {}}, "train-x") == (0.0, 1.0)
    assert [split_cell({"a": {}, "b": {}}, name) for name in "ab"] == [(0.0, 0.5), (0.5, 1.0)]


@settings(deadline=None)
@given(st.sets(st.sampled_from(["train", "train-x", "test", "a", "b", "c"]), min_size=1), st.text())
def test_a_key_belongs_to_all_that_train_or_to_one_that_is_held_out(names: set[str], key: str) -> None:
    variants = sorted(names)
    owners = {name for name in variants if Cell.of(variants, name).holds("acme/Env-v0", key)}
    training = {name for name in variants if name.startswith("train")}
    assert owners == training or (len(owners) == 1 and not owners & training)
    fraction = hash64(f"acme/Env-v0|{key}") / 2**64
    cells = {name: split_cell(variants, name) for name in variants}
    assert owners == {name for name, (low, high) in cells.items() if low <= fraction < high}


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_a_generator_is_that_of_its_seed(seed: int) -> None:
    rng, same = generator(seed), random.Random(seed)
    assert rng.getstate() == same.getstate()
    assert [rng.gauss(), rng.randint(1, 10)] == [same.gauss(), same.randint(1, 10)]
