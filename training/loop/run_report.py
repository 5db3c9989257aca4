"""One self-contained `report.html` of a run: curves, scores, examples with word maps, recipe and log."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from vlm.answers import Answer
from vlm.captioner import Captioner
from vlm.weights.store import load_checkpoint

from ..data.records import Record
from ..evaluation.predict import Prediction
from ..evaluation.samples import samples
from ..evaluation.scoring import points_of_each
from ..recipe.sources import Group
from .monitor import read_metrics

JUDGED = 100  # dev images that the examples are chosen from
SHOWN = 4  # examples of each kind
SHEET_WIDTH = 900  # pixels
LOG_LINES = 200

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; height: auto; }} pre {{ overflow: auto; background: #f4f4f2; padding: 1rem; }}
td, th {{ padding: .1rem 1rem .1rem 0; text-align: right; }} figure {{ margin: 1rem 0 2rem; }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


def write_report(folder: Path, dev: Sequence[Group] = ()) -> None:
    """Write `report.html`; the examples are chosen from the images `dev`."""
    metrics = read_metrics(folder / "metrics.jsonl")
    sections = {
        "Curves": curves(metrics),
        "Validation": score_table(metrics),
        **examples(folder, dev),
        "Recipe": preformatted(folder / "recipe.yaml"),
        "Log": preformatted(folder / "log.txt"),
    }
    body = "\n".join(f"<h2>{title}</h2>\n{content}" for title, content in sections.items())
    page = PAGE.format(title=escape(folder.resolve().name), body=body)
    (folder / "report.html").write_text(page, encoding="utf-8")


def curves(metrics: Sequence[dict[str, Any]]) -> str:
    """Loss, scores on dev, learning rate and gradient norm over the steps."""
    train = [m for m in metrics if "dev" not in m]
    dev = [m for m in metrics if "dev" in m]
    if not train:
        return "<p>No step was finished.</p>"
    names = sorted({name for m in dev for name in m["dev"]} - {"loss"})
    panels = {"loss": ["loss"], "dev": names, "learning_rate": [], "gradient_norm": []}
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    for axes, (panel, scores) in zip(figure.subplots(2, 2).flatten(), panels.items()):
        if panel != "dev":
            axes.plot(*_series(train, panel), linewidth=0.6, label="train")
        for name in scores:
            axes.plot(*_series([m["dev"] | m for m in dev], name), marker="o", label=f"dev {name}")
        axes.set_title(panel.replace("_", " "))
        axes.set_xlabel("step")
        if scores:
            axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    note = "<p>Label smoothing and dropout raise the training loss; that on dev has neither.</p>"
    return _picture(file.getvalue(), "png") + note


def _series(metrics: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = [(m["step"], m[name]) for m in metrics if name in m]
    return [step for step, _ in points], [value for _, value in points]


def score_table(metrics: Sequence[dict[str, Any]]) -> str:
    """Every validation's scores, a row each."""
    dev = [m for m in metrics if "dev" in m]
    names = list(dict.fromkeys(name for m in dev for name in m["dev"]))
    head = "".join(f"<th>{escape(name)}</th>" for name in ("epoch", "step", *names))
    rows = [
        [
            str(m["epoch"]),
            str(m["step"]),
            *(f"{m['dev'][name]:.4g}" if name in m["dev"] else "" for name in names),
        ]
        for m in dev
    ]
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def examples(folder: Path, dev: Sequence[Group]) -> dict[str, str]:
    """The best, the worst and a few random texts of the model in the folder, under a title each."""
    if not (folder / "model" / "model.safetensors").exists() or not dev:
        return {}
    judged = random.Random(0).sample(list(dev), min(JUDGED, len(dev)))
    written = list(samples(Captioner(*load_checkpoint(folder / "model")), judged))
    points = points_of_each([Prediction(r, a.text, a.confidence) for r, a in written])
    ranked = sorted(zip(points, written), key=lambda pair: -1 if pair[0] is None else pair[0])
    kinds = {
        "Best examples": ranked[::-1][:SHOWN],
        "Worst examples": ranked[:SHOWN],
        "Random examples": random.Random(1).sample(ranked, min(SHOWN, len(ranked))),
    }
    return {
        title: "\n".join(_example(record, answer, score) for score, (record, answer) in chosen)
        for title, chosen in kinds.items()
    }


def _example(record: Record, answer: Answer, points: float | None) -> str:
    sheet = answer.overlay()
    sheet.thumbnail((SHEET_WIDTH, 10 * SHEET_WIDTH), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    sheet.save(file, format="JPEG", quality=85)
    asked = "" if answer.question is None else f"{escape(answer.question)} "
    judged = "" if points is None else f" ({points:.0f} points)"
    people = "; ".join(dict.fromkeys(record.texts))
    return (
        f"<figure><figcaption>{asked}<b>{escape(answer.text)}</b>{judged}<br>"
        f"people: {escape(people)}</figcaption>{_picture(file.getvalue(), 'jpeg')}</figure>"
    )


def _picture(data: bytes, kind: str) -> str:
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def preformatted(path: Path) -> str:
    """The end of a text file."""
    if not path.exists():
        return "<p>There is none.</p>"
    lines = path.read_text(encoding="utf-8").splitlines()[-LOG_LINES:]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"
