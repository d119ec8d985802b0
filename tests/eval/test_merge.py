"""Shards of an evaluation, joined, are the run that one place would have drawn."""

from importlib.metadata import version
from pathlib import Path

import pytest

from palestra.envs.errors import PalestraError, UsageError
from palestra.eval.compare import compare_runs
from palestra.eval.merge import Merged, merge
from palestra.eval.run import evaluate
from palestra.eval.settings import EvalSettings
from palestra.eval.store import RunStore, SampleRecord, read_manifest, read_samples, read_trajectory

ENV = "palestra/GeneralPoints-v0"


def draw(out: Path, shard: str | None = None, **changes: object) -> Path:
    wanted = {"model": "random", "env": ENV, "problems": 5, "samples": 7, "out": out, "shard": shard, **changes}
    evaluate(EvalSettings.model_validate(wanted))
    return out


def content(run: Path) -> dict[tuple[str, int, int], tuple[object, ...]]:
    def of(s: SampleRecord) -> tuple[object, ...]:
        return s.seed, s.key, s.outcome, s.answer, str(read_trajectory(run, s.part, s.offset))

    samples = read_samples(run)
    assert len({s.id for s in samples}) == len(samples)
    return {s.id: of(s) for s in samples}


def test_merged_shards_are_the_undivided_run(tmp_path: Path) -> None:
    shards = [draw(tmp_path / str(part), f"{part}/3") for part in (2, 0, 1)]
    assert merge(shards, tmp_path / "all") == Merged(35, 0)
    whole = draw(tmp_path / "whole")
    assert content(tmp_path / "all") == content(whole)
    assert read_manifest(tmp_path / "all") == read_manifest(whole)
    assert compare_runs([tmp_path / "all", whole], resamples=100).n == 7


def test_a_merged_run_lacks_what_no_shard_drew_and_eval_draws_it(tmp_path: Path) -> None:
    assert merge([draw(tmp_path / "0", "0/2")], tmp_path / "all") == Merged(20, 15)
    assert read_manifest(tmp_path / "all")["status"] == "running"
    draw(tmp_path / "all")
    assert content(tmp_path / "all") == content(draw(tmp_path / "whole"))


def test_a_problem_that_no_shard_drew_is_missed(tmp_path: Path) -> None:
    shards = [draw(tmp_path / str(part), f"{part}/2") for part in (0, 1)]
    for shard in shards:
        lines = (shard / "samples.jsonl").read_bytes().splitlines(keepends=True)
        last = max(s.problem for s in read_samples(shard))
        kept = [line for line in lines if b'"problem":%d,' % last not in line]
        (shard / "samples.jsonl").write_bytes(b"".join(kept))
    assert merge(shards, tmp_path / "all") == Merged(28, 7)
    assert read_manifest(tmp_path / "all")["status"] == "running"
    draw(tmp_path / "all")
    assert content(tmp_path / "all") == content(draw(tmp_path / "whole"))


def test_versions_of_shards_are_kept(tmp_path: Path) -> None:
    shards = [draw(tmp_path / str(part), f"{part}/2") for part in (0, 1)]
    with RunStore.open(shards[1]) as store:
        store.update_manifest(palestra="9.9")
    merge(shards, tmp_path / "all")
    assert read_manifest(tmp_path / "all")["palestra"] == f"{version('palestra')} and 9.9"


def test_merging_again_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    first, second = draw(tmp_path / "0", "0/2"), draw(tmp_path / "1", "1/2")
    merge([first, second], tmp_path / "all")
    samples = tmp_path / "all" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-700])
    assert merge([first, second], tmp_path / "all") == Merged(35, 0)
    assert content(tmp_path / "all") == content(draw(tmp_path / "whole"))


def test_a_shard_is_not_merged_into(tmp_path: Path) -> None:
    first, second = draw(tmp_path / "0", "0/2"), draw(tmp_path / "1", "1/2")
    with pytest.raises(UsageError, match="is one of the shards"):
        merge([first, second], tmp_path / "1" / ".." / "0")
    assert read_manifest(first)["shard"] == "0/2"


def test_a_sample_that_two_shards_hold_counts_once(tmp_path: Path) -> None:
    first, whole = draw(tmp_path / "0", "0/2"), draw(tmp_path / "whole")
    assert merge([first, whole], tmp_path / "all") == Merged(35, 0)


def test_two_different_samples_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = draw(tmp_path / "0", "0/2"), draw(tmp_path / "1", "0/2")
    lines = (second / "samples.jsonl").read_text(encoding="ascii").splitlines()
    lines[0] = lines[0][: lines[0].index(',"crc"')].replace('"seed":', '"seed":1') + "}"
    (second / "samples.jsonl").write_text("\n".join(lines) + "\n", encoding="ascii")
    with pytest.raises(PalestraError, match=r"sample 0 of problem \d+ \(test\) of .* is another one"):
        merge([first, second], tmp_path / "all")


def test_shards_of_different_evaluations_are_refused(tmp_path: Path) -> None:
    first, second = draw(tmp_path / "0", "0/2"), draw(tmp_path / "1", "1/2", seed=4)
    with pytest.raises(UsageError, match="not of one evaluation: seed is 0 and 4"):
        merge([first, second], tmp_path / "all")


def test_a_shard_alone_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is shard 0/2 of a run; join its shards with `palestra merge` first"):
        compare_runs([draw(tmp_path / "0", "0/2")])


def test_a_shard_keeps_its_part(tmp_path: Path) -> None:
    draw(tmp_path / "0", "0/2")
    with pytest.raises(UsageError, match='shard is "0/2" there and "1/2" now'):
        draw(tmp_path / "0", "1/2")
    with pytest.raises(UsageError, match='shard is "0/2" there and null now'):
        draw(tmp_path / "0")


@pytest.mark.parametrize("shard", ["2/2", "x", "1", "1/0"])
def test_no_such_part(tmp_path: Path, shard: str) -> None:
    with pytest.raises(ValueError, match="a shard is I/N"):
        EvalSettings(model="random", env=ENV, out=tmp_path, shard=shard)
