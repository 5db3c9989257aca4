"""open_clip's CoCa beside ours, in a process of its own.

Its `generate` imports what transformers dropped after 4.56, so the process sees an older transformers, and all else
(torch, timm, open_clip, ours) as it is here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import open_clip
import torch
from open_clip.push_to_hf_hub import save_for_hf
from PIL import Image

import vlm
from benchmarks.roofline import Machine, caption_ms
from benchmarks.timing import Ids, Row, compare, timed
from vlm.weights.convert import convert

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = [
    "transformers==4.56.2",
    "huggingface-hub==0.36.2",
    "tokenizers==0.22.2",
    "requests==2.32.5",
    "urllib3==2.5.0",
    "charset-normalizer==3.4.4",
]
TINY = {
    "embed_dim": 24,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 8,
        "patch_size": 8,
        "attentional_pool": True,
        "attn_pooler_queries": 7,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "text_cfg": {"context_length": 76, "vocab_size": 49408, "width": 24, "heads": 4, "layers": 2},
    "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 24, "heads": 4}
    | {"layers": 2, "attn_pooler_heads": 4},
    "custom_text": True,
}
TINY["text_cfg"] |= {"embed_cls": True, "output_tokens": True}


def packages() -> Path:
    """The folder of the older packages, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return cache / "vlm" / "benchmarks" / PACKAGES[0].replace("==", "-")


def install() -> None:
    """Fetch the older packages, once. Raises CalledProcessError when pip fails."""
    if not packages().is_dir():
        part = packages().with_name("part")
        command = ["pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(part)]
        subprocess.run([sys.executable, "-m", *command, *PACKAGES], check=True)
        part.rename(packages())


def build(folder: Path, tiny: bool = False) -> None:
    """laion/mscoco_finetuned_CoCa-ViT-B-32 with random weights, as the hub has it."""
    # Not for the process that sees the older transformers.
    from transformers import CLIPTokenizer

    from benchmarks.peers import randomise

    config = TINY if tiny else open_clip.get_model_config("coca_ViT-B-32")
    parts = {name: value for name, value in config.items() if name != "custom_text"}
    model = open_clip.CoCa(**parts).eval()
    randomise(model)
    model.visual.image_mean = open_clip.OPENAI_DATASET_MEAN
    model.visual.image_std = open_clip.OPENAI_DATASET_STD
    theirs = open_clip.tokenizer.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in theirs.encoder.items()}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=list(theirs.bpe_ranks))
    save_for_hf(model, tokenizer, config, str(folder), safe_serialization=True)


def measure(folder: Path, picture: Path, tokens: int, repeats: int, machine: Machine) -> list[Row]:
    """Captions of `tokens` tokens, measured in a process that has the older packages. Raises CalledProcessError."""
    limits = json.dumps(asdict(machine))
    arguments = [str(folder), str(picture), str(tokens), str(repeats), limits]
    paths = os.pathsep.join([str(packages()), str(ROOT)])
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.coca", *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [Row.from_record(row) for row in json.loads(result.stdout.splitlines()[-1])]


class Peer:
    """open_clip's model of a folder."""

    def __init__(self, folder: Path) -> None:
        name = f"local-dir:{folder}"
        self.model, self.transform = open_clip.create_model_from_pretrained(name)
        self.model.eval()
        # open_clip loads its tokenizer from the hub's files; the ids of start and end are CLIP's.
        self.end = 49407

    @torch.inference_mode()
    def caption(self, picture: Image.Image, beams: int, tokens: int) -> Ids:
        """One caption; a single beam is its "top_k" of one."""
        pixels = self.transform(picture)[None]
        search = {"generation_type": "beam_search", "num_beams": beams, "num_beam_groups": 1}
        if beams == 1:
            search = {"generation_type": "top_k", "top_k": 1}
        sequences = self.model.generate(pixels, seq_len=tokens + 1, min_seq_len=tokens, **search)
        return sequences[:, 1:].tolist()


def rows(folder: Path, picture: Path, tokens: int, repeats: int, machine: Machine) -> list[Row]:
    """Greedy captions and captions of three beams."""
    convert(folder, folder / "ours")
    ours, peer = vlm.load(folder / "ours"), Peer(folder)
    config = ours.model.config
    # In the model's own size no side resizes, and the pixels are the same.
    photo = Image.open(picture).convert("RGB").resize(config.vision.preprocess.size)
    slots = config.adapter.queries
    result = []
    for beams, name in ((1, "greedy"), (3, "3 beams")):
        options = {"beams": beams, "min_tokens": tokens, "max_tokens": tokens}

        def our_caption(options: dict[str, int] = options) -> Ids:
            # The last token is left out: open_clip's greedy search puts its end there.
            return [list(ours.encode(photo).caption(**options).ids)[:-1]]

        def their_caption(beams: int = beams) -> Ids:
            return [ids[: tokens - 1] for ids in peer.caption(photo, beams, tokens)]

        result.append(
            compare(
                "coca",
                f"caption of {tokens} tokens, {name}",
                timed(our_caption),
                timed(their_caption),
                repeats,
                limit=caption_ms(config, slots, machine, tokens, beams=beams),
                least_ratio=4 if beams == 3 else None,
                note=f"beside transformers {version('transformers')}",
            )
        )
    return result


def main(folder: str, picture: str, tokens: str, repeats: str, limits: str) -> None:
    machine = Machine(**json.loads(limits))
    measured = rows(Path(folder), Path(picture), int(tokens), int(repeats), machine)
    print(json.dumps([row.as_record() for row in measured]))


if __name__ == "__main__":
    main(*sys.argv[1:])
