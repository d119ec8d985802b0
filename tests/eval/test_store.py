import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from toyruns import record, trajectory_of

from palestra.envs.errors import PalestraError, UsageError
from palestra.eval.columns import read_columns
from palestra.eval.store import (
    RunStore,
    SampleRecord,
    read_manifest,
    read_rows,
    read_samples,
    read_trajectory,
)

MANIFEST = {"env": "palestra/Toy-v0", "sampling": {"temperature": 1.0}, "n": 4}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two problems of two samples, still running."""
    path = tmp_path / "run"
    with RunStore.create(path, MANIFEST) as store:
        for problem in (0, 1):
            for sample in (0, 1):
                line = record(problem=problem, sample=sample, outcome=float(sample))
                store.append(line, trajectory_of(line))
    return path


def lines_of(path: Path) -> list[bytes]:
    return (path / "samples.jsonl").read_bytes().splitlines(keepends=True)


def assert_every_sample_points_to_its_trajectory(path: Path) -> None:
    for sample in read_samples(path):
        trajectory = read_trajectory(path, sample.part, sample.offset)
        assert trajectory["task"] == f"problem {sample.problem} of {sample.variant}"
        assert trajectory["messages"][1]["content"].startswith(f"sample {sample.sample}")


def test_what_is_appended_is_read_back(run: Path) -> None:
    samples = read_samples(run)
    assert [s.id for s in samples] == [("test", 0, 0), ("test", 0, 1), ("test", 1, 0), ("test", 1, 1)]
    assert asdict(samples[1]) == {
        **asdict(record(sample=1, outcome=1.0)),
        "part": 0,
        "offset": samples[1].offset,
    }
    assert_every_sample_points_to_its_trajectory(run)


def test_manifest_says_running_until_the_run_is_finished(run: Path) -> None:
    assert read_manifest(run) == {"v": 1, "status": "running", **MANIFEST}
    with RunStore.open(run) as store:
        store.finish()
    assert read_manifest(run)["status"] == "done"


def test_finished_run_can_be_extended(run: Path) -> None:
    RunStore.open(run).finish()
    with RunStore.open(run) as store:
        store.update_manifest(n=8)
        store.append(record(problem=2), trajectory_of(record(problem=2)))
    assert read_manifest(run) == {"v": 1, "status": "running", **MANIFEST, "n": 8}


def test_resume_knows_what_is_done(run: Path) -> None:
    with RunStore.open(run) as store:
        assert store.done() == {("test", p, s) for p in (0, 1) for s in (0, 1)}
        with pytest.raises(PalestraError, match=r"already holds sample 1 of problem 0 \(test\)"):
            store.append(record(sample=1), trajectory_of(record(sample=1)))


def test_sample_is_readable_as_soon_as_append_returns(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run", MANIFEST) as store:
        store.append(record(), trajectory_of(record()))
        assert [s.id for s in store.samples()] == [("test", 0, 0)]
        assert_every_sample_points_to_its_trajectory(store.path)


def test_torn_last_lines_are_cut_on_resume(run: Path) -> None:
    for name in ("samples.jsonl", "trajectories/part-00000.jsonl"):
        with (run / name).open("ab") as file:
            file.write(b'{"v": 1, "variant": "te')
    assert len(read_samples(run)) == 4, "reading skips a line without an end"
    with RunStore.open(run) as store:
        line = record(problem=2)
        store.append(line, trajectory_of(line))
    assert len(read_samples(run)) == 5
    assert_every_sample_points_to_its_trajectory(run)


@pytest.mark.parametrize("cut", [1, 7, 100_000])
def test_a_run_cut_anywhere_resumes_with_the_whole_lines(run: Path, cut: int) -> None:
    file = run / "samples.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[: max(0, len(content) - cut)])
    with RunStore.open(run) as store:
        assert len(store.done()) == (0 if cut > len(content) else 3)
    assert file.read_bytes() == (b"" if cut > len(content) else b"".join(content.splitlines(True)[:3]))


def test_torn_line_longer_than_a_read_block_is_cut(run: Path) -> None:
    part = run / "trajectories/part-00000.jsonl"
    whole = part.read_bytes()
    with part.open("ab") as file:
        file.write(b"x" * (2**20 + 2**19))
    RunStore.open(run).close()
    assert part.read_bytes() == whole


def test_samples_whose_trajectories_a_power_cut_lost_are_drawn_again(run: Path) -> None:
    last = read_samples(run)[-1]
    with (run / "trajectories/part-00000.jsonl").open("r+b") as file:
        file.truncate(last.offset + 5)
    with RunStore.open(run) as store:
        assert store.done() == {("test", 0, 0), ("test", 0, 1), ("test", 1, 0)}
    assert_every_sample_points_to_its_trajectory(run)


def test_a_lost_trajectory_file_is_not_taken_for_a_power_cut(run: Path) -> None:
    (run / "trajectories/part-00000.jsonl").unlink()
    with pytest.raises(PalestraError, match="has lost files of trajectories/"):
        RunStore.open(run)
    assert len(read_samples(run)) == 4


def test_trajectories_roll_over_to_new_parts(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunStore.create(path, MANIFEST, part_bytes=400) as store:
        for sample in range(6):
            store.append(record(sample=sample), trajectory_of(record(sample=sample)))
    with RunStore.open(path, part_bytes=400) as store:
        store.append(record(sample=6), trajectory_of(record(sample=6)))
    parts = [sample.part for sample in read_samples(path)]
    assert parts == sorted(parts)
    assert parts[-1] >= 2
    assert_every_sample_points_to_its_trajectory(path)


def test_errored_sample_is_drawn_again_and_counts_once(run: Path) -> None:
    broken = record(problem=2, error="the sandbox died")
    with RunStore.open(run) as store:
        store.append(broken, trajectory_of(broken))
        assert broken.id not in store.done()
    with RunStore.open(run) as store:
        assert broken.id not in store.done()
        again = record(problem=2, outcome=1.0)
        store.append(again, trajectory_of(again))
        assert broken.id in store.done()
    (found,) = [s for s in read_samples(run) if s.problem == 2]
    assert (found.outcome, found.error) == (1.0, None)


def test_repeated_sample_is_reported_with_its_line(run: Path) -> None:
    lines = lines_of(run)
    (run / "samples.jsonl").write_bytes(b"".join([*lines, lines[1]]))
    with pytest.raises(PalestraError, match=r"line 5 repeats sample 1 of problem 0 \(test\)"):
        read_samples(run)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json\n", "line 5 is not valid JSON"),
        (b"[1]\n", "line 5 is not a JSON object"),
        (b'{"v": 2}\n', "line 5 has schema 2, and this version reads 1"),
        (b'{"v": 1, "variant": "test"}\n', "line 5 lacks or adds fields"),
        (b"{},{}\n", "line 5 is not valid JSON"),
        (b"[" * 200_000 + b"\n", "line 5 is not valid JSON"),
    ],
)
def test_damaged_line_is_reported_with_its_number(run: Path, line: bytes, message: str) -> None:
    with (run / "samples.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(PalestraError, match=message):
        read_rows(run)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("problem", 1.5, "line 5 has the problem 1.5, which is no int"),
        ("problem", True, "line 5 has the problem True, which is no int"),
        ("problem", 10**30, "line 5 numbers its problem or sample out of range"),
        ("sample", "1", "line 5 has the sample '1', which is no int"),
        ("sample", -1, "line 5 numbers its problem or sample out of range"),
        ("variant", None, "line 5 has the variant None, which is no str"),
        ("key", ["k"], r"line 5 has the key \['k'\], which is no str"),
        ("error", False, "line 5 has the error False, which is no text"),
    ],
)
def test_a_field_of_another_type_is_never_rounded_to_one(run: Path, field: str, value: object, message: str) -> None:
    line = json.loads(lines_of(run)[-1]) | {"sample": 9, field: value}
    del line["crc"]
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(PalestraError, match=message):
        read_columns(run)


@pytest.mark.parametrize("text", [b"null", b"[1]", b'{"messages":[1]}', b'{"messages":7}', b"{}", b"[" * 60])
def test_what_is_no_trajectory_is_named(run: Path, text: bytes) -> None:
    part = run / "trajectories" / "part-00000.jsonl"
    first, *rest = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([text.ljust(len(first) - 1) + b"\n", *rest]))
    with pytest.raises(PalestraError, match="has no trajectory at byte 0; restore the file"):
        read_trajectory(run, 0, 0)


def test_a_manifest_without_its_status_is_named(run: Path) -> None:
    (run / "manifest.json").write_text(json.dumps({"v": 1, "env": "x"}))
    with pytest.raises(UsageError, match="does not say whether the run is done"):
        read_manifest(run)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"variants": ["test"]}, "variants"),
        ({"variants": {"test": 3}}, "variants.test"),
        ({"variants": {"test": {"problems": 3}}}, "variants.test.samples"),
        ({"variants": {"test": {"problems": "3", "samples": 1}}}, "variants.test.problems"),
        ({"samples": -1}, "samples"),
    ],
)
def test_a_manifest_that_asks_for_nonsense_is_named(run: Path, wrong: dict[str, Any], where: str) -> None:
    manifest = {**read_manifest(run), **wrong}
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=f"states a wrong '{where}'; restore it from a copy"):
        read_manifest(run)


@pytest.mark.parametrize(
    "flip", [(b'"outcome":1.0', b'"outcome":0.0'), (b'"crc":"', b'"crd":"'), (b'"sample":1', b'"sample":7')]
)
def test_a_line_that_reads_well_and_is_not_what_was_written_is_named(run: Path, flip: tuple[bytes, bytes]) -> None:
    lines = lines_of(run)
    assert flip[0] in lines[1]
    lines[1] = lines[1].replace(*flip)
    (run / "samples.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(PalestraError, match="line 2 (is not what was written|lacks or adds fields)"):
        read_rows(run)
    with pytest.raises(PalestraError, match="line 2"):
        RunStore.open(run)


def test_a_damaged_line_that_was_deleted_is_drawn_again(run: Path) -> None:
    lines = lines_of(run)
    (run / "samples.jsonl").write_bytes(b"".join([*lines[:1], *lines[2:]]))
    with RunStore.open(run) as store:
        assert store.done() == {("test", 0, 0), ("test", 1, 0), ("test", 1, 1)}
        store.append(record(sample=1), trajectory_of(record(sample=1)))
    assert len(read_samples(run)) == 4
    assert_every_sample_points_to_its_trajectory(run)


def test_partial_credit_is_no_outcome(run: Path) -> None:
    with pytest.raises(ValueError, match="outcome must be 0.0 or 1.0, not 0.5"):
        record(outcome=0.5)
    row = json.loads(lines_of(run)[0])
    del row["crc"]
    with (run / "samples.jsonl").open("ab") as file:
        file.write(json.dumps({**row, "problem": 9, "outcome": 0.5}).encode() + b"\n")
    with pytest.raises(PalestraError, match="line 5 has the outcome 0.5"):
        read_rows(run)


def test_a_number_that_is_not_finite_is_refused_before_anything_is_written(run: Path) -> None:
    before = [path.read_bytes() for path in sorted(run.rglob("*.jsonl"))]
    with RunStore.open(run) as store, pytest.raises(ValueError, match="JSON compliant"):
        store.append(record(problem=3, wall_s=float("nan")), trajectory_of(record(problem=3)))
    assert [path.read_bytes() for path in sorted(run.rglob("*.jsonl"))] == before


@pytest.mark.parametrize("text", ["\u2028 and \x00", "lone \ud800 surrogate", 'quotes " and \\ and \n', "日本"])
def test_any_text_of_a_model_survives(tmp_path: Path, text: str) -> None:
    with RunStore.create(tmp_path / "run", MANIFEST) as store:
        line = store.append(record(), {"task": text, "messages": []})
    assert read_trajectory(tmp_path / "run", line.part, line.offset)["task"] == text


def test_two_writers_are_refused(run: Path) -> None:
    with RunStore.open(run), pytest.raises(PalestraError, match="another process is writing"):
        RunStore.open(run)
    RunStore.open(run).close()


def test_failed_open_lets_the_next_writer_in(run: Path) -> None:
    with (run / "samples.jsonl").open("ab") as file:
        file.write(b"not json\n")
    for _ in range(2):
        with pytest.raises(PalestraError, match="not valid JSON"):
            RunStore.open(run)


def test_closed_store_takes_nothing_more(run: Path) -> None:
    store = RunStore.open(run)
    store.close()
    with pytest.raises(PalestraError, match="closed"):
        store.append(record(problem=5), {})


def test_existing_run_is_not_overwritten(run: Path) -> None:
    with pytest.raises(UsageError, match="already holds a run; resume it"):
        RunStore.create(run, MANIFEST)
    assert len(read_samples(run)) == 4


def test_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a run: it has no readable manifest.json"):
        RunStore.open(tmp_path)
    with pytest.raises(UsageError, match="is not a run: there is no such folder"):
        RunStore.open(tmp_path / "none")


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match="cannot write a run to .*; choose a folder"):
            RunStore.create(path, MANIFEST)


def test_full_disk_is_reported_and_the_run_stays_whole(run: Path) -> None:
    next_part = run / "trajectories/part-00001.jsonl"
    store = RunStore.open(run, part_bytes=1)
    next_part.symlink_to("/dev/full")
    with pytest.raises(PalestraError, match="No space left on device"):
        store.append(record(problem=3), trajectory_of(record(problem=3)))
    next_part.unlink()
    with RunStore.open(run) as again:
        assert len(again.done()) == 4


def test_other_configuration_is_refused_by_name(run: Path) -> None:
    with RunStore.open(run, expect=MANIFEST):
        pass
    changed: dict[str, Any] = {**MANIFEST, "sampling": {"temperature": 0.7}}
    with pytest.raises(UsageError, match=r"sampling.temperature is 1.0 there and 0.7 now"):
        RunStore.open(run, expect=changed)


def test_unknown_schema_is_refused(run: Path) -> None:
    (run / "manifest.json").write_text('{"v": 7}', encoding="utf-8")
    with pytest.raises(UsageError, match="has schema 7, and this version reads 1"):
        RunStore.open(run)


def test_reserved_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='must not hold "v" or "status"'):
        RunStore.create(tmp_path / "run", {"status": "done"})
    assert not (tmp_path / "run").exists()


WRITER = """
import sys
from palestra.eval.store import RunStore, SampleRecord

path, total, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with RunStore.open(path, part_bytes=4 * size) as store:
    done = store.done()
    print("open", len(done), flush=True)
    for sample in range(total):
        if ("test", 0, sample) in done:
            continue
        record = SampleRecord(
            "palestra/Toy-v0", "test", 0, "test-0", sample, 17, 0.0, {}, 1, 1, 1, 0.0, "answer"
        )
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": f"sample {sample}"}]
        store.append(record, {"task": "problem 0 of test", "messages": messages, "padding": "x" * size})
        print(sample, flush=True)
    store.finish()
"""


def writer(path: Path, total: int, size: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(total), str(size)], stdout=subprocess.PIPE, text=True
    )


def test_kill_nine_loses_nothing_finished_and_repeats_nothing(tmp_path: Path) -> None:
    path, total, size = tmp_path / "run", 120, 400_000
    RunStore.create(path, MANIFEST).close()
    acknowledged: set[int] = set()
    for kill in range(3):
        stored = len(read_samples(path))
        with writer(path, total, size) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == f"open {stored}\n"
            for _ in range(10 + 7 * kill):
                acknowledged.add(int(process.stdout.readline()))
            time.sleep(0.003 * kill)
            process.send_signal(signal.SIGKILL)
            acknowledged |= {int(line) for line in process.stdout.read().split()}
        assert acknowledged <= {sample.sample for sample in read_samples(path)}
        assert_every_sample_points_to_its_trajectory(path)
    with writer(path, total, size) as process:
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert [sample.sample for sample in read_samples(path)] == list(range(total))
    assert len(lines_of(path)) == total
    assert read_manifest(path)["status"] == "done"
    assert_every_sample_points_to_its_trajectory(path)


def test_writer_in_another_process_is_refused_until_it_ends(run: Path) -> None:
    with writer(run, 10**6, 10) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(PalestraError, match="another process is writing"):
            RunStore.open(run)
        process.kill()
    RunStore.open(run).close()


def test_stored_line_of_schema_1_can_still_be_read(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text(
        '{"env":"palestra/Toy-v0","variant":"test","problem":3,"key":"k","sample":1,"seed":9,"outcome":1.0,'
        '"process":{"format":0.5},"turns":2,"tokens_in":4,"tokens_out":5,"wall_s":0.5,"stop":"answer",'
        '"error":null,"part":0,"offset":12,"v":1}\n',
        encoding="utf-8",
    )
    (sample,) = read_samples(tmp_path)
    assert sample == SampleRecord(
        "palestra/Toy-v0", "test", 3, "k", 1, 9, 1.0, {"format": 0.5}, 2, 4, 5, 0.5, "answer", None, 0, 12
    )
