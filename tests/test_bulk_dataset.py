from __future__ import annotations

import gc
import io
import os
import shutil
import signal
import sys
import tarfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import vlm.bulk.dataset
from vlm.bulk.dataset import Job, PartWriter, Settings, ahead, cut, finished_units, run
from vlm.bulk.shards import Format
from vlm.cli import app
from vlm.errors import how_to_install
from vlm.loading import load
from vlm.options import CAPTION

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray")


def photo(seed: int) -> bytes:
    """A few coloured patches, different for each seed, as a PNG."""
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((80, 60), Image.Resampling.NEAREST).save(buffer, "png")
    return buffer.getvalue()


def write_photos(folder: Path, number: int) -> Path:
    folder.mkdir()
    for i in range(number):
        (folder / f"{i:03d}.png").write_bytes(photo(i))
    return folder


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def read(out: Path) -> list[dict[str, object]]:
    """All rows, as any reader of parquet finds them."""
    rows = parquet.read_table(out).to_pylist()
    return sorted(rows, key=lambda row: (row["source"], str(row["key"])))


def settings(model: Path | str | None = None, **values: object) -> Settings:
    return Settings(
        **{
            "model": str(model),
            "openvino": False,
            "precision": "float32",
            "search": replace(CAPTION, beams=2),
            "column": None,
            "key": None,
            **values,
        }
    )


def job(out: Path, model: Path, format: Format = Format.folder) -> Job:
    return Job(str(out), format, settings(model), batch_size=4, cpus=1, device="cpu")


def parts_of(folder: Path, size: int) -> list[list[str]]:
    return list(cut(((str(file), 1) for file in sorted(folder.iterdir())), size))


@pytest.fixture
def here(monkeypatch):
    """The work is done in this process, one part after the other; what was done is returned."""
    done: list[list[str]] = []

    def in_this_process(job, parts, workers):
        writer = PartWriter(job, attempts=None)
        for part in parts:
            done.append(part)
            yield writer.make(part)

    monkeypatch.setattr(vlm.bulk.dataset, "run", in_this_process)
    return done


@pytest.fixture
def command(tiny_checkpoint):
    def invoke(*arguments, beams=2):
        words = ["caption-dataset", *arguments, "--beams", beams]
        if "--model" not in words:
            words += ["--model", tiny_checkpoint]
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.mark.parametrize(
    "options",
    [{}, {"openvino": True}, {"openvino": True, "precision": "int8"}, {"precision": "bf16"}],
    ids=str,
)
def test_captions_are_those_of_single_images(here, command, tiny_checkpoint, tmp_path, options):
    source = write_photos(tmp_path / "photos", 7)
    chosen = [
        word
        for name, value in options.items()
        for word in ([f"--{name}"] if value is True else [f"--{name}", value])
    ]
    result = command(source, tmp_path / "out", "--part-size", 3, "--batch-size", 2, *chosen)
    assert result.exit_code == 0
    assert result.stdout.startswith("7 images captioned, 0 could not be read, 0 parts left")
    assert [len(part) for part in here] == [3, 3, 1]
    captioner = load(tiny_checkpoint, **options)
    rows = read(tmp_path / "out")
    assert [row["key"] for row in rows] == sorted(str(path) for path in source.iterdir())
    assert len({row["caption"] for row in rows}) > 1
    for row in rows:
        alone = captioner.encode(row["key"]).caption(beams=2)
        assert row.keys() == {"source", "key", "caption", "score", "error"}
        assert (row["source"], row["caption"], row["error"]) == (row["key"], alone.text, None)
        assert row["score"] == pytest.approx(alone.score, abs=1e-4)


def test_a_bad_image_is_a_row_with_an_error(here, command, tmp_path):
    source = write_photos(tmp_path / "photos", 4)
    (source / "000.png").write_bytes(b"")
    (source / "001.png").write_text("not a photo")
    (source / "002.png").write_bytes(photo(2)[:60])
    result = command(source, tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout.startswith("1 images captioned, 3 could not be read, 0 parts left")
    *bad, good = read(tmp_path / "out")
    assert [row["caption"] for row in bad] == [None] * 3
    for row, says in zip(bad, ["is empty", "is not an image", "cannot be decoded"]):
        assert says in row["error"]
    assert good["caption"]
    assert good["error"] is None


def test_what_is_left_out_is_said(here, command, tmp_path):
    names = ("a.b.png", "c.d.png", "c.png", "e.txt")
    write_shard(tmp_path / "in" / "0.tar", {name: photo(1) for name in names})
    (tmp_path / "in" / "notes.md").touch()
    result = command(tmp_path / "in", tmp_path / "out")
    assert result.exit_code == 0
    assert [row["key"] for row in read(tmp_path / "out")] == ["a.b", "c"]
    first, *_, last = result.stderr.splitlines()
    assert first == "left out 1: 1 of other kinds (.md)"
    assert last.startswith("left out 2 in shards: ")


def test_what_is_written_is_not_done_again(here, command, tmp_path):
    source, out = write_photos(tmp_path / "photos", 6), tmp_path / "out"
    command(source, out, "--part-size", 2)
    first = read(out)
    lost, *kept = sorted(out.iterdir())
    before = {path: path.stat().st_mtime_ns for path in kept}
    units = parquet.read_table(lost)["source"].to_pylist()
    lost.unlink()
    (out / f".{lost.name}.0123").write_bytes(b"what a killed worker left")
    here.clear()
    result = command(source, out, "--part-size", 5)
    assert here == [units]
    assert "4 files or row groups were done before" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert sorted(out.iterdir()) == sorted([lost, *kept])
    assert read(out) == first
    here.clear()
    (source / "000a.png").write_bytes(photo(7))  # the source grows, in the middle
    command(source, out, "--part-size", 2)
    assert here == [[str(source / "000a.png")]]
    here.clear()
    assert command(source, out).exit_code == 0
    assert here == []


def test_webdataset_and_parquet(here, command, tmp_path):
    tars, tables = tmp_path / "tars", tmp_path / "tables"
    shards = [
        write_shard(tars / f"{n}.tar", {f"{i}.png": photo(10 * n + i) for i in range(2)})
        for n in range(2)
    ]
    tables.mkdir()
    ids = ["a", "b", "c", "d", "e"]
    table = pyarrow.table({"id": ids, "image": [photo(0), photo(1), b"bad", photo(10), None]})
    parquet.write_table(table, tables / "x.parquet", row_group_size=1)
    assert command(tars, tmp_path / "a").exit_code == 0
    assert here == [[str(shard)] for shard in shards]  # a shard is a part, whatever its size
    here.clear()
    assert command(tables, tmp_path / "b", "--key", "id", "--part-size", 2).exit_code == 0
    file = str(tables / "x.parquet")
    assert here == [[f"{file}#0", f"{file}#1"], [f"{file}#2", f"{file}#3"], [f"{file}#4"]]
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    places = [(str(shard), key) for shard in shards for key in "01"]
    assert [(row["source"], row["key"]) for row in a] == places
    assert [(row["source"], row["key"]) for row in b] == [(file, key) for key in ids]
    assert [b[i]["caption"] for i in (0, 1, 3)] == [a[i]["caption"] for i in (0, 1, 2)]
    assert "is not an image" in b[2]["error"]
    assert b[4]["error"] == "the row has no image"


def test_output_below_the_source_is_no_source(here, command, tmp_path):
    source = write_photos(tmp_path / "photos", 2)
    for _ in range(2):
        assert command(source, source / "captions").exit_code == 0
    assert len(here) == 1


def test_other_filesystems(here, command, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    try:
        for i in range(3):
            memory.pipe_file(f"/photos/{i}.png", photo(i))
        for done in (3, 0):
            result = command("memory://photos", "memory://out", "--part-size", 2)
            assert result.stdout.startswith(f"{done} images captioned")
        files = memory.ls("/out", detail=False)
        assert len(files) == 2
        table = parquet.read_table(io.BytesIO(memory.cat_file(files[0])))
        assert table["key"][0].as_py().startswith("memory:///photos/")
    finally:
        for folder in ("/photos", "/out"):
            memory.rm(folder, recursive=True)


def test_one_folder_has_the_captions_of_one_model(here, command, tiny_checkpoint, tmp_path):
    source, out = write_photos(tmp_path / "photos", 1), tmp_path / "out"
    command(source, out)
    result = command(source, out, beams=1)
    assert result.exit_code == 2
    assert "was made with other options" in result.stderr
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    assert command(source, out, "--model", other).exit_code == 2
    assert command(source, out, "--precision", "bf16").exit_code == 2
    assert command(source, out, "--openvino").exit_code == 2
    assert len(here) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing", "out"], "missing: no such file or folder"),
        (["photos", "out", "--model", "unknown"], "no model 'unknown'"),
        (["photos", "foreign"], "0.parquet is not of this command"),
        (["photos", "damaged"], "0.parquet is damaged, delete it"),
        (["photos", "photos/000.png"], "000.png: File exists"),
        (["photos", "out", "--max-tokens", 0], "max_tokens must be at least 1"),
        (["photos", "out", "--device", "cuda:1"], "give auto, cpu or cuda, not 'cuda:1'"),
        (
            ["photos", "out", "--device", "cuda", "--openvino"],
            "OpenVINO runs models on the CPU",
        ),
        (
            ["photos", "out", "--device", "cuda", "--precision", "int8"],
            "int8 is for models on x86 CPUs here, not on cuda",
        ),
    ],
)
def test_a_wrong_request_is_one_sentence(here, command, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(Path("photos"), 1)
    for name in ("foreign", "damaged"):
        Path(name).mkdir()
    parquet.write_table(pyarrow.table({"n": [1]}), "foreign/0.parquet")
    Path("damaged/0.parquet").write_bytes(b"PAR1")
    result = command(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert here == []


def test_words_are_chosen_as_from_python(here, command, tiny_checkpoint, tmp_path):
    source = write_photos(tmp_path / "photos", 1)
    assert command(source, tmp_path / "out", "--max-tokens", 3).exit_code == 0
    (row,) = read(tmp_path / "out")
    expected = load(tiny_checkpoint).encode(row["key"]).caption(beams=2, max_tokens=3)
    assert row["caption"] == expected.text
    refused = command(source, tmp_path / "out")  # a folder has one kind of captions
    assert refused.exit_code == 2
    assert "was made with other options" in refused.stderr


def test_wrong_beams_are_one_sentence(here, command, tmp_path):
    result = command(write_photos(tmp_path / "photos", 1), tmp_path / "out", beams=0)
    assert result.exit_code == 2
    assert "beams must be in [1, 10000]" in result.stderr


def test_without_ray_it_says_what_to_install(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = command(write_photos(tmp_path / "photos", 1), tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr == f"error: this needs ray; {how_to_install('ray')}\n"


def test_parts_that_are_left_give_exit_code_1(command, tmp_path, monkeypatch):
    monkeypatch.setattr(
        vlm.bulk.dataset, "run", lambda *_: iter([{"images": 2, "errors": 0, "left_out": 0}])
    )
    result = command(write_photos(tmp_path / "photos", 4), tmp_path / "out", "--part-size", 2)
    assert result.exit_code == 1
    assert result.stdout.startswith("2 images captioned, 0 could not be read, 1 parts left")


def test_a_part_is_written_whole_or_not_at_all(tiny_checkpoint, tmp_path, monkeypatch):
    source, out = write_photos(tmp_path / "photos", 1), tmp_path / "out"
    out.mkdir()
    writer = PartWriter(job(out, tiny_checkpoint), attempts=None)
    (part,) = parts_of(source, 1)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer.filesystem, "mv", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.make(part)
    (left,) = out.iterdir()
    assert left.name.startswith(".part-")
    assert finished_units(str(out), settings(tiny_checkpoint)) == set()
    assert list(out.iterdir()) == []


def test_a_part_that_is_done_twice_is_there_once(tiny_checkpoint, tmp_path):
    source, out = write_photos(tmp_path / "photos", 2), tmp_path / "out"
    out.mkdir()
    writer = PartWriter(job(out, tiny_checkpoint), attempts=None)
    (part,) = parts_of(source, 2)
    writer.make(part)
    before = read(out)
    writer.make(part)
    assert read(out) == before


def test_cut_keeps_the_order_and_the_size():
    units = [("a", 1), ("b", 1), ("c", 1), ("shard", None), ("d", 5), ("e", 1)]
    assert list(cut(units, 2)) == [["a", "b"], ["c", "shard"], ["d"], ["e"]]
    assert list(cut([], 2)) == []


def test_ahead_keeps_the_order_and_reads_no_further_than_told():
    from concurrent.futures import ThreadPoolExecutor

    taken, lock = [], threading.Lock()

    def items():
        for i in range(20):
            with lock:
                taken.append(i)
            yield i

    def slow_at_first(i):
        time.sleep(0.02 if i == 0 else 0)
        return i

    with ThreadPoolExecutor(4) as pool:
        for used, value in enumerate(ahead(pool, slow_at_first, items(), 3)):
            assert value == used
            assert len(taken) <= used + 4
    assert len(taken) == 20


@pytest.fixture(scope="module")
def local_ray():
    """Ray on this machine: two CPUs, nothing reported, no dashboard."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    import ray.data  # its log takes the stderr that it finds, which must not be a CliRunner's
    from ray import cloudpickle

    # Workers cannot import the tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error")
    yield
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def on_ray(local_ray):
    yield
    gc.collect()  # the actors of a run are in reference cycles, and hold their CPUs until then


class Waiting(PartWriter):
    """Stops between captioning and writing, the first time that it does the part with 012.png."""

    def caption(self, units, left_out):
        rows = super().caption(units, left_out)
        reached = Path(self.job.out).with_name("reached")
        if any(unit.endswith("012.png") for unit in units) and not reached.exists():
            reached.with_suffix(".part").write_text(str(os.getpid()))
            reached.with_suffix(".part").rename(reached)
            time.sleep(600)
        return rows


def test_a_killed_worker_loses_nothing(on_ray, tiny_checkpoint, tmp_path, monkeypatch):
    source, out = write_photos(tmp_path / "photos", 30), tmp_path / "out"
    (source / "007.png").write_bytes(b"bad")
    out.mkdir()
    monkeypatch.setattr(vlm.bulk.dataset, "PartWriter", Waiting)
    reached = tmp_path / "reached"
    written_before: list[int] = []

    def kill():
        while not reached.exists():
            time.sleep(0.05)
        written_before.append(len(list(out.glob("part-*"))))
        os.kill(int(reached.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    results = list(run(job(out, tiny_checkpoint), parts_of(source, 3), workers=1))
    killer.join(timeout=0)
    assert 0 < written_before[0] < 10  # midway
    assert results.count({"images": 3, "errors": 0, "left_out": 0}) == 9
    assert results.count({"images": 3, "errors": 1, "left_out": 0}) == 1
    rows = read(out)
    assert Counter(row["key"] for row in rows) == Counter(str(path) for path in source.iterdir())
    assert [row["key"] for row in rows if row["error"]] == [str(source / "007.png")]
    captioner = load(tiny_checkpoint)
    for row in rows[12:15]:  # the part that was cut short
        assert row["caption"] == captioner.encode(row["key"]).caption(beams=2).text


def test_the_command_on_ray(on_ray, command, tmp_path):
    """Two workers share the shards; what one run has done the next one leaves."""
    out = tmp_path / "out"
    for n in range(4):
        write_shard(
            tmp_path / "tars" / f"{n}.tar", {f"{i}.png": photo(4 * n + i) for i in range(4)}
        )
    result = command(tmp_path / "tars", out)
    assert result.exit_code == 0
    assert result.stdout.startswith("16 images captioned, 0 could not be read, 0 parts left")
    first = read(out)
    assert len(first) == 16
    sorted(out.iterdir())[0].unlink()
    result = command(tmp_path / "tars", out)
    assert result.stdout.startswith("4 images captioned")
    assert "3 files or row groups were done before" in result.stdout
    assert read(out) == first


class Dying(PartWriter):
    """Loads no model; dies of one part, and has no luck with the storage of another."""

    def __init__(self, job, attempts):
        from vlm.bulk.shards import open_filesystem

        self.job = job
        self.attempts = attempts
        self.filesystem, self.folder = open_filesystem(job.out)

    def caption(self, units, left_out):
        if units[0].endswith("deadly.png"):
            os.kill(os.getpid(), signal.SIGKILL)
        if units[0].endswith("offline.png"):
            raise TimeoutError("the storage does not answer")
        row = {"source": units[0], "key": units[0], "caption": "x", "score": 0.0, "error": None}
        return [row]


def test_a_part_that_kills_or_fails_stops_no_other(on_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(vlm.bulk.dataset, "PartWriter", Dying)
    parts = [[f"{name}.png"] for name in ("deadly", "a", "offline", "b", "c", "d")]
    results = list(run(job(tmp_path, "none"), parts, workers=2))
    assert results == [{"images": 1, "errors": 0, "left_out": 0}] * 4
    assert [row["key"] for row in read(tmp_path)] == ["a.png", "b.png", "c.png", "d.png"]


def test_a_fault_of_all_parts_stops_the_run(on_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(vlm.bulk.dataset, "PartWriter", Dying)
    monkeypatch.setattr(vlm.bulk.dataset, "MAX_FAILED", 2)
    parts = [[f"{n}offline.png"] for n in range(12)]
    with pytest.raises(Exception, match="the storage does not answer"):
        list(run(job(tmp_path, "none"), parts, workers=1))


def test_a_name_that_is_not_utf8_loses_no_part(here, command, tmp_path):
    source = write_photos(tmp_path / "photos", 2)
    weird = os.fsdecode(os.fsencode(source) + b"/caf\xe9.png")
    shutil.copy(source / "000.png", weird)
    assert command(source, tmp_path / "out").exit_code == 0
    sources = [row["source"] for row in read(tmp_path / "out")]
    assert sources == sorted([*map(str, source.glob("0*.png")), rf"{source}/caf\udce9.png"])
