"""What explaining costs: the maps of all words of a caption by each method, beside the caption itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import torch
import typer

from vlm.captioner import Captioner
from vlm.explain.maps import METHODS
from vlm.images import is_image, load_image
from vlm.loading import load
from vlm.weights.hub import bundled_folder

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def explaining(
    model: Annotated[str | None, typer.Option(help="By default the bundled model.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Example photos, each with its caption.")] = 6,
    method: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(METHODS)}; by default all.")
    ] = None,
) -> None:
    """Print the median milliseconds of the processor, on one thread."""
    torch.set_num_threads(1)
    fast, plain = load(model), load(model, gradients=True)
    folder = bundled_folder() / "examples"
    photos = [load_image(path) for path in sorted(folder.iterdir()) if is_image(path.name)][:limit]
    captions = [fast.encode(photo).caption() for photo in photos]
    whole = median(milliseconds(lambda p=photo: fast.encode(p).caption()) for photo in photos)
    print(f"{'caption':10} {whole:6.0f} ms")
    for name in method or METHODS:
        captioner = plain if METHODS[name].gradients else fast
        ms = median(
            milliseconds(maps(captioner, photo, caption.ids, name))
            for photo, caption in zip(photos, captions)
        )
        print(f"{name:10} {ms:6.0f} ms, {ms / whole:.0%} of a caption", flush=True)


def maps(captioner: Captioner, photo: Any, ids: tuple[int, ...], method: str) -> Callable[[], Any]:
    """What makes the maps of a text about a photo that has been encoded."""
    image = captioner.encode(photo)
    return lambda: image.maps(ids, method=method)


def milliseconds(run: Callable[[], Any]) -> float:
    """What a run takes of the processor, which the work of others lengthens less than the clock's time."""
    start = time.process_time()
    run()
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    app()
