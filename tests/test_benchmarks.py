"""The benchmark runs, compares like with like, and its limits are those of the models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from benchmarks import coca, parts, peers, processes, setting
from benchmarks.roofline import Machine, Work, decoding, encoding, measure_machine, projecting
from benchmarks.speed import app
from benchmarks.timing import Row, Run, Spread, between_tokens, compare
from vlm.captioner import Captioner
from vlm.model.decoder import Decoder
from vlm.model.memory import Memory, Segment
from vlm.model.model import VisionLanguageModel

ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, *names: str) -> dict[str, dict]:
    """The rows of a quick run by part and name."""
    only = [argument for name in names for argument in ("--only", name)]
    plot, file = folder / "speed.png", folder / "speed.json"
    arguments = ["--quick", *only, "--plot", str(plot), "--json", str(file)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in (*names, "ratio", "same words"))
    assert plot.read_bytes().startswith(b"\x89PNG")
    rows = json.loads(file.read_text())["rows"]
    for row in rows:
        low = row["ours"]["low"]
        assert low >= 0 if row["unit"] == "%" else low > 0
        assert low <= row["ours"]["median"] <= row["ours"]["high"]
    return {f"{row['part']}: {row['name']}": row for row in rows}


def test_beside_transformers(tmp_path):
    rows = run(tmp_path, "blip", "vit-gpt2", "vqa")
    assert len(rows) == 26
    for name, row in rows.items():
        assert row["ratio"]["median"] > 0
        if "encoder" not in name:
            # Only transformers' padded batch has other answers than its questions one by one.
            assert row["same_words"] == ("padded" not in row["note"]), name
    assert {bar["bar"] for bar in rows["blip: encoder"]["bars"]} == {"≥ 1.2x", "≤ 1.25 limits"}
    assert rows["vit-gpt2: token, 4 beams"]["least_ratio"] == 3.5


def test_a_florence_in_bars_computes_what_ours_does(tmp_path):
    """The words are compared only in float32: in bfloat16 two libraries round in other places."""
    peer = peers.florence(tmp_path, tiny=True)
    photo = setting.pictures(1)
    ours = parts._converted(tmp_path).caption(photo, **setting.fixed(3, 9))
    assert [list(answer.ids) for answer in ours] == peer.caption(photo, 3, 9)
    assert [len(ids) for ids in peer.half().caption(photo, 3, 9)] == [9]


def test_bundled(tmp_path):
    rows = run(tmp_path, "bundled")
    assert rows["bundled: greedy caption"]["bars"][0]["bar"] == "≤ 80 ms"
    assert 100 < rows["bundled: peak memory of vlm caption"]["ours"]["median"] < 2000
    assert rows["bundled: import vlm"]["unit"] == "s"


def test_int8(tmp_path):
    rows = run(tmp_path, "int8")
    assert rows["int8: memory of the model, beside float32 without"]["peer"]["median"] > 0


def test_agreement(tiny_checkpoint):
    def count(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.agreement", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    photos = [str(photo) for photo in setting.PHOTOS[:2]]
    result = count(str(tiny_checkpoint), *photos, "--openvino")  # int8 on any processor
    assert result.stdout.rstrip().endswith("%), 2 photos"), result.stderr
    for arguments in (["unknown", photos[0]], [str(tiny_checkpoint), "missing.jpg"]):
        result = count(*arguments)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert arguments[0] in result.stderr or arguments[1] in result.stderr


def test_coca_is_built_as_the_hub_has_it(tmp_path):
    coca.build(tmp_path, tiny=True)
    image = parts._converted(tmp_path).encode(setting.PHOTOS[0])
    assert len(image.caption(beams=3, min_tokens=parts.TOKENS, max_tokens=parts.TOKENS).ids) == 20


@pytest.mark.skipif(
    not coca.packages().is_dir(), reason="python -m benchmarks.speed --install-coca was not run"
)
def test_beside_open_clip(tmp_path):
    rows = run(tmp_path, "coca")
    assert [row["same_words"] for row in rows.values()] == [True, True]


def test_a_part_that_does_not_exist():
    result = CliRunner().invoke(app, ["--only", "blop"])
    assert result.exit_code == 2
    assert "no part 'blop'; the parts are blip, vqa" in result.output


def test_coca_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["--only", "coca"])
    assert result.exit_code == 2
    assert "--install-coca" in result.output


def test_sides_run_in_turns_and_ratios_are_of_neighbours():
    log, ours, theirs = [], iter([9.0, 1.0, 2.0, 4.0]), iter([9.0, 3.0, 4.0, 4.0])

    def side(name, values):
        def run() -> Run:
            log.append(name)
            return Run(next(values), [[1, 2]])

        return run

    row = compare("part", "name", side("a", ours), side("b", theirs), 3, least_ratio=2.5)
    assert log == ["a", "b"] * 4
    assert row.ours == Spread(2.0, 1.0, 4.0)  # the first of each is not counted
    assert row.ratio == Spread(2.0, 1.0, 3.0)
    assert row.same_words is True
    assert row.bars() == [("≥ 2.5x", False)]
    assert Row.from_record(json.loads(json.dumps(row.as_record()))) == row


def test_the_fastest_of_several_peers_is_held_against_ours():
    times = {"float32": iter([9.0, 6.0, 8.0]), "bf16": iter([9.0, 4.0, 2.0])}
    theirs = {
        name: lambda values=values: Run(next(values), [[1]]) for name, values in times.items()
    }
    row = compare("part", "name", lambda: Run(2.0, [[1]]), theirs, 2, least_ratio=2)
    assert row.peer == Spread(3.0, 2.0, 4.0)
    assert row.ratio == Spread(1.5, 1.0, 2.0)
    assert row.bars() == [("≥ 2x", False)]
    assert row.note == "theirs in bf16; float32 7 ms, bf16 3 ms"


def test_a_peer_that_writes_less_is_refused_whatever_its_precision():
    theirs = {"float32": lambda: Run(1.0, [[1, 2]]), "bf16": lambda: Run(1.0, [[1]])}
    with pytest.raises(RuntimeError, match="numbers of tokens differ"):
        compare("part", "name", lambda: Run(1.0, [[1, 2]]), theirs, 1)


def test_a_taken_core_is_given_back():
    me = psutil.Process()
    with processes.core_taken():
        (other,) = [child for child in me.children() if "while True" in " ".join(child.cmdline())]
    assert not other.is_running()


def test_unequal_work_is_refused():
    short, long = (lambda n=n: Run(1.0, [[7] * n]) for n in (2, 3))
    with pytest.raises(RuntimeError, match="numbers of tokens differ"):
        compare("part", "name", short, long, 1)


def test_other_words_of_the_same_length_are_told():
    row = compare("part", "name", lambda: Run(1.0, [[1]]), lambda: Run(1.0, [[2]]), 1)
    assert row.same_words is False


def test_bars():
    row = Row("part", "name", "ms", Spread.of([12.0]), limit=10.0, most_of_limit=1.25, most=11)
    assert row.bars() == [("≤ 1.25 limits", True), ("≤ 11 ms", False)]


def test_time_between_tokens():
    assert between_tokens([5.0, 5.25, 5.5]) == 250.0


def test_the_shortest_time_is_that_of_the_slower():
    machine = Machine(flops=1e9, bandwidth=1e8)
    assert Work(flops=2e6, bytes=1e5).ms(machine) == 2
    assert Work(flops=1e6, bytes=1e6).ms(machine) == 10


def test_machine():
    machine = measure_machine(128, 8, 2)
    assert machine.flops > 1e8
    assert machine.bandwidth > 1e8


@torch.no_grad()
def test_what_decoding_reads(tiny: Captioner):
    """All weights of linear layers but those that made the memory's keys and values, and these, an image."""
    config, decoder = tiny.model.config.decoder, Decoder(tiny.model.config.decoder)
    slots, images, rows = 7, 2, 6
    memory = Memory(torch.zeros(images, slots, config.memory_width), (Segment("image", 0, slots),))
    with FlopCounterMode(display=False) as counter:
        projected = decoder.project(memory)
    assert projecting(config, slots, images).flops == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        decoder.logits(decoder(torch.zeros(rows, 1).long(), projected, explicit=True).hidden)
    assert decoding(config, slots, images, rows).flops == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )
    keys_values = sum(tensor.nbytes for layer in projected.layers for tensor in layer)
    weights = decoding(config, slots, 0).bytes
    assert decoding(config, slots, images).bytes == weights + keys_values
    assert decoding(config, slots, 0, weight_bytes=1).bytes == weights / 4


@torch.no_grad()
def test_what_encoding_computes(tiny: Captioner, tiny_tagged: VisionLanguageModel):
    for model in (tiny.model, tiny_tagged):
        with FlopCounterMode(display=False) as counter:
            model.encode(torch.zeros(1, 3, *tiny.preprocess.size))
        assert encoding(model.config, images=3).flops == 3 * counter.get_total_flops()
    more = encoding(tiny_tagged.config).bytes - encoding(tiny.model.config).bytes
    learnt = sum(weight.nbytes for weight in tiny_tagged.tagger.parameters())
    assert more == learnt + tiny_tagged.tagger.classifier.nbytes
