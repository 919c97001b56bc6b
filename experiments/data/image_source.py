"""Which images a model trains on, and where they are.

The workflow imports this module at every parse, so nothing slow is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from experiments.data import places
from experiments.data.places import data_root, hub_reachable, series, split_files
from experiments.errors import UserError, unknown

# Names of the data sources, with what a figure calls them.
CIFAR10_SOURCES = {"cifar10": "CIFAR-10", "digits": "scikit-learn's digits"}
IMAGENET_SOURCES = {
    "imagenet": "ImageNet",
    "tiny_imagenet": "100 classes of Tiny-ImageNet",
}
LABELS = {**CIFAR10_SOURCES, **IMAGENET_SOURCES}
# Numbers in an image as it is trained on, and classes.
SHAPES = {
    "cifar10": (3 * 32 * 32, 10),
    "digits": (8 * 8, 10),
    "tiny_imagenet": (3 * 64 * 64, 100),
    "imagenet": (3 * 224 * 224, 1000),
}
# Part of the cache's names: raise it when the same files give other arrays.
RULES = "1"
CIFAR10_HUB = ("uoft-cs/cifar10", "plain_text")  # repository and configuration
# Images of the canonical sets, and the mean of each channel of train; other files of the same name
# are another set. Encoding them anew as JPEG changes the means by less than `SLACK`.
COUNTS = {
    "cifar10": {"train": 50_000, "valid": 10_000},
    "tiny_imagenet": {"train": 20_000, "valid": 5_000},
}
MEANS = {"cifar10": (0.4914, 0.4822, 0.4465), "tiny_imagenet": (0.4821, 0.4508, 0.3990)}
SLACK = 1e-3
# Folder in MUPKIT_DATA, and names of the files by split.
LAYOUT = {
    "cifar10": ("cifar10/plain_text", {"train": "train", "valid": "test"}),
    "tiny_imagenet": ("tiny_imagenet_100/data", {"train": "train", "valid": "valid"}),
    "imagenet": ("imagenet-1k/data", {"train": "train", "valid": "validation"}),
}


def choose_cifar10(requested: str | None = None) -> str:
    """The data source of small images: CIFAR-10 if it can be had, else scikit-learn's digits.

    CIFAR-10 comes from `MUPKIT_DATA`, the cache, that of the library `datasets`, or the Hub if it
    answers.

    Raises:
        UserError: an unknown data source, or `MUPKIT_DATA` without the files of CIFAR-10.
    """
    if requested is not None and requested not in CIFAR10_SOURCES:
        raise unknown("data", requested, CIFAR10_SOURCES)
    if requested:
        return requested
    if files("cifar10") or prepared("cifar10"):
        return "cifar10"
    if places.in_library_cache(*CIFAR10_HUB) or hub_reachable():
        return "cifar10"
    return "digits"


def choose_imagenet(requested: str | None = None) -> str:
    """The data source of larger images: ImageNet if its files are there, else 100 classes of Tiny.

    Raises:
        UserError: an unknown data source, or neither can be had.
    """
    if requested is not None and requested not in IMAGENET_SOURCES:
        raise unknown("data", requested, IMAGENET_SOURCES)
    if requested:
        return requested
    root = data_root("imagenet-1k/data or tiny_imagenet_100/data")
    folder, splits = LAYOUT["imagenet"]
    if root and all(series(root / folder, name) for name in splits.values()):
        return "imagenet"
    if files("tiny_imagenet") or prepared("tiny_imagenet"):
        return "tiny_imagenet"
    raise UserError(
        "neither ImageNet nor Tiny-ImageNet can be had; set MUPKIT_DATA to the folder that holds "
        "imagenet-1k/data or tiny_imagenet_100/data"
    )


def files(data_source: str) -> dict[str, list[Path]] | None:
    """The Parquet files of each split in `MUPKIT_DATA`, or None if the variable is not set.

    Raises:
        UserError: the folder or the files are missing.
    """
    folder, splits = LAYOUT[data_source]
    return split_files(folder, splits, "digits" if data_source == "cifar10" else "")


def prepared(data_source: str) -> Path | None:
    """The cache folder of a whole canonical set, if an earlier run prepared it."""
    return places.prepared(f"{data_source}-images-{RULES}-*", partial(is_canonical, data_source))


def is_canonical(data_source: str, meta: Mapping[str, Any]) -> bool:
    """Whether what is known of prepared images is what is known of the canonical set."""
    means = zip(meta["mean"], MEANS[data_source], strict=True)
    near = all(abs(found - wanted) < SLACK for found, wanted in means)
    return near and bool(meta["counts"] == COUNTS[data_source])
