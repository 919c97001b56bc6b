"""A small parallel corpus: each word of the target is that of the source spelled backwards."""

import random
from pathlib import Path

from tests.data_series import write_split

COUNTS = {"train": 300, "validation": 24, "test": 8}


def write(root: Path, folder: str) -> None:
    """Parquet files of a folder with the columns `de` and `en`."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghiklmnoprstu", k=draw.randint(3, 7))) for _ in range(80)]
    for split, count in COUNTS.items():
        lines = [draw.choices(words, k=draw.randint(2, 7)) for _ in range(count)]
        texts = {
            "de": [" ".join(line) for line in lines],
            "en": [" ".join(word[::-1] for word in line) for line in lines],
        }
        write_split(root / folder, split, texts)
