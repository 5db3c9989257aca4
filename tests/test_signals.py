"""Reports on traces: planted drift is found, and chance is not taken for it."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documentation import ROOT, commands
from typer.testing import CliRunner

from vlm.cli import app
from vlm.drift import _chi_squared_99, drift_of_labels, drift_of_numbers
from vlm.options import CAPTION
from vlm.trace import Tracer, settings_of
from vlm.trace_lines import Trace, TraceError, TraceFile, read_trace
from vlm.trace_report import report_on

PAGE = (ROOT / "docs" / "signals.md").read_text()
DOG = ROOT / "assets" / "examples" / "dog.jpg"
Record = dict[str, Any]
Change = Callable[[Record, np.random.Generator], None]


@pytest.fixture(scope="module")
def template(tiny, tmp_path_factory) -> Record:
    """A line as the program writes it."""
    path = tmp_path_factory.mktemp("traces") / "one.jsonl"
    with TraceFile(path) as file:
        tracer = Tracer(file, settings_of(tiny, "tiny", "float32", False))
        tracer.answered(tiny.encode(DOG).caption(max_tokens=4), CAPTION)
    return json.loads(path.read_text())


def requests(template: Record, count: int, seed: int, change: Change | None = None) -> list[Record]:
    """Lines of requests whose signals vary by chance, and then by a change."""
    random = np.random.default_rng(seed)
    records = []
    for number in range(count):
        record = copy.deepcopy(template)
        record["image"] |= {
            "sha256": f"{number:03x}".ljust(64, "0"),
            "width": int(random.integers(300, 4000)),
        }
        record["verdict"] = str(random.choice(["sure", "unsure", "guess"], p=[0.5, 0.3, 0.2]))
        record["tokens"] = int(random.poisson(10)) + 1
        record["shares"] = {"image": float(random.beta(20, 2))}
        record["image_effect"] = float(random.normal(10, 3))
        record["words"] = [
            {
                "logprob": -float(random.exponential()),
                "entropy": float(random.gamma(4)),
                "effect": 1.0,
            }
            for _ in range(6)
        ]
        record["photo"] = bool(random.random() < 0.95)
        record["ms"] |= {"read": float(random.gamma(9)), "encode": float(random.gamma(50))}
        if change is not None:
            change(record, random)
        records.append(record)
    return records


def trace_of(path: Path, records: Sequence[Record]) -> Trace:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return read_trace(path)


def drifted(before: Trace, now: Trace) -> set[str]:
    found = report_on(now, before)
    names = {s.name for s in found.signals if s.drift.level in ("some", "much")}
    for name in names:
        assert any(said.startswith(f"{name} ") for said in found.look_at)
    return names


def less_sure(record: Record, random: np.random.Generator) -> None:
    record["verdict"] = str(random.choice(["sure", "unsure", "guess"], p=[0.2, 0.3, 0.5]))


def looks_away(record: Record, random: np.random.Generator) -> None:
    record["shares"] = {"image": float(random.beta(12, 4))}


def longer(record: Record, random: np.random.Generator) -> None:
    record["tokens"] += 4


def cautious(record: Record, random: np.random.Generator) -> None:
    for word in record["words"]:
        word["logprob"] *= 2


def smaller(record: Record, random: np.random.Generator) -> None:
    record["image"] |= {"width": 320}


def half(record: Record, random: np.random.Generator) -> None:
    record["precision"] = "bf16"


def wider(record: Record, random: np.random.Generator) -> None:
    record["options"] = {**record["options"], "beams": 5}


PLANTED = [
    (less_sure, "verdict"),
    (looks_away, "share of image"),
    (longer, "tokens"),
    (cautious, "confidence"),
    (smaller, "megapixels"),
    (half, "precision"),
    (wider, "options"),
]


@pytest.mark.parametrize(
    ("change", "name"), PLANTED, ids=lambda value: getattr(value, "__name__", value)
)
def test_what_has_drifted_is_named_and_nothing_else(template, tmp_path, change, name):
    before = trace_of(tmp_path / "before.jsonl", requests(template, 400, seed=0))
    now = trace_of(tmp_path / "now.jsonl", requests(template, 400, 1, change))
    assert drifted(before, now) == {name}


@pytest.mark.parametrize("count", [8, 60, 400])
def test_chance_is_no_drift(template, tmp_path, count):
    for seed in range(2):
        before = trace_of(tmp_path / "before.jsonl", requests(template, count, seed))
        now = trace_of(tmp_path / "now.jsonl", requests(template, count, seed + 10))
        assert drifted(before, now) == set()


def test_the_index_is_the_one_of_the_books():
    drift = drift_of_labels(["a"] * 5000 + ["b"] * 5000, ["a"] * 6000 + ["b"] * 4000)
    assert drift.index == pytest.approx(0.1 * np.log(0.6 / 0.5) - 0.1 * np.log(0.4 / 0.5), rel=1e-3)
    assert (drift.before, drift.now) == ((0.5, 0.5), (0.6, 0.4))
    assert drift.level == "stable"


@pytest.mark.parametrize(("degrees", "value"), [(1, 6.635), (2, 9.210), (9, 21.666), (30, 50.892)])
def test_chance_is_known(degrees, value):
    assert _chi_squared_99(degrees) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("now", [3.0, 5.0, 9.0])
def test_numbers_that_were_all_the_same_can_drift_to_either_side(now):
    assert drift_of_numbers([4.0] * 100, [now] * 100).level == "much"
    assert drift_of_numbers([4.0, 6.0] * 50, [now] * 100).level == "much"
    assert drift_of_numbers([4.0] * 100, [4.0] * 100).index == 0


def test_new_kinds_and_segments_are_seen(template, tmp_path):
    def with_documents(record: Record, random: np.random.Generator) -> None:
        record["shares"] = {"image": 0.6, "passage 1": 0.4}

    before = trace_of(tmp_path / "before.jsonl", requests(template, 100, 0))
    now = trace_of(tmp_path / "now.jsonl", requests(template, 100, 0, with_documents))
    assert drifted(before, now) == {"share of image", "share of passage 1"}


def test_a_slow_tail_is_told_with_its_requests(template, tmp_path):
    def slow(record: Record, random: np.random.Generator) -> None:
        if record["image"]["sha256"][2] == "7":  # a sixteenth
            record["ms"]["encode"] = 5000.0

    before = trace_of(tmp_path / "before.jsonl", requests(template, 160, 0))
    now = trace_of(tmp_path / "now.jsonl", requests(template, 160, 0, slow))
    for found in (report_on(now), report_on(now, before)):
        assert any(
            said.startswith("encode: the slowest twentieth takes 5000 ms") for said in found.look_at
        )
        (told,) = (said for said in found.look_at if said.startswith("the slowest requests: "))
        numbers = [int(number) for number in re.findall(r"line (\d+)", told)]
        assert len(numbers) == 3
        assert all(number % 16 == 8 for number in numbers)
    assert not any("slowest" in said for said in report_on(before).look_at)
    encode = next(tail for tail in report_on(now, before).tails if tail.stage == "encode")
    assert encode.n == 160
    assert encode.before is not None
    assert encode.now[0] == pytest.approx(encode.before[0], rel=0.05)


DAMAGE = [
    b"{",
    b'{"half": ',
    b"\xff\xfe",
    b"[]",
    b"7",
    b"null",
    b"NaN",
    b'{"time": "now"}',
    b"[" * 100_000,
    b'{"version": 1, "model": 1, "device": 1, "precision": 1, "openvino": 1, "words": 7}',
]


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_line_is_counted_and_costs_no_other(template, tmp_path, damage):
    path = tmp_path / "trace.jsonl"
    good = json.dumps(template).encode()
    path.write_bytes(good + b"\n" + damage + b"\n\n" + good)
    found = read_trace(path)
    assert ([line.number for line in found.lines], found.damaged) == ([1, 4], [2])
    assert any(
        "1 damaged lines were left out, the first is line 2" in x for x in report_on(found).look_at
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens", "many"),
        ("tokens", float("nan")),
        ("image_effect", float("inf")),
        ("ms", {"read": None}),
        ("ms", []),
        ("shares", None),
        ("words", [{"logprob": 1}]),
        ("words", [{"logprob": 1e6, "entropy": 1}]),
        ("image", None),
        ("options", float("nan")),
        ("tokens", 10**400),
    ],
)
def test_a_line_with_a_wrong_value_is_damaged(template, tmp_path, key, value):
    path = tmp_path / "trace.jsonl"
    good = json.dumps(template)
    path.write_text(f"{good}\n{json.dumps({**template, key: value})}\n")
    found = read_trace(path)
    if key != "options":
        assert found.damaged == [2]
    report_on(found, found)


def test_errors_are_counted_and_what_is_odd_is_named(template, tmp_path):
    shared = {k: template[k] for k in ("version", "model", "device", "precision", "openvino")}
    records = requests(template, 5, 0)
    records[3] |= {"verdict": "sure", "image_effect": -1.0, "photo": False, "source": "a <b>.jpg"}
    records.append({"time": "now", **shared, "error": "ImageError"})
    found = report_on(trace_of(tmp_path / "trace.jsonl", records))
    assert found.counts["error"] == {"ImageError": 1}
    assert found.counts["photos"] == {"distinct": 5, "seen again": 0}
    assert sum(found.counts["verdict"].values()) == 5
    assert any("no likelier: line 4 (a <b>.jpg)" in said for said in found.look_at)
    assert any("got no answer: line 6" in said for said in found.look_at)


def test_a_trace_of_errors_alone_is_reported(template, tmp_path):
    shared = {k: template[k] for k in ("version", "model", "device", "precision", "openvino")}
    bad = trace_of(tmp_path / "bad.jsonl", [{**shared, "error": "ImageError"}] * 30)
    good = trace_of(tmp_path / "good.jsonl", requests(template, 30, 0))
    assert "task" in drifted(good, bad)
    assert "task" in drifted(bad, good)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"not json\n"])
def test_what_is_no_trace_is_told(tmp_path, content):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(TraceError, match="is no trace"):
        read_trace(path)
    for wrong in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(TraceError, match="cannot be read"):
            read_trace(wrong)


def test_the_command_prints_and_writes_a_page(template, tmp_path):
    before, now = tmp_path / "before.jsonl", tmp_path / "now.jsonl"
    trace_of(before, requests(template, 60, 0))
    records = requests(template, 60, 1, less_sure)
    records[0]["source"] = "<script>alert(1)</script>.jpg"
    records[0] |= {"photo": False}
    trace_of(now, records)
    page = tmp_path / "out.html"
    result = CliRunner().invoke(
        app, ["signals", str(now), "--against", str(before), "--html", str(page)]
    )
    assert result.exit_code == 0, result.output
    for said in ("60 requests, 0 damaged lines", "verdict", "p99", "look at:", "Siddiqi"):
        assert said in result.stdout
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "{{" not in text
    record = json.loads(CliRunner().invoke(app, ["signals", str(now), "--json"]).stdout)
    assert (record["lines"], record["signals"]) == (60, [])
    wrong = CliRunner().invoke(app, ["signals", str(now), "--html", str(now)])
    assert wrong.exit_code == 2
    assert len(read_trace(now).lines) == 60


@pytest.mark.parametrize("command", [c for c in commands(PAGE) if c.startswith("vlm ")])
def test_the_options_that_the_page_names_exist(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, name, *rest = shlex.split(command)
    text = CliRunner().invoke(app, [name, "--help"]).stdout
    for option in (word for word in rest if word.startswith("--")):
        assert f"{option} " in text
