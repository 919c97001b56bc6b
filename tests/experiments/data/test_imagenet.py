"""Encoded images that are decoded batch by batch."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from experiments.data import imagenet
from experiments.data.imagenet import Crops, EncodedImages, draw_crops, load_imagenet
from experiments.errors import UserError

DATA = os.environ.get("MUPKIT_DATA")
SIZES = [(300, 240), (64, 64), (200, 500), (30, 400), (256, 256)]  # width, height


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MUPKIT_DATA", raising=False)


def pictures() -> list[Image.Image]:
    """A grey one among them; smooth, so that a shift of the crop shows."""
    made = []
    for i, (width, height) in enumerate(SIZES):
        y, x = np.mgrid[:height, :width]
        rgb = np.stack([x * 255 // width, y * 255 // height, (x + y + 40 * i) % 256], 2)
        made.append(Image.fromarray(rgb.astype(np.uint8)))
    return [made[0].convert("L"), *made[1:]]


def write(path: Path, encoded: list[bytes], labels: list[int], column: str = "image") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {column: [{"bytes": b, "path": None} for b in encoded], "label": labels}
    pq.write_table(pa.table(table), path)


def encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Path]]:
    """Two files of train and one of valid, laid out like ImageNet, in `MUPKIT_DATA`."""
    folder = tmp_path / "data" / "imagenet-1k" / "data"
    encoded = [encode(picture) for picture in pictures()]
    train = [folder / f"train-{i:05d}-of-00002.parquet" for i in range(2)]
    write(train[0], encoded[:3], [4, 0, 999])
    write(train[1], encoded[3:], [7, 1])
    valid = [folder / "validation-00000-of-00001.parquet"]
    write(valid[0], encoded, [0, 1, 2, 3, 4])
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "data"))
    return {"train": train, "valid": valid}


def user_error(pattern: str) -> Any:
    return pytest.raises(UserError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def crops_of(count: int, **values: torch.Tensor) -> Crops:
    """Drawn crops, some values set."""
    drawn = draw_crops(torch.Generator().manual_seed(0), count)
    return Crops(**{**drawn.__dict__, **values})


def test_held_out_images_are_the_middle(files: dict[str, list[Path]]) -> None:
    images = load_imagenet()["valid"]
    decoded = images.decode(torch.arange(5))
    assert decoded.shape == (5, 3, 224, 224) and decoded.dtype == torch.uint8
    for picture, got in zip(pictures(), decoded, strict=True):
        rgb = picture.convert("RGB")
        factor = 256 / min(rgb.size)
        size = [int(side * factor + 1e-6) for side in rgb.size]
        left, top = (round((side - 224) / 2) for side in size)
        large = np.asarray(rgb.resize(size, Image.Resampling.BILINEAR))
        expected = large[top : top + 224, left : left + 224].transpose(2, 0, 1)
        assert np.array_equal(got.numpy(), expected)


def test_any_order_over_files_and_labels(files: dict[str, list[Path]]) -> None:
    images = load_imagenet()["train"]
    assert len(images) == 5 and images.labels.tolist() == [4, 0, 999, 7, 1]
    order = torch.tensor([4, 0, 3, 3, 1])
    crops = crops_of(5)
    batch = images.decode(order, crops)
    for i, index in enumerate(order):
        one = Crops(*(v[i : i + 1] for v in crops.__dict__.values()))
        assert torch.equal(images.decode(index[None], one)[0], batch[i])


def test_crop_is_what_was_drawn(files: dict[str, list[Path]]) -> None:
    """128 wide, 96 high, at a corner, mirrored: the same by slices of the pixels."""
    images = load_imagenet()["train"]
    area = torch.full((1, imagenet.TRIES), 3 / 16, dtype=torch.float64)
    ratio = torch.full_like(area, 4 / 3)
    rgb = pictures()[4]
    for place, rows, columns in (
        ((0.0, 0.0), slice(0, 96), slice(0, 128)),
        ((0.999999, 0.0), slice(160, 256), slice(0, 128)),
        ((0.0, 0.999999), slice(0, 96), slice(128, 256)),
    ):
        for flip in (False, True):
            crops = Crops(
                area, ratio, torch.tensor([place], dtype=torch.float64), torch.tensor([flip])
            )
            got = images.decode(torch.tensor([4]), crops)[0].numpy().transpose(1, 2, 0)
            part = Image.fromarray(np.asarray(rgb)[rows, columns])
            expected = np.asarray(part.resize((224, 224), Image.Resampling.BILINEAR))
            assert np.array_equal(got, expected[:, ::-1] if flip else expected)


def test_the_first_try_that_fits_counts(files: dict[str, list[Path]]) -> None:
    images = load_imagenet()["train"]
    index = torch.tensor([4])
    drawn = crops_of(1)
    # A whole square image cannot be cut wider than high.
    area = torch.cat([torch.ones(1, 3, dtype=torch.float64), drawn.area[:, 3:]], 1)
    ratio = torch.cat([torch.full((1, 3), 4 / 3, dtype=torch.float64), drawn.ratio[:, 3:]], 1)
    late = Crops(area, ratio, drawn.place, drawn.flip)
    early = Crops(drawn.area.roll(-3, 1), drawn.ratio.roll(-3, 1), drawn.place, drawn.flip)
    assert torch.equal(images.decode(index, late), images.decode(index, early))


def test_no_try_fits_a_narrow_image(files: dict[str, list[Path]]) -> None:
    """30 x 400: whole width, 4/3 of it as height, in the middle."""
    images = load_imagenet()["train"]
    whole = torch.ones(1, imagenet.TRIES, dtype=torch.float64)
    crops = crops_of(1, area=whole, ratio=whole, flip=torch.tensor([False]))
    got = images.decode(torch.tensor([3]), crops)[0].numpy().transpose(1, 2, 0)
    middle = pictures()[3].crop((0, 180, 30, 220))
    expected = np.asarray(middle.resize((224, 224), Image.Resampling.BILINEAR))
    assert np.array_equal(got, expected)


def test_draws_are_in_their_ranges_and_need_no_image() -> None:
    crops = draw_crops(torch.Generator().manual_seed(0), 4000)
    assert 0.08 <= crops.area.min() < 0.09 and 0.99 < crops.area.max() <= 1
    assert abs(crops.area.mean() - 0.54) < 0.01
    assert 0.75 <= crops.ratio.min() < 0.76 and 1.32 < crops.ratio.max() <= 4 / 3 + 1e-9
    assert abs(crops.ratio.log().mean()) < 0.01  # as often higher as wider
    assert crops.place.min() >= 0 and crops.place.max() < 1
    assert abs(crops.flip.double().mean() - 0.5) < 0.03
    again = draw_crops(torch.Generator().manual_seed(0), 4000)
    assert all(torch.equal(v, getattr(again, name)) for name, v in crops.__dict__.items())


def test_fingerprint_of_changed_files(files: dict[str, list[Path]]) -> None:
    first = load_imagenet()
    assert load_imagenet()["train"].fingerprint == first["train"].fingerprint
    assert first["train"].fingerprint != first["valid"].fingerprint
    write(files["train"][1], [encode(picture) for picture in pictures()[3:]], [7, 2])
    changed = load_imagenet()["train"]
    assert changed.labels.tolist() == [4, 0, 999, 7, 2]
    assert changed.fingerprint != first["train"].fingerprint


def test_fingerprint_is_of_the_rows_however_files_divide_them(
    files: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_imagenet()["train"].fingerprint
    for path in files["train"]:
        path.unlink()
    one = files["train"][0].with_name("train-00000-of-00001.parquet")
    encoded = [encode(picture) for picture in pictures()]
    write(one, encoded, [4, 0, 999, 7, 1])
    assert load_imagenet()["train"].fingerprint == first
    write(one, [*encoded[:4], encoded[3]], [4, 0, 999, 7, 1])
    assert load_imagenet()["train"].fingerprint != first


def test_missing_data_name_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with user_error("MUPKIT_DATA is not set.*imagenet-1k/data"):
        load_imagenet()
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path))
    with user_error(f"MUPKIT_DATA: {tmp_path}/imagenet-1k/data"):
        load_imagenet()


def test_damaged_file_is_named(files: dict[str, list[Path]]) -> None:
    path = files["train"][1]
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    with user_error(f"{path}.*copy the file again"):
        load_imagenet()
    # The footer is whole, a page is not.
    path.write_bytes(content[:200] + b"\0" * 300 + content[500:])
    with user_error("imagenet-1k/data.*copy the files again"):
        load_imagenet()


def test_missing_column_is_named(files: dict[str, list[Path]]) -> None:
    write(files["valid"][0], [b""], [0], column="picture")
    with user_error(f"{files['valid'][0]}.*image"):
        load_imagenet()


def test_undecodable_image_is_named_with_its_row(files: dict[str, list[Path]]) -> None:
    write(files["train"][1], [b"text", encode(pictures()[0])], [0, 1])
    images = load_imagenet()["train"]
    images.decode(torch.tensor([0, 1, 2, 4]))
    with user_error(f"{files['train'][1]}, row 0: cannot be decoded.*copy the file again"):
        images.decode(torch.arange(5))


@pytest.fixture
def tiny_imagenet() -> Iterator[EncodedImages]:
    folder = Path(str(DATA)) / "tiny_imagenet_100" / "data"
    yield EncodedImages(sorted(folder.glob("valid-*.parquet")))


@pytest.mark.data
def test_tiny_imagenet(tiny_imagenet: EncodedImages) -> None:
    assert torch.bincount(tiny_imagenet.labels).tolist() == [50] * 100
    generator = torch.Generator().manual_seed(0)
    index = torch.randperm(len(tiny_imagenet), generator=generator)[:32]
    batch = tiny_imagenet.decode(index, draw_crops(generator, 32))
    assert batch.shape == (32, 3, 224, 224)
    means = (batch / 255).mean((0, 2, 3))
    assert torch.allclose(means, torch.tensor(imagenet.MEAN), atol=0.1)
