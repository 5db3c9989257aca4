"""What is measured: ours beside its peer on the same weights and the same input, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

import vlm
from benchmarks import bars, coca, peers, processes
from benchmarks.agreement import changed
from benchmarks.roofline import caption_ms, decoding, encoding, projecting
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
from benchmarks.timing import Ids, Row, Run, Side, Spread, between_tokens, compare, timed
from vlm.captioner import Captioner
from vlm.encoded_image import EncodedImage
from vlm.prompts import question_prompt
from vlm.weights.convert import convert

BATCH = 16


def blip(setting: Setting) -> Iterator[Row]:
    """Salesforce/blip-image-captioning-base at 384 px."""
    peer = peers.blip(setting.folder, setting.tiny)
    for part, openvino in (("blip", False), ("blip on OpenVINO", True)):
        ours = _converted(setting.folder, openvino)
        yield from _captioner(part, setting, ours, peer, beam_counts=(1, 3))


def vit_gpt2(setting: Setting) -> Iterator[Row]:
    """nlpconnect/vit-gpt2-image-captioning at 224 px."""
    peer = peers.vit_gpt2(setting.folder, setting.tiny)
    for part, openvino in (("vit-gpt2", False), ("vit-gpt2 on OpenVINO", True)):
        ours = _converted(setting.folder, openvino)
        yield from _captioner(part, setting, ours, peer, beam_counts=(1, 4))


def _captioner(
    part: str,
    setting: Setting,
    ours: Captioner,
    peer: peers.Peer,
    beam_counts: tuple[int, int],
) -> Iterator[Row]:
    config, machine, repeats = ours.model.config, setting.machine, setting.repeats
    photo = pictures(1)[0]
    pixels = peer.pixels([photo])
    image = ours.encode(photo)
    slots = image.memory.tokens.shape[1]

    def encode_ours() -> Ids:
        with torch.inference_mode():
            ours.model.encode(pixels)
        return []

    def encode_peer() -> Ids:
        peer.encode(pixels)
        return []

    yield compare(
        part,
        "encoder",
        timed(encode_ours),
        timed(encode_peer),
        repeats,
        limit=encoding(config).ms(machine),
        least_ratio=1.2,
        most_of_limit=1.25,
    )

    least = {1: 2.2, beam_counts[1]: 3.5}
    for beams in beam_counts:
        yield compare(
            part,
            f"token, {search_name(beams)}",
            _token(image, beams),
            lambda beams=beams: peer.token(pixels, beams, TOKENS),
            repeats,
            limit=decoding(config.decoder, slots, rows=beams).ms(machine),
            least_ratio=least[beams],
        )

    beams = beam_counts[1]
    search = search_name(beams)

    def caption_peer() -> Ids:
        return peer.caption([photo], beams, TOKENS)

    yield compare(
        part,
        f"caption of {TOKENS} tokens, {search}",
        timed(lambda: ids_of([ours.encode(photo).caption(**fixed(beams))])),
        timed(caption_peer),
        repeats,
        limit=caption_ms(config, slots, machine, TOKENS, beams=beams),
        least_ratio=2,
    )

    def caption_and_maps() -> Ids:
        caption = ours.encode(photo).caption(**fixed(beams))
        caption.maps()
        return ids_of([caption])

    yield compare(
        part,
        f"with maps, theirs without, {search}",
        timed(caption_and_maps),
        timed(caption_peer),
        repeats,
        least_ratio=1,
    )

    photos = pictures(BATCH)
    yield compare(
        part,
        f"an image of {BATCH}, {search}",
        timed(lambda: ids_of(ours.caption(photos, **fixed(beams))), BATCH),
        timed(lambda: peer.caption(photos, beams, TOKENS), BATCH),
        min(repeats, 3),
        limit=caption_ms(config, slots, machine, TOKENS, BATCH, beams) / BATCH,
        least_ratio=1.3,
    )


def vqa(setting: Setting) -> Iterator[Row]:
    """Salesforce/blip-vqa-base at 384 px: ten questions on one image."""
    peer = peers.blip(setting.folder, setting.tiny, answers=True)
    ours = _converted(setting.folder)
    config, machine = ours.model.config, setting.machine
    photo, questions, beams = pictures(1)[0], peers.QUESTIONS, 3
    slots = ours.encode(photo).memory.tokens.shape[1]
    lengths = [len(question_prompt(ours.tokenizer, question).ids) for question in questions]
    assert config.reader is not None
    headless = replace(config.reader, vocab_size=1)
    reader = projecting(headless, slots).ms(machine)
    reader += decoding(headless, slots, rows=sum(lengths)).ms(machine)
    answers = projecting(config.decoder, max(lengths), len(questions)).ms(machine)
    step = decoding(config.decoder, max(lengths), len(questions), len(questions) * beams)
    limit = encoding(config).ms(machine) + reader + answers + ANSWER_TOKENS * step.ms(machine)
    options = {"beams": beams, "min_tokens": ANSWER_TOKENS, "max_tokens": ANSWER_TOKENS}
    # transformers ranks by the mean log-probability; of equally long answers the sum ranks alike.
    ask = timed(lambda: ids_of(ours.encode(photo).ask_all(questions, **options)))
    yield compare(
        "vqa",
        f"{len(questions)} questions",
        ask,
        timed(lambda: peer.answer_each(photo, questions, beams, ANSWER_TOKENS)),
        min(setting.repeats, 3),
        limit=limit,
        least_ratio=4,
        note=f"{ANSWER_TOKENS} tokens each, {search_name(beams)}; theirs one by one",
    )
    yield compare(
        "vqa",
        f"{len(questions)} questions, theirs in a batch",
        ask,
        timed(lambda: peer.answer_all(photo, questions, beams, ANSWER_TOKENS)),
        setting.repeats,
        limit=limit,
        note="padded, which changes the shorter questions' answers",
    )


def open_clip_coca(setting: Setting) -> Iterator[Row]:
    """laion/mscoco_finetuned_CoCa-ViT-B-32 at 224 px, beside a transformers that its `generate` accepts."""
    coca.build(setting.folder, setting.tiny)
    yield from coca.measure(setting.folder, PHOTOS[0], TOKENS, setting.repeats, setting.machine)


def int8(setting: Setting) -> Iterator[Row]:
    """Weights of 8 bits on OpenVINO beside our float32, on it and without it, on BLIP's weights."""
    peers.blip(setting.folder, setting.tiny)
    peer_options = {"float32 on OpenVINO": {"openvino": True}, "float32 without": {}}
    plain = {
        name: _converted(setting.folder, **options).encode(PHOTOS[0])
        for name, options in peer_options.items()
    }
    folder = setting.folder / "ours"
    in_8_bits = {"openvino": True, "precision": "int8"}
    quantised = vlm.load(folder, **in_8_bits).encode(PHOTOS[0])
    decoder = quantised.captioner.model.config.decoder
    slots = quantised.memory.tokens.shape[1]
    for name, image in plain.items():
        for beams in (1, 3):
            yield compare(
                "int8",
                f"token, {search_name(beams)}, beside {name}",
                _token(quantised, beams),
                _token(image, beams),
                setting.repeats,
                limit=decoding(decoder, slots, rows=beams, weight_bytes=1).ms(setting.machine),
                least_ratio=2,
            )
    pairs = {
        "BLIP of random weights": (quantised.captioner, plain["float32 without"].captioner),
        "the bundled model": (vlm.load(**in_8_bits), vlm.load()),
    }
    for name, pair in pairs.items():
        others, count = changed(*pair, pictures(BATCH))
        spread = Spread.of([100 * others / count])
        yield Row("int8", f"next tokens changed, {name}", "%", spread, most=1, note=f"of {count}")
    ours = processes.held_megabytes(folder, PHOTOS[0], **in_8_bits)
    for name, options in peer_options.items():
        peer = processes.held_megabytes(folder, PHOTOS[0], **options)
        spreads = [Spread.of([value]) for value in (ours, peer, peer / ours)]
        yield Row("int8", f"memory of the model, beside {name}", "MB", *spreads, least_ratio=3)


def bundled(setting: Setting) -> Iterator[Row]:
    """The model that ships with the package, with captions as long as they come; and its command."""
    model = vlm.load()
    config, machine = model.model.config, setting.machine
    path = PHOTOS[0]
    caption = model.encode(path).caption(beams=1)
    slots = caption.image.memory.tokens.shape[1]

    yield compare(
        "bundled",
        "greedy caption",
        timed(lambda: ids_of([model.encode(path).caption(beams=1)])),
        None,
        2 * setting.repeats,
        limit=caption_ms(config, slots, machine, len(caption.ids) + 1),
        most=80,
    )
    photos = pictures(BATCH)
    longest = max(len(answer.ids) for answer in model.caption(photos, beams=1))
    row = compare(
        "bundled",
        f"an image of {BATCH}, greedy",
        timed(lambda: ids_of(model.caption(photos, beams=1)), BATCH),
        None,
        setting.repeats,
        limit=caption_ms(config, slots, machine, longest + 1, BATCH) / BATCH,
    )
    yield replace(row, note=f"{1000 / row.ours.median:.1f} images/s")
    yield compare(
        "bundled", "import vlm", processes.import_seconds(), None, setting.repeats, "s", most=0.3
    )
    runs = [processes.command("caption", str(path)) for _ in range(setting.repeats)]
    for name, unit, most, values in (
        ("vlm caption in a new process", "s", 4, [seconds for seconds, _ in runs]),
        ("peak memory of vlm caption", "MB", 700, [peak for _, peak in runs]),
    ):
        yield Row("bundled", name, unit, Spread.of(values), most=most)


PARTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "blip": blip,
    "vqa": vqa,
    "vit-gpt2": vit_gpt2,
    "coca": open_clip_coca,
    "int8": int8,
    "bundled": bundled,
    "captions": bars.captions,
    "questions": bars.questions,
    "florence": bars.florence,
    "cold": bars.cold,
}


def _converted(folder: Path, openvino: bool = False) -> Captioner:
    """A foreign folder as ours, written below it."""
    if not (folder / "ours").exists():
        convert(folder, folder / "ours")
    return vlm.load(folder / "ours", openvino=openvino)


def _token(image: EncodedImage, beams: int) -> Side:
    """Milliseconds a token of a caption, once the first is there."""
    captioner = image.captioner
    options = vlm.Options(**fixed(beams))

    def run() -> Run:
        projected, prompts = captioner.start([image], None)
        times, written = [], []
        for step in captioner.steps(
            projected, prompts, options, answering=False, nudges=captioner.nudges([image], None)
        ):
            times.append(time.perf_counter())
            written = [list(hypotheses[0].ids) for hypotheses in step]
        return Run(between_tokens(times), written)

    return run
