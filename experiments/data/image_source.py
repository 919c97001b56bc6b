"""Which images a model trains on, and where they are.

The workflow imports this module at every parse, so nothing slow is imported here.
"""

from __future__ import annotations

from pathlib import Path

from experiments.data import places
from experiments.data.places import data_fix, data_root, hub_reachable
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
# Images of the canonical sets; other files of the same name are another set.
PUBLISHED = {
    "cifar10": {"train": 50_000, "valid": 10_000},
    "tiny_imagenet": {"train": 20_000, "valid": 5_000},
}
# Folder in MUPKIT_DATA, names of the files by split, and the column of images.
LAYOUT = {
    "cifar10": ("cifar10/plain_text", {"train": "train", "valid": "test"}, "img"),
    "tiny_imagenet": ("tiny_imagenet_100/data", {"train": "train", "valid": "valid"}, "image"),
    "imagenet": ("imagenet-1k/data", {"train": "train", "valid": "validation"}, "image"),
}


def choose_cifar10(requested: str | None = None) -> str:
    """The data source of small images: CIFAR-10 if it can be had, else scikit-learn's digits.

    CIFAR-10 comes from `MUPKIT_DATA`, the cache, or the Hub if it answers.

    Raises:
        UserError: an unknown data source, or `MUPKIT_DATA` without the files of CIFAR-10.
    """
    if requested is not None and requested not in CIFAR10_SOURCES:
        raise unknown("data", requested, CIFAR10_SOURCES)
    if requested:
        return requested
    if files("cifar10") or prepared("cifar10") or hub_reachable():
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
    if root and all(_found(root, "imagenet").values()):
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
    folder, splits, _ = LAYOUT[data_source]
    built_in = "digits" if data_source == "cifar10" else ""
    root = data_root(folder, built_in)
    if root is None:
        return None
    found = _found(root, data_source)
    if not all(found.values()):
        names = ", ".join(f"{name}-*.parquet" for name in splits.values())
        raise UserError(
            f"MUPKIT_DATA: {root / folder} does not hold {names}; {data_fix(folder, built_in)}"
        )
    return found


def _found(root: Path, data_source: str) -> dict[str, list[Path]]:
    folder, splits, _ = LAYOUT[data_source]
    return {
        split: sorted((root / folder).glob(f"{name}-*.parquet")) for split, name in splits.items()
    }


def prepared(data_source: str) -> Path | None:
    """The cache folder of a whole canonical set, if an earlier run prepared it."""
    return places.prepared(f"{data_source}-images-*", PUBLISHED.get(data_source))
