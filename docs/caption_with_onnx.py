"""Caption a photo with onnxruntime, numpy, Pillow and tokenizers alone: python caption_with_onnx.py FOLDER PHOTO

FOLDER is what `vlm export FOLDER` wrote for a model that squashes photos to its size, as the bundled one does.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

MOST_TOKENS = 32


def caption(folder: Path, photo: str) -> str:
    """The greedy caption of a photo."""
    config = json.loads((folder / "config.json").read_text())
    if config["fit"] != "squash":
        raise SystemExit("this example squashes photos, and the model wants them cropped")
    encoder = onnxruntime.InferenceSession(folder / "encoder.onnx")
    step = onnxruntime.InferenceSession(folder / "step.onnx")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    keys, values, mask, *sure = encoder.run(None, {"pixels": pixels(photo, config)})
    names = [name[name >= 0].tolist() for name in sure[0]] if sure else []
    layers, heads, width = config["cache"]
    past_keys = past_values = np.zeros((layers, 1, heads, 0, width), np.float32)
    prompt, said = list(config["caption"]), []
    for position in range(len(prompt) + MOST_TOKENS):
        token = prompt[position] if position < len(prompt) else said[-1]
        inputs = {"ids": np.array([[token]]), "position": np.array([position])}
        inputs |= {"keys": keys, "values": values, "mask": mask}
        inputs |= {"past_keys": past_keys, "past_values": past_values}
        logits, past_keys, past_values = step.run(None, inputs)
        if position < len(prompt) - 1:
            continue
        if not said:
            logits[0, config["end"]] = -np.inf  # no words at all are no caption
        sure_next = {following(said, name) for name in names if name} - {None}
        logits[0, list(sure_next)] += config["nudge"]
        chosen = int(logits[0].argmax())
        if chosen == config["end"]:
            break
        said.append(chosen)
    return tokenizer.decode(said).strip()


def following(said: list[int], name: list[int]) -> int | None:
    """The token of a name, of what is surely in the picture, that goes on with a text; None where it is said."""
    for start in range(len(said)):
        if said[start : start + len(name)] == name:
            return None
    kept = next(n for n in range(len(name) - 1, -1, -1) if said[len(said) - n :] == name[:n])
    return name[kept]


def pixels(photo: str, config: dict) -> np.ndarray:
    """A photo as the encoder takes it, (1, 3, H, W)."""
    image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    height, width = config["size"]
    kind = Image.Resampling[config["interpolation"].upper()]
    values = np.asarray(image.resize((width, height), kind), np.float32) / 255
    values = (values - np.array(config["mean"], np.float32)) / np.array(config["std"], np.float32)
    return values.transpose(2, 0, 1)[None]


if __name__ == "__main__":
    print(caption(Path(sys.argv[1]), sys.argv[2]))
