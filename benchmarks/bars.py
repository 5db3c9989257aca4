"""The bars against a peer at its best precision here: whole captions, under load, with maps, and questions.

Ours computes in what `precision="auto"` takes here. The peer runs in float32 and, where torch multiplies in it, in
bfloat16, all in turns; the faster is held against ours. Where the processor has 8-bit products captions are measured in
int8, too, beside the same peers, and beside one whose linear layers torch quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import vlm
from benchmarks import peers, processes
from benchmarks.setting import (
    ANSWER_TOKENS,
    PHOTOS,
    TOKENS,
    Setting,
    fixed,
    ids_of,
    pictures,
    search_name,
)
from benchmarks.timing import Ids, Row, Side, Spread, compare, timed
from vlm.captioner import Captioner
from vlm.runtimes.probes import can_halve, can_take_int8, processor
from vlm.weights.convert import convert

LONGER = 30  # tokens of Florence-2's caption
BEAMS = 3


def captions(setting: Setting) -> Iterator[Row]:
    """BLIP-base: alone, with maps, with one core taken, and its encoder."""
    folder = setting.folder / "blip"
    theirs = _precisions(peers.blip(folder, setting.tiny))
    ours, photo = _ours(folder), pictures(1)[0]

    def caption(beams: int, maps: bool = False) -> Ids:
        answer = ours.encode(photo).caption(**fixed(beams, TOKENS))
        if maps:
            answer.maps()
        return ids_of([answer])

    def peer(beams: int) -> dict[str, Side]:
        return _each(theirs, lambda peer: peer.caption([photo], beams, TOKENS), setting)

    for beams, least in ((BEAMS, 2), (1, 1.3)):
        name = f"BLIP, a caption of {TOKENS} tokens, {search_name(beams)}"
        side = timed(lambda beams=beams: caption(beams), clock=setting.clock)
        yield compare("bars", name, side, peer(beams), setting.repeats, least_ratio=least)
        yield from _in_int8(name, folder, theirs, beams, TOKENS, least, setting)
    name = "BLIP, with maps, theirs without"
    side = timed(lambda: caption(BEAMS, maps=True), clock=setting.clock)
    yield compare("bars", name, side, peer(BEAMS), setting.repeats, least_ratio=1.3)
    if not setting.shared:  # where what is waited for counts
        with processes.core_taken():
            name, side = "BLIP, one core taken", timed(lambda: caption(BEAMS))
            yield compare("bars", name, side, peer(BEAMS), setting.repeats, least_ratio=1.5)
    if processor()[1]:  # where there are instructions for it
        yield from _encoder(folder, theirs["bf16"], setting)


def _encoder(folder: Path, theirs: peers.Peer, setting: Setting) -> Iterator[Row]:
    """BLIP's encoder in bfloat16, whatever "auto" takes, beside theirs in it and beside ours in float32."""
    pixels = theirs.pixels(pictures(1))
    half, whole = (vlm.load(folder / "ours", precision=p) for p in ("bf16", "float32"))

    def encode(captioner: Captioner) -> Ids:
        with torch.inference_mode():
            captioner.model.encode(pixels.float())
        return []

    def encode_peer() -> Ids:
        theirs.encode(pixels)
        return []

    name, side = "BLIP's encoder in bf16", timed(lambda: encode(half), clock=setting.clock)
    for beside, write, least in (
        ("", encode_peer, 1),
        (", beside ours in float32", lambda: encode(whole), 3),
    ):
        peer = timed(write, clock=setting.clock)
        yield compare("bars", name + beside, side, peer, setting.repeats, least_ratio=least)


def questions(setting: Setting) -> Iterator[Row]:
    """BLIP-base for answers: ten questions on one image, theirs one by one."""
    folder = setting.folder / "vqa"
    theirs = _precisions(peers.blip(folder, setting.tiny, answers=True))
    ours, photo, asked = _ours(folder), pictures(1)[0], peers.QUESTIONS
    yield compare(
        "bars",
        f"BLIP, {len(asked)} questions on one image",
        timed(
            lambda: ids_of(ours.encode(photo).ask_all(asked, **fixed(BEAMS, ANSWER_TOKENS))),
            clock=setting.clock,
        ),
        _each(theirs, lambda peer: peer.answer_each(photo, asked, BEAMS, ANSWER_TOKENS), setting),
        min(setting.repeats, 3),
        least_ratio=4,
    )


def florence(setting: Setting) -> Iterator[Row]:
    """Florence-2-base, told to caption."""
    folder = setting.folder / "florence"
    theirs = _precisions(peers.florence(folder, setting.tiny))
    ours, photo = _ours(folder), pictures(1)[0]
    name = f"Florence-2, a caption of {LONGER} tokens, {search_name(BEAMS)}"
    yield compare(
        "bars",
        name,
        timed(
            lambda: ids_of([ours.encode(photo).caption(**fixed(BEAMS, LONGER))]),
            clock=setting.clock,
        ),
        _each(theirs, lambda peer: peer.caption([photo], BEAMS, LONGER), setting),
        setting.repeats,
        least_ratio=2,
    )
    yield from _in_int8(name, folder, theirs, BEAMS, LONGER, 2, setting)


def _in_int8(
    name: str,
    folder: Path,
    theirs: dict[str, peers.Peer],
    beams: int,
    tokens: int,
    least: float,
    setting: Setting,
) -> Iterator[Row]:
    """A caption in int8 beside the peers, and beside one in int8, which has no bar: words may differ."""
    if not can_take_int8():
        return
    ours, photo = vlm.load(folder / "ours", precision="int8"), pictures(1)[0]
    options = fixed(beams, tokens)
    side = timed(lambda: ids_of([ours.encode(photo).caption(**options)]), clock=setting.clock)
    for beside, others, bar in (
        ("in int8", theirs, least),
        ("both in int8", {"int8": theirs["float32"].quantised()}, None),
    ):
        peer = _each(others, lambda peer: peer.caption([photo], beams, tokens), setting)
        row = f"{name}, {beside}"
        yield compare("bars", row, side, peer, setting.repeats, least_ratio=bar)


def cold(setting: Setting) -> Iterator[Row]:
    """`vlm caption` of one photo in a new process; its memory is that of the torch that is installed."""
    runs = [processes.command("caption", str(PHOTOS[0])) for _ in range(setting.repeats)]
    seconds, peak = (Spread.of(values) for values in zip(*runs))
    yield Row("bars", "vlm caption in a new process", "s", seconds, most=3)
    yield Row("bars", "peak memory of vlm caption", "MB", peak, most=500)


def _ours(folder: Path) -> Captioner:
    convert(folder, folder / "ours")
    return vlm.load(folder / "ours", precision="auto")


def _precisions(peer: peers.Peer) -> dict[str, peers.Peer]:
    return {"float32": peer, "bf16": peer.half()} if can_halve() else {"float32": peer}


def _each(
    theirs: dict[str, peers.Peer], write: Callable[[peers.Peer], Ids], setting: Setting
) -> dict[str, Side]:
    return {
        name: timed(lambda peer=peer: write(peer), clock=setting.clock)
        for name, peer in theirs.items()
    }
