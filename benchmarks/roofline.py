"""What this machine can do at most, what a stage asks of it, and the shortest time that follows."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vlm.model.config import DecoderConfig, ModelConfig
from vlm.model.model import VisionLanguageModel
from vlm.runtimes.layers import PackedLinear, can_pack


@dataclass(frozen=True)
class Machine:
    """The best that was measured with torch's threads in float32: operations, and bytes read, a second."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a stage, and the bytes that it cannot do without reading."""

    flops: float = 0.0
    bytes: float = 0.0

    def ms(self, machine: Machine) -> float:
        """The shortest time: that of the slower of the two, the other being hidden behind it."""
        return 1000 * max(self.flops / machine.flops, self.bytes / machine.bandwidth)


def cpu_name() -> str:
    """The processor, as Linux names it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measure_machine(size: int = 2048, megabytes: int = 1024, repeats: int = 10) -> Machine:
    """Matrix products by either of torch's CPU libraries, and reads of a buffer that no cache holds."""
    square, weight = torch.randn(size, size), torch.randn(size, size)
    products: list[Callable[[], Tensor]] = [lambda: square @ weight]
    if can_pack():
        packed = PackedLinear(weight, None)
        products.append(lambda: packed(square))
    buffer = torch.ones(megabytes * 1_000_000 // 4)
    matrix, vector = buffer.view(-1, 1000), torch.ones(1000)
    reads: list[Callable[[], Tensor]] = [buffer.sum, buffer.amax, lambda: matrix @ vector]
    flops = 2 * size**3 / min(_seconds(product, repeats) for product in products)
    bandwidth = buffer.nbytes / min(_seconds(read, repeats) for read in reads)
    return Machine(flops, bandwidth)


@torch.inference_mode()
def _seconds(run: Callable[[], Tensor], repeats: int) -> float:
    """The median of several runs, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def encoding(config: ModelConfig, images: int = 1) -> Work:
    """Pixels to memory. Counted on a model without weights, so that no faster implementation hides operations."""
    with torch.device("meta"):
        model = VisionLanguageModel(config).eval().requires_grad_(False)
        pixels = torch.empty(1, 3, *config.vision.preprocess.size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        patches, grid = model.vision(pixels)
        model.adapter(patches, grid)
        if model.tagger is not None:  # not all of it: without numbers there is no name to look up
            model.tagger.slots(model.tagger.classify(patches), model.decoder.token_embedding)
    parts = [part for part in (model.vision, model.adapter, model.tagger) if part is not None]
    weights = sum(weight.nbytes for part in parts for weight in part.parameters())
    if model.tagger is not None:
        weights += model.tagger.classifier.nbytes
    return Work(images * counter.get_total_flops(), weights)


def projecting(config: DecoderConfig, slots: int, images: int = 1) -> Work:
    """Keys and values of a memory's `slots` for every cross-attention."""
    weights = config.sublayers.count("c") * 2 * config.width * config.memory_width
    return Work(2 * images * slots * weights, 4 * weights)


def decoding(
    config: DecoderConfig, slots: int, images: int = 1, rows: int = 1, weight_bytes: float = 4
) -> Work:
    """One pass over `rows` tokens, with `slots` of memory an image.

    The weights are read once whatever the rows, and so are an image's keys and values, which its rows share.
    What is small is left out: norms, biases, embeddings, and the keys and values of the text.
    """
    width, layers = config.width, config.sublayers
    hidden = round(width * config.mlp_ratio)
    weights = layers.count("s") * 4 * width**2  # query, key, value, out
    weights += layers.count("c") * 2 * width**2  # query, out
    weights += layers.count("m") * 2 * width * hidden
    weights += config.vocab_size * width + config.head_transform * width**2
    keys_values = layers.count("c") * 2 * slots * width
    return Work(
        2 * rows * (weights + keys_values), weight_bytes * weights + 4 * images * keys_values
    )


def caption_ms(
    config: ModelConfig, slots: int, machine: Machine, tokens: int, images: int = 1, beams: int = 1
) -> float:
    """The shortest time for captions of `tokens` tokens, from pixels: encoder, keys and values, then each token."""
    fixed = encoding(config, images).ms(machine)
    fixed += projecting(config.decoder, slots, images).ms(machine)
    step = decoding(config.decoder, slots, images, images * beams)
    return fixed + tokens * step.ms(machine)
