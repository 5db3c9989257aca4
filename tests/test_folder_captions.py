"""`vlm caption FOLDER` into tables and text files: in order, resumable, and never over what people wrote."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlm.captioner import BATCH
from vlm.cli import app
from vlm.folder.beside import Existing, write_texts
from vlm.folder.photo_table import Table, TableError
from vlm.folder.pipeline import in_batches, model_threads
from vlm.folder.wording import Wording, WordingError


def make_photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((80, 60), Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for number in (10, 2, 1, 3):
        make_photo(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


@pytest.fixture
def caption(tiny_checkpoint):
    def invoke(*arguments, code=0):
        command = [str(a) for a in ("caption", *arguments, "--model", tiny_checkpoint)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == code, result.output
        return result

    return invoke


def rows(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return list(csv.DictReader(file))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "image", "text"),
    [
        ("x.csv", "image", "caption"),
        ("x.jsonl", "image", "caption"),
        ("metadata.jsonl", "file_name", "text"),
    ],
)
def test_a_table_has_a_row_for_each_photo_and_the_next_run_adds_what_is_missing(
    caption, photos, tmp_path, name, image, text
):
    said = [
        line.partition(": ")[2].partition(" [")[0] for line in caption(photos).stdout.splitlines()
    ]
    out = tmp_path / name
    caption(photos, "--out", out)
    whole = out.read_bytes()
    assert [row[image] for row in rows(out)] == [f"photos/{n}.png" for n in (1, 2, 3, 10)]
    assert [row[text] for row in rows(out)] == said
    assert all(0 <= float(row["confidence"]) <= 1 for row in rows(out))

    again = caption(photos, "--out", out)
    assert out.read_bytes() == whole
    assert "4 of 4 photos are in the table already" in again.stderr

    # The end of what a killed run wrote is half a row.
    lines = whole.splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:-2]) + lines[-2][:-9])
    caption(photos, "--out", out)
    assert out.read_bytes() == whole

    make_photo(photos / "2b.png", 5)
    caption(photos, "--out", out)
    assert out.read_bytes().startswith(whole)
    assert [row[image] for row in rows(out)][4:] == ["photos/2b.png"]


def test_a_table_is_gone_on_with_from_another_folder(caption, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caption("photos", "--out", "x.csv")
    monkeypatch.chdir(photos)
    assert "4 of 4" in caption(".", "--out", "../x.csv").stderr


def test_an_odd_file_stops_nothing_and_is_tried_again(caption, photos, tmp_path):
    (photos / "4.png").write_bytes(b"")
    (photos / "5.jpg").write_text("not a photo")
    out = tmp_path / "x.jsonl"
    for _ in range(2):
        result = caption(photos, "--out", out, code=1)
        named = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert [Path(line.split()[1]).name for line in named] == ["4.png", "5.jpg"]
        assert len(rows(out)) == 4
    make_photo(photos / "4.png", 4)
    (photos / "5.jpg").unlink()
    caption(photos, "--out", out)
    assert len(rows(out)) == 5


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_names_that_no_text_holds_come_back(caption, photos, tmp_path, name):
    for odd in (
        'comma, and "quotes".png',
        "line\nbreak.png",
        os.fsdecode(b"latin-\xe9.png"),
        "日本.png",
    ):
        make_photo(photos / odd, 1)
    out = tmp_path / name
    caption(photos, "--out", out)
    assert {Path(row["image"]).name for row in rows(out)} == set(os.listdir(photos))
    whole = out.read_bytes()
    assert "8 of 8" in caption(photos, "--out", out).stderr
    for cut in range(len(whole) - 60, len(whole)):
        out.write_bytes(whole[:cut])
        with Table(out, ("image", "caption", "confidence", "score", "verdict")):
            pass
        assert whole.startswith(out.read_bytes())


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", "photo,words\na.png,a dog\n", "has the columns photo, words"),
        (
            "x.csv",
            'image,caption,confidence,score,verdict\na.png,"a" dog,1,1,\nb,c,1,1,\n',
            "no CSV",
        ),
        ("x.jsonl", '{"image": "a.png"}\n[1]\n', "line 2 of"),
        ("x.jsonl", '{"id": 3}\n', "a row without 'image'"),
    ],
)
def test_a_file_of_others_is_not_written_over(caption, photos, tmp_path, name, content, says):
    out = tmp_path / name
    out.write_text(content)
    result = caption(photos, "--out", out, code=2)
    assert says in result.stderr
    assert out.read_text() == content
    caption(photos, "--out", out, "--overwrite")
    assert len(rows(out)) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "x.txt"], "ends in .csv or .jsonl"),
        (["--out", "none/x.csv"], "there is no folder none"),
        (["--existing", "append"], "--write-txt"),
        (["--write-txt", "--overwrite", "--existing", "append"], "give one"),
        (["--prefix", "{nmae}"], "there is no {nmae}"),
    ],
)
def test_a_wrong_request_is_one_sentence(caption, photos, options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = caption(photos, *options, code=2)
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_metadata_jsonl_is_for_photos_below_it(caption, photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "elsewhere" / "metadata.jsonl"
    result = caption(photos, "--out", out, code=1)
    assert result.stderr.count("below its own folder") == 4
    assert out.read_text() == ""


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "metadata.jsonl"])
def test_several_captions_a_photo(caption, photos, tmp_path, name):
    out = tmp_path / name
    caption(photos, "--out", out, "--candidates", 3, "--write-txt")
    said = caption(photos / "1.png", "--candidates", 3).stdout.splitlines()
    said[0] = said[0].partition(" [")[0]
    row = rows(out)[0]
    if name == "x.csv":
        texts = [row["caption"], row["caption_2"], row["caption_3"]]
    else:
        texts = row.get("captions") or row["texts"]
    assert texts == said == (photos / "1.txt").read_text().splitlines()


def test_words_around_a_caption(caption, photos, tmp_path):
    out = tmp_path / "x.csv"
    plain = caption(photos / "1.png").stdout.strip().partition(" [")[0]
    caption(
        photos / "1.png",
        "--out",
        out,
        "--trigger",
        "sks",
        "--prefix",
        "in {folder}:",
        "--suffix",
        ", {name}",
    )
    assert rows(out)[0]["caption"] == f"sks, in photos: {plain}, 1"


@pytest.mark.parametrize(
    ("wording", "text"),
    [
        (Wording(), "a dog"),
        (Wording(trigger="dog"), "a dog"),
        (Wording(trigger="do"), "do, a dog"),
        (Wording(prefix="photo of ", suffix="."), "photo of a dog."),
        (Wording(prefix="{folder}/{name}", suffix="outside"), "my pets/rex 1 a dog outside"),
        (Wording(prefix="a { b"), "a { b a dog"),
    ],
)
def test_wording(wording, text):
    assert wording("a dog", "/x/my pets/rex 1.jpg") == text


@pytest.mark.parametrize("text", ["{nmae}", "{}", "{name.__class__}", "{name!r}", "{0}"])
def test_a_place_that_there_is_not_is_named(text):
    with pytest.raises(WordingError, match=r"there are \{name\} and \{folder\}"):
        Wording(prefix=text)


def test_a_name_with_braces_is_not_read_again():
    assert Wording(prefix="{name}:")("a dog", "/x/{folder}.jpg") == "{folder}: a dog"
    name = os.fsdecode(b"\xff\n.jpg")
    assert (
        Wording(prefix="{name}")("a dog", name).encode()
        == "\N{REPLACEMENT CHARACTER} a dog".encode()
    )


@pytest.mark.parametrize(
    ("existing", "text"),
    [
        (Existing.skip, "my own words\n"),
        (Existing.append, "my own words, a dog\n"),
        (Existing.prepend, "a dog, my own words\n"),
        (Existing.overwrite, "a dog\n"),
    ],
)
def test_texts_that_are_there(tmp_path, existing, text):
    path, problems = tmp_path / "a.txt", []
    path.write_text("my own words\n")
    for _ in range(2):  # a run that was stopped may be repeated
        write_texts(path, ["a dog"], existing, problems)
        assert (path.read_text(), problems) == (text, [])


def test_a_text_that_is_no_text_is_left(tmp_path):
    path, problems = tmp_path / "a.txt", []
    path.write_bytes(b"\xff\xfe\x00")
    write_texts(path, ["a dog"], Existing.append, problems)
    assert path.read_bytes() == b"\xff\xfe\x00"
    assert "no text in UTF-8" in problems[0]


def test_append_comes_through_the_command_line(caption, photos):
    (photos / "2.txt").write_text("mine")
    caption(photos, "--write-txt", "--existing", "append")
    assert (photos / "2.txt").read_text().startswith("mine, ")
    before = {path: path.read_text() for path in photos.glob("*.txt")}
    caption(photos, "--write-txt", "--existing", "append")
    assert {path: path.read_text() for path in photos.glob("*.txt")} == before


def test_kill_loses_at_most_a_batch(photos, tmp_path, tiny_checkpoint):
    for number in range(20 * BATCH):
        make_photo(photos / f"{number}.png", number)
    out = tmp_path / "x.csv"
    command = [sys.executable, "-m", "vlm", "caption", str(photos), "--out", str(out), "--json"]
    command += ["--model", str(tiny_checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        told = [process.stdout.readline() for _ in range(3 * BATCH)]
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    done = [row["image"] for row in rows(out)]
    assert [Path(json.loads(line)["image"]).name for line in told] == [
        Path(p).name for p in done[: len(told)]
    ]
    assert len(done) < 20 * BATCH
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(result.stdout.splitlines()) == 20 * BATCH - len(done)
    assert [row["image"] for row in rows(out)] == [f"photos/{n}.png" for n in range(20 * BATCH)]


def test_batches_keep_their_order_in_several_threads(tiny, photos):
    for number in range(40):
        make_photo(photos / f"{number}.png", number)
    files = sorted(map(str, photos.glob("*.png")))

    def work(pictures):
        time.sleep(0.02 if len(seen) % 2 else 0)
        seen.append(len(pictures))
        return [picture.seen.getpixel((0, 0)) for picture in pictures]

    def alone(path):
        with Image.open(path) as image:
            return tiny.preprocess.resized(image.convert("RGB")).getpixel((0, 0))

    seen, problems = [], []
    with ThreadPoolExecutor(2) as pool:
        found = list(in_batches(tiny, pool.submit, files, work, problems))
    assert found == [(path, alone(path)) for path in files]
    assert problems == []
    assert sum(seen) == len(files)


def test_two_batches_at_a_time_say_what_one_does(tiny, photos):
    import torch

    before = torch.get_num_threads()
    pictures = [Image.open(photos / f"{n}.png").convert("RGB") for n in (1, 2, 3, 10)]
    expected = [answer.text for answer in tiny.caption(pictures)]
    try:
        torch.set_num_threads(2)
        with model_threads(tiny) as submit:
            assert torch.get_num_threads() == 1
            jobs = [submit(lambda: tiny.caption(pictures)) for _ in range(4)]
            assert all([a.text for a in job.result()] == expected for job in jobs)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_memory_is_flat_over_thousands_of_photos(tiny, photos, tmp_path):
    photo = make_photo(tmp_path / "a.png", 1)
    files = []
    for number in range(3000):
        files.append(str(tmp_path / f"copy{number}.png"))
        os.link(photo, files[-1])
    process, held = psutil.Process(), []
    with ThreadPoolExecutor(1) as pool:
        work = lambda pictures: tiny.caption(pictures, beams=1, max_tokens=2)  # noqa: E731
        for number, _ in enumerate(in_batches(tiny, pool.submit, files, work, [])):
            if number in (500, 2999):
                held.append(process.memory_info().rss)
    assert held[1] - held[0] < 30e6


def test_a_table_of_another_question_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    with Table(path, ("image", "question", "yes"), {"question": "a dog?"}) as table:
        table.add(str(tmp_path / "a.png"), ["a dog?", 0.5])
    with pytest.raises(TableError, match="another question"):
        Table(path, ("image", "question", "yes"), {"question": "a cat?"})
    assert len(rows(path)) == 1
