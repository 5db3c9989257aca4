"""What a page looks up about what was said: it stays as it is, and nothing is taken back for it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from vlm.app.entries import part_of
from vlm.app.page import Page, View, rows
from vlm.engine import Engine
from vlm.explain.logit import has_logits
from vlm.explain.maps import WordMap
from vlm.explain.outputs import save

METHODS = ("logit", "attention", "value", "context", "occlusion", "contrast")
"""Ways to make maps that a page offers, those without gradients and encodings of their own; the default comes first."""


def offered(engines: Iterable[Engine]) -> list[str]:
    """Those of `METHODS` that all of these models have."""
    every = all(has_logits(engine.captioner.model) for engine in engines)
    return [name for name in METHODS if every or name != "logit"]


def look_up(engine: Engine, page: Page, asked: Mapping[str, Any]) -> View:
    """What a page asked: `asked["what"]` names a function of `LOOKUPS`, which reads the rest.

    Raises UserError where the model cannot tell, KeyError for what no page of ours asks, and Cancelled.
    """
    function = LOOKUPS[asked["what"]]
    return engine.call((page.key, "look-up"), lambda: function(page, asked)).result()


def instead(page: Page, asked: Mapping[str, Any]) -> View:
    """The likeliest words in a word's place."""
    found = page.texts[asked["id"]].instead(asked["word"])
    return {"words": [{"text": text, "probability": round(p, 4)} for text, p in found]}


def maps(page: Page, asked: Mapping[str, Any]) -> View:
    """The maps of all words of a text by a method, layer and head; a `foil` is for contrast."""
    answer = page.texts[asked["id"]]
    found = answer.maps(
        asked.get("layer"), asked.get("head"), asked["method"], foil=asked.get("foil")
    )
    return {
        "question": [_map(word_map) for word_map in found if word_map.role == "question"],
        "words": [_map(word_map) for word_map in found if word_map.role != "question"],
    }


def file(page: Page, asked: Mapping[str, Any]) -> View:
    """A text's maps as a file of the `kind` "webp", "html" or "npz", as a data URL; see `vlm.explain.outputs`."""
    assert page.photo is not None
    answer = page.texts[asked["id"]]
    assert answer.image is not None
    with Image.open(page.photo["file"]["path"]) as photo, TemporaryDirectory() as folder:
        frame = answer.image.frame.scaled(*photo.size)
        found = answer.maps(asked.get("layer"), asked.get("head"), asked["method"])
        path = Path(folder) / f"maps.{asked['kind']}"
        alone = answer.image_effect.alone(found)
        save(path, photo.convert("RGB"), frame, found, alone=alone)
        content = base64.b64encode(path.read_bytes()).decode()
    return {"url": f"data:{TYPES[asked['kind']]};base64,{content}"}


def _map(word_map: WordMap) -> list[list[float]]:
    """A map for the browser; all 0 where no patch has a share of it."""
    return rows(word_map.weights if word_map.mass > 0 else word_map.weights * 0)


def here(page: Page, asked: Mapping[str, Any]) -> View:
    """What is in some cells of the photo: a caption of nothing but them."""
    assert page.image is not None
    assert page.photo is not None
    part = part_of(page.image, asked["cells"], True, page.photo["file"]["path"])
    caption = part.caption()
    return {"text": caption.text, "confidence": caption.confidence, "verdict": caption.verdict}


def inside(page: Page, asked: Mapping[str, Any]) -> View:
    """What one head did for a word; hidden patches have no score."""
    seen = page.texts[asked["id"]].inside(asked["word"], asked["layer"], asked["head"])
    scores = [[None if x == float("-inf") else x for x in row] for row in rows(seen.scores)]
    return {
        "token": seen.token,
        "scores": scores,
        "weights": rows(seen.weights),
        "added": rows(seen.added),
        "elsewhere": {name: round(share, 4) for name, share in seen.elsewhere.items()},
    }


TYPES = {"webp": "image/webp", "html": "text/html", "npz": "application/zip"}

LOOKUPS: dict[str, Callable[[Page, Mapping[str, Any]], View]] = {
    "instead": instead,
    "maps": maps,
    "here": here,
    "inside": inside,
    "file": file,
}
