"""A frozen encoder's patches, computed once: half precision on disk, memory-mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import ImageOps
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.data.records import DataError, ImageRef
from vlm.images import ImageError, Preprocess, load_image
from vlm.vision import VisionEncoder, folded


def fingerprint(encoder: VisionEncoder) -> str:
    """Sixteen hex digits that change with the encoder's weights or its preprocessing."""
    digest = hashlib.sha256(repr(encoder.config).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class _Pixels(Dataset):
    def __init__(
        self, keys: Sequence[tuple[str, bool]], images: dict[str, ImageRef], preprocess: Preprocess
    ):
        self.keys, self.images, self.preprocess = keys, images, preprocess

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Tensor | None:
        key, flipped = self.keys[index]
        try:
            image = load_image(self.images[key].read())
        except (ImageError, DataError):
            return None
        return self.preprocess(ImageOps.mirror(image) if flipped else image)[0]


def _collate(rows: list[Tensor | None]) -> tuple[Tensor, list[bool]]:
    good = [row for row in rows if row is not None]
    return (torch.stack(good) if good else torch.empty(0)), [row is not None for row in rows]


class FeatureCache:
    """Patches by image key: `cache[key]` is `(N, D)` float16; a mirrored image has a row of its own.

    The folder holds `features.npy` and `index.json`; it belongs to one encoder (see `fingerprint`), and opening
    it with another raises ValueError. An image that cannot be read has no row and is named in `unreadable`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = json.loads((self.folder / "index.json").read_text())
        self.grid: tuple[int, int] = tuple(index["grid"])
        self.fingerprint: str = index["fingerprint"]
        self.unreadable: list[str] = index["unreadable"]
        self._rows: dict[str, int] = index["rows"]
        self._features = np.load(self.folder / "features.npy", mmap_mode="r")

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def get(self, keys: Sequence[str], flipped: Sequence[bool] | None = None) -> Tensor:
        """Patches `(B, N, D)` in float16; `flipped[i]` asks for the mirrored image."""
        flipped = flipped or [False] * len(keys)
        rows = [self._rows[_name(key, flip)] for key, flip in zip(keys, flipped, strict=True)]
        return torch.from_numpy(self._features[rows])

    @classmethod
    def build(
        cls,
        folder: str | Path,
        encoder: VisionEncoder,
        images: Iterable[ImageRef],
        mirrored: Iterable[ImageRef] = (),
        batch_size: int = 4,
        workers: int = 1,
    ) -> FeatureCache:
        """Encode what the folder does not hold yet, and open it.

        `images` are encoded as they are, `mirrored` also left-right reversed.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        mark = fingerprint(encoder)
        refs = {image.key: image for image in images}
        flips = {image.key: image for image in mirrored}
        wanted = [(key, False) for key in refs] + [(key, True) for key in flips]
        refs |= flips

        index_path = folder / "index.json"
        index = {"fingerprint": mark, "grid": None, "rows": {}, "unreadable": []}
        if index_path.exists():
            index = json.loads(index_path.read_text())
            if index["fingerprint"] != mark:
                raise ValueError(
                    f"{folder} holds features of another encoder or image size; choose another folder or delete it"
                )
        known = set(index["rows"]) | set(index["unreadable"])
        todo = [pair for pair in wanted if _name(*pair) not in known]
        if todo:
            _extend(folder, index, todo, refs, encoder, batch_size, workers)
            temporary = index_path.with_suffix(".tmp")
            temporary.write_text(json.dumps(index))
            temporary.replace(index_path)
        return cls(folder)


def _name(key: str, flipped: bool) -> str:
    return f"{key}|mirrored" if flipped else key


def _extend(
    folder: Path,
    index: dict,
    todo: list[tuple[str, bool]],
    refs: dict[str, ImageRef],
    encoder: VisionEncoder,
    batch_size: int,
    workers: int,
) -> None:
    loader = DataLoader(
        _Pixels(todo, refs, encoder.config.preprocess),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
    )
    encoder = folded(encoder)
    path = folder / "features.npy"
    old = np.load(path, mmap_mode="r") if path.exists() else None
    start = 0 if old is None else len(old)
    new = None
    row, position = start, 0
    for pixels, good in track(loader, description="encoding images"):
        names = [_name(*pair) for pair in todo[position : position + len(good)]]
        position += len(good)
        index["unreadable"] += [name for name, ok in zip(names, good, strict=True) if not ok]
        if not any(good):
            continue
        with torch.inference_mode():
            patches, grid = encoder(pixels.to(memory_format=torch.channels_last))
        if new is None:
            index["grid"] = list(grid)
            shape = (start + len(todo), *patches.shape[1:])
            new = np.lib.format.open_memmap(
                path.with_suffix(".tmp.npy"), mode="w+", dtype=np.float16, shape=shape
            )
            if old is not None:
                new[:start] = old
        new[row : row + len(patches)] = patches.half().numpy()
        for name in (name for name, ok in zip(names, good, strict=True) if ok):
            index["rows"][name] = row
            row += 1
    if new is not None:
        new.flush()
        path.with_suffix(".tmp.npy").replace(path)
