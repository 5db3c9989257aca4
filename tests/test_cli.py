from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import vlm
from vlm.captioner import BATCH, Captioner
from vlm.cli import app
from vlm.cli.arguments import SEARCH
from vlm.errors import how_to_install
from vlm.options import ANSWER, CAPTION

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def run(tiny_checkpoint):
    """Run a command in this process, with the tiny model where the command takes one."""

    def invoke(command, *arguments):
        model = (
            [] if command == "models" or "--model" in arguments else ["--model", tiny_checkpoint]
        )
        result = CliRunner().invoke(app, [str(part) for part in [command, *arguments, *model]])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


@pytest.fixture
def captioner(tiny_checkpoint):
    return vlm.load(tiny_checkpoint)


def make_photo(path: Path, seed: int) -> Path:
    """A few coloured patches, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((80, 60), Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """A folder of five photos, named in natural order, and of what is not to be captioned."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(["2.jpg", "10.PNG", "sub/1.webp", "sub/deeper/a.bmp", "x.jpeg"]):
        make_photo(folder / name, seed)
    make_photo(folder / ".hidden.jpg", 9)
    make_photo(folder / ".thumbnails" / "t.jpg", 9)
    (folder / "notes.txt").write_text("not a photo")
    return folder


NATURAL = ["2.jpg", "10.PNG", "sub/1.webp", "sub/deeper/a.bmp", "x.jpeg"]


def errors(result) -> list[str]:
    """What is said besides of what the folder has besides photos."""
    lines = result.stderr.splitlines()
    return [line for line in lines if line and not line.startswith("left out ")]


def test_one_photo_gives_its_caption_alone(run, captioner, photos):
    result = run("caption", photos / "2.jpg")
    assert result.exit_code == 0
    assert result.stdout == captioner.encode(photos / "2.jpg").caption().text + "\n"
    assert result.stderr == ""


def test_several_photos_give_a_line_each_in_the_order_asked(run, captioner, photos):
    paths = [photos / "x.jpeg", photos / "2.jpg"]
    result = run("caption", *paths, "--beams", 2)
    texts = [captioner.encode(path).caption(beams=2).text for path in paths]
    assert texts[0] != texts[1]
    assert result.stdout.splitlines() == [f"{p}: {t}" for p, t in zip(paths, texts)]


def test_json_is_one_object_a_line(run, captioner, photos):
    result = run("caption", photos, "--json")
    assert result.stderr.splitlines()[-1] == "left out 3: 1 of other kinds (.txt), 2 hidden"
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["image"] for record in records] == [str(photos / name) for name in NATURAL]
    for record in records:
        assert record.keys() >= {
            "image",
            "caption",
            "score",
            "words",
            "ms",
            "confidence",
            "finished",
        }
        alone = captioner.encode(record["image"]).caption()
        assert record["caption"] == alone.text
        assert math.isclose(record["score"], alone.score, abs_tol=1e-4)
        assert [word["text"] for word in record["words"]] == [word.text for word in alone.words]
        for word, nats in zip(record["words"], alone.image_effect.words):
            assert word.keys() == {"text", "logprob", "image_effect"}
            assert word["logprob"] <= 0
            assert math.isclose(word["image_effect"], nats, abs_tol=1e-4)
        assert math.isclose(record["image_effect"], alone.image_effect.total, abs_tol=1e-3)
        assert record["ms"].keys() == {"read", "encode", "first", "decode"}
        assert all(isinstance(ms, float) and ms > 0 for ms in record["ms"].values())


def test_candidates_are_distinct_and_best_first(run, captioner, photos):
    lines = run("caption", photos / "2.jpg", "--candidates", 4).stdout.splitlines()
    answer = captioner.encode(photos / "2.jpg").caption(candidates=4)
    assert lines == [answer.text, *(other.text for other in answer.alternatives)]
    assert len(set(lines)) == 4
    (line,) = run("caption", photos / "2.jpg", "--candidates", 4, "--json").stdout.splitlines()
    record = json.loads(line)
    assert record["caption"] == lines[0]
    assert [candidate["caption"] for candidate in record["candidates"]] == lines
    assert all(0 <= candidate["confidence"] <= 1 for candidate in record["candidates"])


@pytest.mark.parametrize("as_json", [True, False])
def test_bad_photos_are_named_at_the_end_and_the_good_ones_captioned(run, photos, as_json):
    (photos / "3.jpg").write_bytes(b"")
    (photos / "4.jpg").write_text("not a photo")
    (photos / "5.jpg").write_bytes((photos / "2.jpg").read_bytes()[:300])
    missing = photos / "6.jpg"
    result = run("caption", photos, missing, *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == len(NATURAL)
    named = sorted(re.search(r"\d\.jpg", line).group() for line in errors(result))
    assert named == ["3.jpg", "4.jpg", "5.jpg", "6.jpg"]
    assert all(line.startswith("error: ") for line in errors(result))


def test_captions_come_out_batch_by_batch(run, photos, monkeypatch):
    batches, caption = [], Captioner.caption

    def watched(self, sources, **options):
        lines = sys.stdout.buffer.getvalue().count(b"\n")
        batches.append((len(sources), lines))
        return caption(self, sources, **options)

    monkeypatch.setattr(Captioner, "caption", watched)
    assert run("caption", photos).exit_code == 0
    assert batches == [(5, 0)]
    batches.clear()
    monkeypatch.setattr("vlm.captioner.BATCH", 2)
    assert run("caption", photos).exit_code == 0
    assert [size for size, _ in batches] == [2, 2, 1]
    assert batches[2][1] >= 2, (
        "a batch is read ahead, and no more: the first one's captions are out"
    )


def test_photos_that_wait_are_in_the_models_size(run, captioner, photos, monkeypatch):
    sizes, caption = set(), Captioner.caption

    def watched(self, sources, **options):
        sizes.update(photo.seen.size for photo in sources)
        return caption(self, sources, **options)

    monkeypatch.setattr(Captioner, "caption", watched)
    assert run("caption", photos).exit_code == 0
    height, width = captioner.preprocess.size
    assert sizes == {(width, height)}


def test_write_txt_writes_a_file_beside_each_photo(run, captioner, photos):
    before = set(photos.rglob("*"))
    assert run("caption", photos, "--write-txt").exit_code == 0
    written = {(photos / name).with_suffix(".txt") for name in NATURAL}
    assert set(photos.rglob("*")) - before == written
    for name in NATURAL:
        text = (photos / name).with_suffix(".txt").read_text()
        assert text == captioner.encode(photos / name).caption().text + "\n"


def test_write_txt_goes_on_where_it_stopped(run, photos):
    kept = photos / "10.txt"
    kept.write_text("my own words")
    result = run("caption", photos, "--write-txt")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == len(NATURAL) - 1
    assert errors(result) == ["1 of 5 photos have their text already"]
    assert kept.read_text() == "my own words"
    again = run("caption", photos, "--write-txt")
    assert (again.exit_code, again.stdout) == (0, "")
    assert run("caption", photos, "--write-txt", "--overwrite").exit_code == 0
    assert kept.read_text() != "my own words"


def test_write_txt_refuses_two_photos_with_one_text(run, photos):
    make_photo(photos / "2.png", 7)
    result = run("caption", photos / "2.jpg", photos / "2.png", "--write-txt")
    assert result.exit_code == 1
    (line,) = errors(result)
    assert "2.png" in line
    assert "rename" in line
    assert result.stdout.startswith(f"{photos / '2.jpg'}: ")


def test_write_txt_never_writes_over_a_photo(run, photos):
    photo = Path(shutil.copy(photos / "2.jpg", photos / "photo.txt"))
    result = run("caption", photo, "--write-txt", "--overwrite")
    assert result.exit_code == 1
    assert errors(result) == [
        f"error: {photo}: its text would be written over the image; rename it"
    ]
    assert photo.read_bytes() == (photos / "2.jpg").read_bytes()


def test_a_text_that_cannot_be_written_stops_no_other(run, photos):
    longest = "m" * 251 + ".jpg"  # as long as a name can be
    shutil.copy(photos / "2.jpg", photos / longest)
    (photos / "2.txt").mkdir()  # stands in the way
    result = run("caption", photos, "--write-txt", "--overwrite")
    assert result.exit_code == 1
    (line,) = errors(result)
    assert f"{photos / '2.txt'} cannot be written" in line
    texts = {path.relative_to(photos) for path in photos.rglob("*.txt") if path.is_file()}
    images = {Path(name).with_suffix(".txt") for name in (*NATURAL, longest)}
    assert texts - {Path("notes.txt")} == images - {Path("2.txt")}
    assert not list(photos.rglob("*.part"))


def test_a_full_disk_stops_the_run_and_loses_no_message(run, photos, monkeypatch):
    def full(path, *arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    (photos / "empty.jpg").touch()
    monkeypatch.setattr(Path, "write_text", full)
    result = run("caption", photos, "--write-txt")
    assert result.exit_code == 2
    assert any("No space left" in line for line in errors(result))


def test_an_output_that_lacks_a_letter_of_a_name_loses_nothing(photos, tiny_checkpoint):
    shutil.copy(photos / "2.jpg", photos / "日本.jpg")
    command = [sys.executable, "-m", "vlm", "caption", str(photos), "--model", str(tiny_checkpoint)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    result = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert len(result.stdout.splitlines()) == len(NATURAL) + 1
    assert rb"\u65e5\u672c.jpg: " in result.stdout


def test_a_question_that_is_not_utf8_is_asked(run, photos):
    weird = os.fsdecode(b"what \xff is it?")
    assert run("ask", photos / "2.jpg", weird).exit_code == 0


def test_a_file_name_that_is_not_utf8_goes_out_as_it_came(run, photos):
    weird = os.fsdecode(os.fsencode(photos) + b"/caf\xe9.jpg")
    shutil.copy(photos / "2.jpg", weird)
    lines = run("caption", photos).stdout_bytes.splitlines()
    assert len(lines) == len(NATURAL) + 1
    assert any(line.startswith(os.fsencode(weird) + b": ") for line in lines)
    records = [json.loads(line) for line in run("caption", photos, "--json").stdout.splitlines()]
    assert weird in {record["image"] for record in records}


def test_questions_are_answered_in_order_from_one_encoding(run, captioner, photos, monkeypatch):
    questions = ["what colour is it?", "how many  people\nare there?", "what colour is it?"]
    image = captioner.encode(photos / "2.jpg")
    expected = [image.ask(question) for question in questions]
    encodings = []
    encode_all = Captioner.encode_all
    monkeypatch.setattr(
        Captioner, "encode_all", lambda *args: encodings.append(1) or encode_all(*args)
    )
    result = run("ask", photos / "2.jpg", *questions, "--json")
    assert result.exit_code == 0
    assert encodings == [1]
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["question"] for record in records] == questions
    for record, answer in zip(records, expected):
        keys = {"image", "question", "answer", "confidence", "alternatives", "words", "ms"}
        assert record.keys() == keys | {"score", "finished", "image_effect", "blind", "verdict"}
        assert record["image"] == str(photos / "2.jpg")
        assert record["answer"] == answer.text
        assert math.isclose(record["confidence"], answer.confidence, rel_tol=1e-3)
        others = [alternative["answer"] for alternative in record["alternatives"]]
        assert others == [other.text for other in answer.alternatives]
        assert all(a.keys() == {"answer", "confidence"} for a in record["alternatives"])
        assert all(w.keys() == {"text", "logprob", "image_effect"} for w in record["words"])
        assert record["ms"].keys() == {"read", "encode", "first", "decode"}


def test_an_answer_says_how_sure_it_is_and_what_else_it_might_be(run, photos, monkeypatch):
    answer = vlm.Answer(
        text="two",
        score=-0.4,
        confidence=0.64,
        words=(),
        alternatives=tuple(
            vlm.answers.Alternative(text, p, 0.0) for text, p in [("one", 0.2), ("six", 0.004)]
        ),
        question="how many?",
        finished=True,
        ms={},
        image=None,
        ids=(),
        logprobs=(),
    )
    monkeypatch.setattr(
        vlm.EncodedImage, "ask_all", lambda self, questions, **_: [answer] * len(questions)
    )
    assert run("ask", photos / "2.jpg", "how many?").stdout == "two (64%), or one (20%)\n"
    lines = run("ask", photos / "2.jpg", "how many?", "how many?").stdout.splitlines()
    assert lines == ["how many? two (64%), or one (20%)"] * 2


def explained(result) -> dict:
    assert result.exit_code == 0, result.stderr
    (line,) = result.stdout.splitlines()
    record = json.loads(line)
    assert record.keys() == {"image", "text", "words", "image_effect", "blind"}
    for word in record["words"]:
        keys = {"text", "role", "grid", "map", "mass", "elsewhere", "method"}
        assert word.keys() == (keys if word["role"] == "question" else keys | {"image_effect"})
        assert 0 <= word["mass"] <= 1
        weights = np.array(word["map"])
        assert weights.shape == tuple(word["grid"])
        assert weights.min() >= 0
        assert math.isclose(weights.sum(), 1, abs_tol=1e-5)
    return record


def test_a_caption_is_explained_word_by_word(run, captioner, photos, tmp_path):
    out = tmp_path / "words.png"
    result = run("explain", photos / "2.jpg", "--out", out, "--json")
    record = explained(result)
    answer = captioner.encode(photos / "2.jpg").caption()
    assert record["image"] == str(photos / "2.jpg")
    assert record["text"] == answer.text
    assert [word["text"] for word in record["words"]] == [word.text for word in answer.words]
    assert {word["role"] for word in record["words"]} == {"caption"}
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.getcolors(maxcolors=100) is None  # more than a blank page
    assert run("explain", photos / "2.jpg", "--out", out).stdout == answer.text + "\n"


def test_a_question_and_its_answer_are_explained(run, photos):
    record = explained(
        run("explain", photos / "2.jpg", "--question", "What is  it?", "--text", "A dog", "--json")
    )
    assert record["text"] == "a dog"
    roles = [(word["text"], word["role"]) for word in record["words"]]
    assert roles == [
        *[("what", "question"), ("is", "question"), ("it", "question"), ("?", "question")],
        *[("a", "answer"), ("dog", "answer")],
    ]
    tidy = run(
        "explain", photos / "2.jpg", "--question", "what is it?", "--text", "a dog", "--json"
    )
    assert explained(tidy) == record
    own = explained(run("explain", photos / "2.jpg", "--question", "what is it?", "--json"))
    assert own["words"][:4] == [
        word
        | {
            "map": pytest.approx(np.array(word["map"]), abs=1e-5),
            "mass": pytest.approx(word["mass"]),
        }
        for word in record["words"][:4]
    ]


def test_layer_and_head_can_be_chosen(run, photos):
    def maps(*options):
        chosen = ("--text", "a dog", "--method", "attention", "--json", *options)
        record = explained(run("explain", photos / "2.jpg", *chosen))
        return np.array([word["map"] for word in record["words"]])

    layers = [maps("--layer", layer) for layer in range(2)]
    heads = [maps("--layer", 1, "--head", head) for head in range(4)]
    assert not np.allclose(layers[0], layers[1])
    np.testing.assert_allclose(np.mean(layers, axis=0), maps(), atol=1e-3)
    np.testing.assert_allclose(np.mean(heads, axis=0), layers[1], atol=1e-3)


def test_a_part_can_be_hidden_or_shown_alone(run, captioner, photos):
    image = captioner.encode(photos / "2.jpg")
    width, height = image.picture.size
    box = (0, 0, width // 2, height)
    text = ",".join(map(str, box))
    for option, seen in (("--hide", image.without(box)), ("--only", image.region(box))):
        record = explained(run("explain", photos / "2.jpg", option, text, "--json"))
        assert record["text"] == seen.caption().text


def test_models_known_lists_what_could_be_loaded(run):
    from vlm.weights.known import KNOWN

    header, *rows = run("models", "--known").stdout.splitlines()
    assert header.split() == ["MODEL", "ALIAS", "SIZE", "TASKS", "LICENCE", "GOOD", "AT"]
    assert [row.split()[0] for row in rows] == [known.name for known in KNOWN]
    records = [json.loads(line) for line in run("models", "--known", "--json").stdout.splitlines()]
    assert records[0]["alias"] == "florence-2"
    assert records[0]["tasks"] == ["caption", "vqa", "locate"]


def test_models_lists_what_is_on_this_machine(run, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("vlm.weights.hub.bundled_folder", lambda: tmp_path / "assets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "assets" / "small"))
    size = sum(file.stat().st_size for file in folder.iterdir())
    header, row = run("models").stdout.splitlines()
    assert header.split() == ["MODEL", "SIZE", "TASKS", "LICENCE"]
    assert re.split(r" {2,}", row) == [
        *["small", f"{size / 1e6:.1f} MB", "caption, vqa", "none: random weights"]
    ]
    (line,) = run("models", "--json").stdout.splitlines()
    assert json.loads(line) == {
        "name": "small",
        "folder": str(folder),
        "size": size,
        "tasks": ["caption", "vqa"],
        "licence": "none: random weights",
    }


def test_the_app_is_served_as_asked(run, monkeypatch):
    asked = {}
    monkeypatch.setattr("vlm.app.launch.check_address", lambda host, port: None)
    monkeypatch.setattr("gradio.Blocks.launch", lambda self, **options: asked.update(options))
    monkeypatch.setattr("gradio.Blocks.block_thread", lambda self: None)
    options = ["--host", "::1", "--port", 7999, "--root-path", "/vlm"]
    assert run("app", *options).exit_code == 0
    assert asked["server_name"] == "[::1]"
    assert (asked["server_port"], asked["root_path"]) == (7999, "/vlm")


LONG = "why " * 2500


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["caption", "missing.jpg"], "missing.jpg: no such file"),
        (["caption", "missing.jpg", "none.jpg"], "none.jpg: no such file"),
        (["caption", "empty"], "empty: no image"),
        (["caption", "*.webp"], "*.webp: no image"),
        (["caption", "photo.jpg", "--beams", 0], "beams must be in [1, 10000], not 0"),
        (["caption", "photo.jpg", "--candidates", -1], "candidates must be in [1, 10000], not -1"),
        (["caption", "photo.jpg", "--beams", 1, "--candidates", 3], "3 candidates need as many"),
        (["caption", "photo.jpg", "--max-tokens", 0], "max_tokens must be at least 1, not 0"),
        (["caption", "photo.jpg", "--min-tokens", 40], "min_tokens 40 is more than max_tokens"),
        (["caption", "photo.jpg", "--temperature", 2], "are for sampling; set sample, too"),
        (["caption", "photo.jpg", "--sample", "--top-p", "nan"], "top_p must be"),
        (["ask", "photo.jpg", "what?", "--top-k", -1], "top_k must"),
        (["ask", "photo.jpg", "what?", "--sample", "--beams", 2], "sampling and beam search"),
        (["caption", "photo.jpg", "--device", "gpu"], "there is no device 'gpu' here: give auto"),
        (["ask", "photo.jpg", "what?", "--device", "cuda:99"], "there is no device 'cuda:99' here"),
        (["explain", "photo.jpg", "--json", "--device", ""], "there is no device '' here"),
        (["app", "--device", "cpu:0"], "there is no device 'cpu:0' here"),
        (
            ["caption", "photo.jpg", "--device", "cuda", "--openvino"],
            "OpenVINO runs models on the CPU",
        ),
        (
            ["caption", "photo.jpg", "--device", "cuda", "--precision", "int8"],
            "int8 is for models on x86 CPUs here; a model on cuda computes in float32",
        ),
        (["caption", "photo.jpg", "--overwrite"], "--write-txt"),
        (["caption", "photo.jpg", "--model", "unknown"], "no model 'unknown'"),
        (["caption", "photo.jpg", "--model", "some/one"], "'some/one'"),
        (["caption", "photo.jpg", "--model", "empty"], "empty is not a checkpoint folder"),
        (["ask", "missing.jpg", "what?"], "missing.jpg: no such file"),
        (["ask", "photo.jpg", ""], "the question is empty"),
        (["ask", "photo.jpg", "what is it?", " \n"], "the question is empty"),
        (["ask", "photo.jpg", LONG], "the question is too long"),
        (["ask", "photo.jpg", "what?", "--model", "unknown"], "no model 'unknown'"),
        (["app", "--host", "8.8.8.8"], "--host takes an address of this machine"),
        (["app", "--host", "127.0.0.1:80"], "--host takes an address of this machine"),
        (["app", "--host", "a" * 80], "--host takes an address of this machine"),
        (["app", "--auth-file", "none"], "none: no such file; make it with"),
        (["app", "--add-user", "ann"], "--add-user needs to know where"),
        (["app", "--model", "unknown"], "no model 'unknown'"),
        (["explain", "photo.jpg"], "--out"),
        (["explain", "missing.jpg", "--json"], "missing.jpg: no such file"),
        (["explain", "photo.jpg", "--json", "--question", ""], "the question is empty"),
        (["explain", "photo.jpg", "--json", "--question", LONG], "the question is too long"),
        (["explain", "photo.jpg", "--json", "--text", " "], "the text to explain is empty"),
        (["explain", "photo.jpg", "--json", "--text", LONG], "the text is too long"),
        (["explain", "photo.jpg", "--json", "--layer", 2], "layer must be 0 to 1"),
        (["explain", "photo.jpg", "--json", "--head", -1], "head must be 0 to 3"),
        (["explain", "photo.jpg", "--json", "--heads", "1:0,9:0"], "layer must be 0 to 1"),
        (["explain", "photo.jpg", "--json", "--heads", "1,0"], "pairs of numbers such as 1:0,2:5"),
        (
            ["explain", "photo.jpg", "--json", "--hide", "1,2,3"],
            "--hide takes LEFT,TOP,RIGHT,BOTTOM",
        ),
        (["explain", "photo.jpg", "--json", "--only", "1,2,3,x"], "--only takes LEFT,TOP,RIGHT"),
        (["explain", "photo.jpg", "--json", "--only", "9,9,1,1"], "less than its right"),
        (["explain", "photo.jpg", "--json", "--hide", "0,0,9,9", "--only", "0,0,9,9"], "not both"),
        (["explain", "photo.jpg", "--json", "--method", "magic"], "there is no method 'magic'"),
        (["explain", "photo.jpg", "--json", "--method", "occlusion", "--layer", 1], "has no layer"),
        (["explain", "photo.jpg", "--out", "sheet.pdf"], ".png"),
        (["explain", "photo.jpg", "--out", "no/folder/sheet.png"], "sheet.png: No such file"),
        (["explain", "photo.jpg", "--out", "folder.png"], "folder.png: Is a directory"),
        (["explain", "photo.jpg", "--out", "full.png"], "No space left"),
    ],
)
def test_a_wrong_request_is_one_sentence(run, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_photo(Path("photo.jpg"), 0)
    Path("empty").mkdir()
    Path("folder.png").mkdir()
    Path("full.png").symlink_to("/dev/full")
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = errors(result)
    assert line.startswith("error: ")
    assert says in line


@pytest.mark.parametrize("command", [["caption"], ["ask", "what?"], ["explain", "--json"]])
@pytest.mark.parametrize("data", [b"", b"not a photo", None], ids=["empty", "text", "truncated"])
def test_a_bad_photo_is_one_sentence(run, command, data, tmp_path):
    photo = make_photo(tmp_path / "photo.jpg", 0)
    photo.write_bytes(photo.read_bytes()[:300] if data is None else data)
    result = run(command[0], photo, *command[1:])
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = errors(result)
    assert str(photo) in line


@pytest.mark.parametrize(
    "arguments",
    [["caption", "photo.jpg", "--beams", "many"], ["caption"], ["ask", "photo.jpg"], ["draw"]],
)
def test_a_command_that_cannot_be_parsed_says_how_to_write_it(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr


def test_an_interrupt_is_quiet(run, photos, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Captioner, "caption", interrupted)
    result = run("caption", photos)
    assert result.exit_code == 130
    assert errors(result) == ["error: interrupted"]


def test_a_defect_of_ours_is_not_dressed_up(photos, tiny_checkpoint, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a defect")

    monkeypatch.setattr(Captioner, "caption", broken)
    arguments = ["caption", str(photos), "--model", str(tiny_checkpoint)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ValueError)


@pytest.fixture
def command(tiny_checkpoint, tmp_path):
    """`vlm caption` of three batches of photos, for a process of its own."""
    for number in range(3 * BATCH):
        make_photo(tmp_path / f"{number}.jpg", number)
    return [sys.executable, "-m", "vlm", "caption", tmp_path, "--model", tiny_checkpoint]


def test_help_and_version_need_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from vlm.cli import app\n"
        "for option in sys.argv[1:]: print(CliRunner().invoke(app, [option]).stdout)\n"
        "assert not {'torch', 'timm', 'PIL', 'huggingface_hub'} & set(sys.modules)"
    )
    help_and_version = [sys.executable, "-c", code, "--help", "--version"]
    result = subprocess.run(help_and_version, capture_output=True, text=True, check=True)
    assert vlm.__version__ in result.stdout
    assert all(name in result.stdout for name in ("caption", "ask", "explain", "models"))


def test_every_option_of_a_search_is_one_of_the_command_line():
    assert SEARCH.keys() == vlm.Options.__dataclass_fields__.keys()


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ([], {}),
        (["--max-tokens", 3, "--min-tokens", 2], {"max_tokens": 3, "min_tokens": 2}),
        (["--beams", 4, "--length-penalty", -1.5], {"beams": 4, "length_penalty": -1.5}),
        (["--candidates", 2, "--no-repeat-ngram", 0], {"candidates": 2, "no_repeat_ngram": 0}),
        (["--sample", "--seed", 0, "--top-k", 0], {"sample": True, "seed": 0, "top_k": 0}),
        (
            ["--sample", "--temperature", 3, "--top-p", 0.9, "--repetition-penalty", 2],
            {"sample": True, "temperature": 3.0, "top_p": 0.9, "repetition_penalty": 2.0},
        ),
    ],
)
def test_the_search_is_told_what_was_given_and_no_more(run, photos, monkeypatch, options, keywords):
    told = []
    monkeypatch.setattr(Captioner, "caption", lambda self, pictures, **o: told.append(o) or [])
    monkeypatch.setattr(vlm.EncodedImage, "ask_all", lambda self, asked, **o: told.append(o) or [])
    assert run("caption", photos / "2.jpg", *options).exit_code == 0
    assert run("ask", photos / "2.jpg", "what is it?", *options).exit_code == 0
    assert told == [keywords, keywords]


def test_words_are_chosen_as_from_python(run, captioner, photos):
    image = captioner.encode(photos / "2.jpg")
    short = run("caption", photos / "2.jpg", "--max-tokens", 3).stdout
    assert short == image.caption(max_tokens=3).text + "\n"
    drawn = ["--sample", "--seed", 5, "--temperature", 2, "--max-tokens", 6]
    (line,) = run("ask", photos / "2.jpg", "what is it?", "--json", *drawn).stdout.splitlines()
    expected = image.ask("what is it?", sample=True, seed=5, temperature=2.0, max_tokens=6)
    assert json.loads(line)["answer"] == expected.text != image.ask("what is it?").text


def test_the_help_says_what_each_task_begins_with():
    for command, defaults in (("caption", CAPTION), ("ask", ANSWER)):
        text = " ".join(
            CliRunner().invoke(app, [command, "--help"]).stdout.replace("│", " ").split()
        )
        for name in SEARCH:
            assert f"--{name.replace('_', '-')} " in text
        assert f"1 is greedy. [default: ({defaults.beams})]" in text
        assert f"[default: ({defaults.max_tokens})]" in text


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("evaluate", "name the dataset with --data"),
        ("table", "Missing option '--data'"),
        ("faithfulness", "Missing option '--data'"),
        ("train", "recipe.yaml"),
        ("prepare", "No such command 'recipe.yaml'"),
    ],
)
def test_training_is_that_of_the_checkout_and_no_strangers(command, says, tmp_path):
    stranger = tmp_path / "training"
    stranger.mkdir()
    for name in ("__init__", command):
        (stranger / f"{name}.py").write_text("raise SystemExit('a stranger')")
    arguments = ["--task", "caption"] if command == "evaluate" else ["recipe.yaml"]
    result = subprocess.run(
        [sys.executable, "-m", "vlm", command, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert says in result.stderr


def test_a_package_of_training_that_is_missing_is_one_sentence():
    code = "import sys; sys.modules['accelerate'] = None; from vlm.cli import app; app()"
    arguments = ["train", "finetune.yaml"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert errors(result) == [
        f"error: this needs the package accelerate; {how_to_install('train')}"
    ]


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def buffering(request, monkeypatch):
    """Whether Python writes at once what is printed, which a user's environment may decide, or at the end."""
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


def test_a_reader_that_has_seen_enough_ends_the_run(command, buffering):
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    "program",
    [
        ["-m", "vlm", "--help"],
        ["-m", "vlm", "--version"],
        ["-m", "vlm", "train", "--help"],
        ["-m", "training.evaluate", "--help"],
        ["app.py", "--help"],
    ],
    ids=" ".join,
)
def test_a_full_disk_is_one_sentence_for_help_too(program, buffering):
    command = [sys.executable, *program]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            command, cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.stderr == "error: cannot write the output: No space left on device\n"
    assert result.returncode == 2


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models", "--known"]])
def test_a_reader_that_wants_nothing_is_told_nothing(arguments, buffering):
    command, pipe = [sys.executable, "-m", "vlm", *arguments], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_closed_output_is_one_sentence():
    command = f"{shlex.quote(sys.executable)} -m vlm models >&-"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.stderr.startswith("error: the output is closed")
    assert result.returncode == 2


def test_a_full_disk_is_one_sentence(command, buffering):
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.stderr == "error: cannot write the output: No space left on device\n"
    assert result.returncode == 2


def test_a_progress_bar_is_drawn_on_a_terminal_and_results_stay_out_of_it(command):
    terminal, end = pty.openpty()
    drawn = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, text=True) as process:
        os.close(end)
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(terminal, 4096):
                drawn += part
        lines = process.stdout.read().splitlines()
    os.close(terminal)
    assert process.returncode == 0
    assert len(lines) == 3 * BATCH
    assert f"{3 * BATCH}/{3 * BATCH}" in drawn.decode()
    assert ".jpg" not in drawn.decode()
