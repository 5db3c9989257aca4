"""A model as it is beside itself under `torch.compile`: `python -m benchmarks.compiling --device cuda`"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import torch
import typer

import vlm
from benchmarks.roofline import cpu_name
from benchmarks.setting import PHOTOS, TOKENS, fixed, ids_of, pictures, search_name
from benchmarks.timing import Ids, Row, compare, timed
from vlm.captioner import Captioner
from vlm.loading import DeviceError, find_device
from vlm.weights.store import CheckpointError

BATCH = 16


def compile_parts(captioner: Captioner, backend: str = "inductor") -> None:
    """Compile what is run often, in place: the encoder for its one size, the decoder for texts that grow."""
    captioner.model.vision.compile(backend=backend)
    captioner.model.decoder.compile(backend=backend, dynamic=True)


def measure(plain: Captioner, compiled: Captioner, repeats: int) -> Iterator[Row]:
    """Rows of the compiled model, with the plain one as its peer."""
    photos = pictures(BATCH)

    def encode(captioner: Captioner) -> Ids:
        captioner.encode(photos[0]).memory.tokens.sum().item()  # which waits for the device
        return []

    def caption(captioner: Captioner, beams: int) -> Ids:
        return ids_of([captioner.encode(photos[0]).caption(**fixed(beams))])

    def batch(captioner: Captioner) -> Ids:
        return ids_of(captioner.caption(photos, **fixed(3)))

    def both(name: str, write: Callable[..., Ids], share: int = 1, **options: int) -> Row:
        sides = [
            timed(lambda side=side: write(side, **options), share) for side in (compiled, plain)
        ]
        return compare("compiled", name, *sides, repeats)

    yield both("encoder", encode)
    for beams in (1, 3):
        yield both(f"caption of {TOKENS} tokens, {search_name(beams)}", caption, beams=beams)
    yield both(f"an image of {BATCH}, {search_name(3)}", batch, BATCH)


def main(
    model: Annotated[
        str | None, typer.Argument(help="A bundled name, a folder or a hub id.")
    ] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, mps or cpu.")] = "auto",
    backend: Annotated[str, typer.Option(help="Of torch.compile.")] = "inductor",
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each measure.")] = 10,
) -> None:
    """Print a table to report: times, ratios, and whether the words stayed the same."""
    try:
        place = find_device(device)
        # On a CPU plain torch, for the packed layouts are calls that torch.compile makes itself.
        plain, compiled = (vlm.load(model, device=str(place), gradients=True) for _ in range(2))
    except (DeviceError, CheckpointError) as error:
        raise typer.BadParameter(str(error)) from None
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else cpu_name()
    print(f"{name}, {place}, torch {torch.__version__}, python {platform.python_version()}")
    compile_parts(compiled, backend)
    start = time.perf_counter()
    compiled.encode(PHOTOS[0]).caption(**fixed(3))
    print(f"the first caption, which compiles, took {time.perf_counter() - start:.1f} s\n")
    print("| measure | plain | compiled | ratio (range) | same words |\n|---|---|---|---|---|")
    for row in measure(plain, compiled, repeats):
        assert row.peer is not None
        assert row.ratio is not None
        words = {None: "", True: "yes", False: "**no**"}[row.same_words]
        ratio = f"{row.ratio.median:.2f}x ({row.ratio.low:.2f} to {row.ratio.high:.2f})"
        times = f"{row.peer.median:.2f} ms | {row.ours.median:.2f} ms"
        print(f"| {row.name} | {times} | {ratio} | {words} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
