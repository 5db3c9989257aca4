"""`torch.compile` takes the encoder and the decoder whole, and changes no word; docs/gpu.md says so."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks.compiling import compile_parts
from vlm.captioner import Captioner

PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def compiled(tiny: Captioner) -> Captioner:
    torch.compiler.reset()
    counters.clear()
    same = Captioner(copy.deepcopy(tiny.model), tiny.tokenizer)
    compile_parts(same, backend="eager")  # traced, and run as it was: no compiler is needed
    return same


def test_words_and_maps_stay_and_no_graph_breaks(tiny: Captioner, compiled: Captioner) -> None:
    plain, quick = tiny.encode(PHOTO), compiled.encode(PHOTO)
    for beams in (1, 3):
        expected = plain.caption(beams=beams, min_tokens=12, max_tokens=12)
        answer = quick.caption(beams=beams, min_tokens=12, max_tokens=12)
        assert answer.ids == expected.ids
        assert answer.score == pytest.approx(expected.score, abs=1e-5)
    for ours, theirs in zip(answer.maps(), expected.maps(), strict=True):
        assert abs(ours.weights - theirs.weights).max() < 1e-5
    assert not counters["graph_break"]
    # Twelve lengths, and no graph for each: the encoder's, a prompt's, a word's, those of beams, and of maps.
    assert counters["stats"]["unique_graphs"] <= 8
