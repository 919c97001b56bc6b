"""ImageNet as encoded images that are decoded batch by batch, for the paper's scale.

Tried on Tiny-ImageNet's files, which have the same layout; not on ImageNet, nor on a GPU.

Axes: B batch, T tries, C channels, S side of a square image.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from experiments.data import image_source
from experiments.data.parquet import encoded, image_columns, opened
from experiments.data.places import cache_dir
from experiments.errors import UserError

SIDE, SHORT = 224, 256  # of a crop; the shorter side of a held-out image before its crop
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # share of the image's area; width over height
TRIES = 10
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in 0 to 1
BILINEAR, MIRROR = Image.Resampling.BILINEAR, Image.Transpose.FLIP_LEFT_RIGHT


@dataclass(frozen=True)
class Crops:
    """The crop of each image in a batch; it does not depend on the image's size.

    Attributes:
        area, ratio: (B, T) share of the image's area, width over height; the first try that fits.
        place: (B, 2) in 0 to 1, where between the top left and the bottom right.
        flip: (B,) whether it is mirrored.
    """

    area: Tensor
    ratio: Tensor
    place: Tensor
    flip: Tensor


def draw_crops(generator: torch.Generator, batch: int) -> Crops:
    """Draw the crops of a batch."""
    area, ratio = torch.rand((2, batch, TRIES), generator=generator, dtype=torch.float64)
    place = torch.rand((batch, 2), generator=generator, dtype=torch.float64)
    flip = torch.randint(2, (batch,), generator=generator).bool()
    low, high = map(math.log, RATIO)
    area = SCALE[0] + area * (SCALE[1] - SCALE[0])
    return Crops(area, (low + ratio * (high - low)).exp(), place, flip)


class EncodedImages:
    """One split of a data set in Parquet files, copied once to Arrow files that are memory-mapped.

    Args:
        paths: its Parquet files.

    Attributes:
        labels: (N,).
        fingerprint: 16 digits of the labels and of each encoded image's size, not of the pixels.

    Raises:
        UserError: damaged files, or no room in the cache.
    """

    def __init__(self, paths: list[Path]):
        from datasets import Image as Encoded
        from datasets import load_dataset

        self.paths, (self.column, label) = paths, image_columns(paths[0])
        self.starts = np.cumsum([0, *map(_count, paths)])
        try:
            data = load_dataset(
                "parquet",
                data_files=[str(path) for path in paths],
                split="train",
                cache_dir=str(cache_dir() / "datasets"),
            )
            self.data: Any = data.cast_column(self.column, Encoded(decode=False))
            self.labels = torch.tensor(np.asarray(data.data[label]), dtype=torch.int64)
            sizes = _sizes(self.data.data[self.column])
        except Exception as error:  # the library raises many kinds
            raise UserError(
                f"{paths[0].parent}: cannot be prepared in {cache_dir()} ({_line(error)}); copy "
                "the files again, or set MUPKIT_CACHE to a folder with room"
            ) from error
        digest = hashlib.sha256(sizes.tobytes() + self.labels.numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:16]
        self.pool = ThreadPoolExecutor(os.cpu_count())  # decoding lets go of the interpreter

    def __len__(self) -> int:
        return len(self.labels)

    def decode(self, index_B: Tensor, crops: Crops | None = None) -> Tensor:
        """Images (B, 3, S, S) of bytes: cut as drawn, or the centre as for held-out images.

        Raises:
            UserError: an image that cannot be decoded.
        """
        values = self.data[index_B.tolist()][self.column]

        def one(i: int) -> Tensor:
            where = self._name(int(index_B[i]))
            content = encoded(where, values[i])
            try:
                image = Image.open(io.BytesIO(content or b"")).convert("RGB")
            except Exception as error:  # whatever a damaged image makes the decoder raise
                raise UserError(
                    f"{where}: cannot be decoded ({_line(error)}); copy the file again"
                ) from error
            pixels = np.array(_centre(image) if crops is None else _cut(image, crops, i))
            return torch.from_numpy(pixels).permute(2, 0, 1)

        return torch.stack(list(self.pool.map(one, range(len(index_B)))))

    def _name(self, index: int) -> str:
        file = int(np.searchsorted(self.starts, index, "right")) - 1
        return f"{self.paths[file]}, row {index - self.starts[file]}"


def load_imagenet() -> dict[str, EncodedImages]:
    """ImageNet's `train` and `valid` from `MUPKIT_DATA`.

    Raises:
        UserError: missing or damaged files.
    """
    files = image_source.files("imagenet")
    if files is None:
        folder, _ = image_source.LAYOUT["imagenet"]
        raise UserError(f"MUPKIT_DATA is not set; set it to the folder that holds {folder}")
    return {split: EncodedImages(paths) for split, paths in files.items()}


def _count(path: Path) -> int:
    """Rows of a Parquet file, by its footer."""
    with opened(path) as file:
        rows: int = file.metadata.num_rows
    return rows


def _sizes(column: Any) -> NDArray[np.int64]:
    """Bytes of each encoded image (N,), -1 where there is none."""
    from pyarrow import compute

    sizes = compute.binary_length(compute.struct_field(column, "bytes"))
    return np.asarray(compute.fill_null(sizes, -1), np.int64)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _cut(image: Image.Image, crops: Crops, i: int) -> Image.Image:
    """The crop of the first try that fits, or the middle if none does, resized to `SIDE`."""
    width, height = image.size
    for area, ratio in zip(crops.area[i].tolist(), crops.ratio[i].tolist(), strict=True):
        w = round((area * width * height * ratio) ** 0.5)
        h = round((area * width * height / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            down, right = crops.place[i].tolist()
            break
    else:
        w = min(width, round(height * RATIO[1]))
        h = min(height, round(width / RATIO[0]))
        down = right = 0.5
    left, top = int(right * (width - w + 1)), int(down * (height - h + 1))
    part = image.crop((left, top, left + w, top + h)).resize((SIDE, SIDE), BILINEAR)
    return part.transpose(MIRROR) if crops.flip[i] else part


def _centre(image: Image.Image) -> Image.Image:
    """The middle of an image, after its shorter side is resized to `SHORT`."""
    width, height = image.size
    short = min(width, height)
    width, height = (SHORT * side // short for side in (width, height))
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    return image.resize((width, height), BILINEAR).crop((left, top, left + SIDE, top + SIDE))
