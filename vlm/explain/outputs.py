"""A text's maps as a file, by its name's ending: a picture, an animation, a page or arrays."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vlm.errors import UserError
from vlm.explain.paint import Style, check_style
from vlm.images import Frame

if TYPE_CHECKING:
    from vlm.boxes import Place
    from vlm.explain.maps import WordMap

KINDS = {
    ".png": "a sheet of all words",
    ".webp": "an animation over the words",
    ".html": "a page in which words and patches light each other up",
    ".npz": "arrays",
}
STYLED = (".png", ".webp")  # what is drawn here; a page draws itself, and arrays are not drawn


class OutputError(UserError):
    """A file that maps cannot be written to as asked; the message says which there are."""


def check_output(path: str | os.PathLike[str], style: str | None = None) -> None:
    """Raises OutputError where there is no such kind of file or it has no styles, StyleError where no such style."""
    ending = Path(path).suffix.lower()
    if ending not in KINDS:
        kinds = ", ".join(f"{kind} ({what})" for kind, what in KINDS.items())
        raise OutputError(f"there is no kind of file for {Path(path).name!r}; there are: {kinds}")
    if style is not None:
        check_style(style)
        if ending not in STYLED:
            raise OutputError(f"a {ending} file has no style; {' and '.join(STYLED)} have")


def save(
    path: str | os.PathLike[str],
    image: Image.Image,
    frame: Frame,
    maps: Sequence[WordMap],
    style: Style | None = None,
    places: Sequence[Place] = (),
    alone: Collection[int] = (),
) -> None:
    """Write all words' maps over the upright image to a file of one of `KINDS`.

    A sheet also shows the text's own `places`, if any. The words at `alone`, which language alone wrote, are left
    unpainted and marked, but for arrays. `style` is one of `vlm.explain.paint.STYLES`, by default heat.

    Raises what `check_output` raises, OutputError when there are no maps, ValueError when the frame is of another
    image, and OSError where the file cannot be written.
    """
    path = Path(path)
    check_output(path, style)
    if not maps:
        raise OutputError("there are no words to show; the text is empty")
    match path.suffix.lower():
        case ".png":
            from vlm.explain.overlay import sheet

            drawn = sheet(image, frame, maps, style=style or "heat", places=places, alone=alone)
            drawn.save(path, "PNG")
        case ".webp":
            from vlm.explain.animation import frames, save_animation

            drawn_words = frames(image, frame, maps, style=style or "heat", alone=alone)
            save_animation(drawn_words, path)
        case ".html":
            from vlm.explain.word_page import word_page

            path.write_text(word_page(image, frame, maps, alone), encoding="utf-8")
        case ".npz":
            # Not by name, to which NumPy would add an ending where this one is in capitals.
            with path.open("wb") as file:
                np.savez_compressed(file, **arrays(frame, maps))  # type: ignore[arg-type]


def arrays(frame: Frame, maps: Sequence[WordMap]) -> dict[str, np.ndarray]:
    """Maps of N words as arrays that `numpy.load` reads without pickles.

    `weights` `(N, h, w)` float32, `words`, `roles` and `methods` `(N,)` of text, `mass` `(N,)`, `elsewhere` `(N, K)`
    and `elsewhere_names` `(K,)`; `size` is the photo's `(width, height)`, and `box` the part `(left, top, right,
    bottom)` of it that the grid divides evenly.
    """
    names = sorted({name for word in maps for name in word.elsewhere})
    elsewhere = [[word.elsewhere.get(name, 0.0) for name in names] for word in maps]
    return {
        "weights": np.stack([word.weights.detach().float().cpu().numpy() for word in maps]),
        "words": np.array([word.text for word in maps], dtype=np.str_),
        "roles": np.array([word.role for word in maps], dtype=np.str_),
        "methods": np.array([word.method for word in maps], dtype=np.str_),
        "mass": np.array([word.mass for word in maps], dtype=np.float32),
        "elsewhere": np.array(elsewhere, dtype=np.float32).reshape(len(maps), len(names)),
        "elsewhere_names": np.array(names, dtype=np.str_),
        "size": np.array([frame.width, frame.height]),
        "box": np.array(frame.box, dtype=np.float64),
    }
