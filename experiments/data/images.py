"""Images as memory-mapped arrays of bytes, decoded once and shared by all processes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.data import image_source
from experiments.data.cache import cache_key, cached, read_meta, write_meta
from experiments.data.held import held, rows
from experiments.data.parquet import Labelled, image_rows
from experiments.data.places import cache_dir
from experiments.errors import UserError, unknown
from experiments.messages import note

SPLITS = ("train", "valid")
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Images:
    """A data set.

    Attributes:
        train, valid: (N, C, H, W) bytes, memory-mapped.
        train_labels, valid_labels: (N,).
        classes: number of them.
        mean, std: of each channel of the training images, of pixels in 0 to 1.
        fingerprint: 16 digits of the content.
    """

    train: Tensor
    train_labels: Tensor
    valid: Tensor
    valid_labels: Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    def batch(self, index_B: Tensor, device: str | torch.device = "cpu") -> Tensor:
        """Training images (B, C, H, W), bytes, in a tenth of the time of `train[index_B]`."""
        return rows(self.train, self._key("train"), index_B, device)

    def labels(self, index_B: Tensor, device: str | torch.device = "cpu") -> Tensor:
        """Labels (B,) of training images, as fast."""
        return rows(self.train_labels, self._key("train_labels"), index_B, device)

    def place(self, device: str | torch.device) -> torch.device:
        """Where indices of images should be for batches on a device: where the images are."""
        return held(self.train, self._key("train"), device).device

    def _key(self, name: str) -> str:
        return f"images {self.fingerprint} {name}"


def load_images(data_source: str) -> Images:
    """The images of a data source, prepared in the cache at the first call.

    Raises:
        UserError: unknown data source, missing or damaged files, no room in the cache.
    """
    if data_source not in image_source.SHAPES or data_source == "imagenet":
        known = set(image_source.SHAPES) - {"imagenet"}
        raise unknown("data", data_source, known)
    folder, read = _origin(data_source)

    def fill(new: Path) -> None:
        label = image_source.LABELS[data_source]
        note(f"decoding {label} (once)")
        meta = _write(new, read())
        if data_source != "digits" and not image_source.is_canonical(data_source, meta):
            note(f"not the published {label}, though figures will call it so")

    return cached(folder, _read, fill)


def _origin(data_source: str) -> tuple[Path, Callable[[], Arrays]]:
    """Cache folder of a data source, and how to read it."""
    if data_source == "digits":
        return cache_dir() / f"digits-images-{image_source.RULES}", _digits
    files = image_source.files(data_source)
    if files is None:
        whole = image_source.prepared(data_source)
        if whole is None and data_source != "cifar10":
            folder, _ = image_source.LAYOUT[data_source]
            raise UserError(
                f"data={data_source}: MUPKIT_DATA is not set; "
                f"set it to the folder that holds {folder}"
            )
        cached_there = whole or cache_dir() / f"{data_source}-images-{image_source.RULES}-hub"
        return cached_there, lambda: _of_hub(data_source)

    def read() -> Arrays:
        rows = {s: chain.from_iterable(map(image_rows, files[s])) for s in SPLITS}
        return _decoded(data_source, rows)

    return cache_dir() / f"{data_source}-images-{image_source.RULES}-{cache_key(files)}", read


# Reading


def _digits() -> Arrays:
    """scikit-learn's digits, a fifth of them held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(pixels))
    parts = dict(zip(SPLITS, np.split(order, [len(order) * 4 // 5]), strict=True))
    arrays: Arrays = {split: pixels[index] for split, index in parts.items()}
    return arrays | {f"{s}_labels": data.target[i].astype(np.int64) for s, i in parts.items()}


def _of_hub(data_source: str) -> Arrays:
    """CIFAR-10 from the Hugging Face Hub. Not tried: written offline."""
    try:
        from datasets import Image, load_dataset

        data = load_dataset(image_source.CIFAR10_HUB[0]).cast_column("img", Image(decode=False))
        rows = {
            split: (
                (f"{name} {i}", row["img"]["bytes"], row["label"])
                for i, row in enumerate(data[name])
            )
            for split, name in zip(SPLITS, ("train", "test"), strict=True)
        }
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"data={data_source}: cannot be had from the Hugging Face Hub "
            f"({type(error).__name__}); set MUPKIT_DATA to a folder that holds it"
        ) from error
    return _decoded(data_source, rows)


def _decoded(data_source: str, rows: Mapping[str, Iterator[Labelled]]) -> Arrays:
    """Images as (N, 3, H, W) and their labels, numbered from 0 in the order of the originals.

    Names of classes are in alphabetical order, as the Hub numbers those of CIFAR-10 and ImageNet.
    """
    from PIL import Image

    size = round((image_source.SHAPES[data_source][0] / 3) ** 0.5)
    arrays: Arrays = {}
    labels: dict[str, list[int | str]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        pixels = []
        for name, encoded, label in rows[split]:
            try:
                image = np.asarray(Image.open(io.BytesIO(encoded or b"")).convert("RGB"))
            except Exception as error:  # whatever a damaged image makes the decoder raise
                raise UserError(
                    f"{name}: cannot be decoded ({error}); copy the file again"
                ) from error
            if image.shape != (size, size, 3):
                raise UserError(
                    f"{name}: {image.shape[:2]} pixels, not {size} x {size}; copy the file again"
                )
            if label is None:
                raise UserError(f"{name}: no label; copy the file again")
            pixels.append(image.transpose(2, 0, 1))
            labels[split].append(label)
        if not pixels:
            raise UserError(f"data={data_source}: no images in {split}; copy its files again")
        arrays[split] = np.stack(pixels)
    if len({type(label) for split in SPLITS for label in labels[split]}) > 1:
        raise UserError(
            f"data={data_source}: some labels are numbers and some are names of classes; copy its "
            "files again"
        )
    known = {label: i for i, label in enumerate(sorted({*labels["train"]}))}
    for label in labels["valid"]:
        if label not in known:
            raise UserError(
                f"data={data_source}: label {label} is in valid and not in train; "
                "copy its files again"
            )
    for split in SPLITS:
        arrays[f"{split}_labels"] = np.array([known[label] for label in labels[split]], np.int64)
    return arrays


# Cache


def _write(folder: Path, arrays: Arrays) -> dict[str, Any]:
    """Fill an empty folder with arrays; return what is known of them."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.shape}".encode() + array.tobytes())
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    train = arrays["train"].reshape(*arrays["train"].shape[:2], -1)
    levels = np.stack([np.bincount(c.reshape(-1), minlength=256) for c in train.swapaxes(0, 1)])
    shares, values = levels / levels.sum(1, keepdims=True), np.arange(256) / 255
    mean = shares @ values
    meta = {
        "counts": {split: len(arrays[split]) for split in SPLITS},
        "classes": int(arrays["train_labels"].max()) + 1,
        "mean": mean.tolist(),
        "std": np.sqrt(shares @ values**2 - mean**2).tolist(),
        "fingerprint": digest.hexdigest()[:16],
    }
    return write_meta(folder, meta)


def _read(folder: Path) -> Images | None:
    """The images in a cache folder; None if a file is missing or not what was written."""
    meta = read_meta(folder)
    if meta is None:
        return None
    # Copy on write: torch wants memory that it may write to, and never does.
    arrays = {
        name: torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False))
        for split in SPLITS
        for name in (split, f"{split}_labels")
    }
    return Images(
        **arrays,
        classes=meta["classes"],
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        fingerprint=meta["fingerprint"],
    )
