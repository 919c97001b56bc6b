"""DataSources of images, their arrays and the cache."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from PIL import Image

from experiments.data import image_source, places
from experiments.data.cache import write_meta
from experiments.data.images import Images, load_images
from experiments.errors import UserError
from tests.data_series import write_split

PROJECT = Path(__file__).parents[3]
DATA = os.environ.get("MUPKIT_DATA")

COUNTS = {"train": 20, "valid": 10}
FOLDERS = {"cifar10": "cifar10/plain_text", "tiny_imagenet": "tiny_imagenet_100/data"}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but what a test asks for, no network, an empty cache."""
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MUPKIT_DATA", raising=False)
    places.hub_reachable.cache_clear()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(split: str, size: int) -> tuple[list[bytes], list[int], np.ndarray]:
    """Encoded images without loss, labels, and the pixels (N, H, W, 3)."""
    rng = np.random.default_rng(sorted(COUNTS).index(split))
    pixels = rng.integers(256, size=(COUNTS[split], size, size, 3), dtype=np.uint8)
    return [png(p) for p in pixels], [i % 10 for i in range(len(pixels))], pixels


def image_table(
    column: str, images: list[Any], labels: Any, *, name: str | None = None
) -> pa.Table:
    encoded = [{"bytes": image, "path": name} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({column: pa.array(encoded, kind), "label": labels})


def write(path: Path, *columns: Any, **more: Any) -> None:
    pq.write_table(image_table(*columns, **more), path)


def write_tiny(root: Path, name: str = "cifar10") -> dict[str, Path]:
    """A few random images in the layout of a source; their files by split."""
    folder, splits = image_source.LAYOUT[name]
    size, column = (32, "img") if name == "cifar10" else (64, "image")
    paths = {}
    for split, file in splits.items():
        (paths[split],) = write_split(
            root / folder, file, image_table(column, *rows(split, size)[:2])
        )
    return paths


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The files of a few images laid out like CIFAR-10, in `MUPKIT_DATA`."""
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "data"))
    return write_tiny(tmp_path / "data")


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what takes seconds to decode."""
    return tmp_path_factory.mktemp("shared")


def user_error(pattern: str) -> Any:
    """Expects a UserError of one line."""
    return pytest.raises(UserError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def same(one: Images, other: Images) -> bool:
    tensors = ("train", "train_labels", "valid", "valid_labels")
    return one.fingerprint == other.fingerprint and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in tensors
    )


# Choice of the source


def test_choosing_a_source_imports_nothing_heavy() -> None:
    code = (
        "import sys, experiments.data.image_source;"
        "heavy = {'torch', 'numpy', 'pandas', 'pyarrow', 'datasets', 'PIL', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_source_has_a_label_and_a_shape() -> None:
    known = {*image_source.CIFAR10_SOURCES, *image_source.IMAGENET_SOURCES}
    assert known == set(image_source.SHAPES) and known <= set(image_source.LABELS)


def test_cifar10_is_taken_if_it_is_there(tiny: dict[str, Path]) -> None:
    assert image_source.choose_cifar10() == "cifar10"
    assert image_source.choose_cifar10("digits") == "digits"


def test_offline_without_data_is_digits() -> None:
    assert image_source.choose_cifar10() == "digits"
    assert image_source.choose_cifar10("cifar10") == "cifar10"


def test_the_hub_is_used_if_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_source, "hub_reachable", lambda: True)
    assert image_source.choose_cifar10() == "cifar10"


def test_imagenet_goes_before_tiny_imagenet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "data"))
    write_tiny(tmp_path / "data", "tiny_imagenet")
    assert image_source.choose_imagenet() == "tiny_imagenet"
    write_tiny(tmp_path / "data", "imagenet")
    assert image_source.choose_imagenet() == "imagenet"
    assert image_source.choose_imagenet("tiny_imagenet") == "tiny_imagenet"


def test_neither_imagenet_names_the_folders() -> None:
    with user_error("MUPKIT_DATA.*imagenet-1k/data.*tiny_imagenet_100/data"):
        image_source.choose_imagenet()


@pytest.mark.parametrize(
    "function",
    [image_source.choose_cifar10, image_source.choose_imagenet, load_images],
)
def test_unknown_source_lists_the_allowed(function: Any) -> None:
    with user_error("unknown data 'cifar'.*allowed: "):
        function("cifar")


@pytest.mark.parametrize("split", COUNTS)
def test_missing_file_is_named(tiny: dict[str, Path], split: str) -> None:
    tiny[split].unlink()
    for function in (lambda: image_source.choose_cifar10(), lambda: load_images("cifar10")):
        with user_error(f"MUPKIT_DATA: {tiny[split].parent} .*set MUPKIT_DATA"):
            function()


def test_other_data_are_not_taken_for_cifar10_later(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load_images("cifar10")
    monkeypatch.delenv("MUPKIT_DATA")
    assert image_source.prepared("cifar10") is None
    assert image_source.choose_cifar10() == "digits"
    # The same cache, had its counts and colours been the published ones.
    monkeypatch.setitem(image_source.COUNTS, "cifar10", COUNTS)
    assert image_source.choose_cifar10() == "digits"
    monkeypatch.setitem(image_source.MEANS, "cifar10", here.mean)
    assert image_source.choose_cifar10() == "cifar10"
    assert same(load_images("cifar10"), here)


def test_what_the_library_keeps_is_taken_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_DATASETS_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    kept = tmp_path / "datasets/uoft-cs___cifar10/plain_text/0.0.0/0b2714"
    kept.mkdir(parents=True)
    assert image_source.choose_cifar10() == "digits"
    (kept / "dataset_info.json").write_text("{}")
    assert image_source.choose_cifar10() == "cifar10"


# Arrays


@pytest.mark.parametrize("name", FOLDERS)
def test_arrays_of_a_few_images(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "data"))
    write_tiny(tmp_path / "data", name)
    images = load_images(name)
    for split in COUNTS:
        _, labels, pixels = rows(split, images.train.shape[-1])
        assert getattr(images, split).numpy().tolist() == pixels.transpose(0, 3, 1, 2).tolist()
        assert getattr(images, f"{split}_labels").tolist() == labels
    assert images.train.dtype == torch.uint8 and images.train_labels.dtype == torch.int64
    assert images.classes == 10
    unit = rows("train", images.train.shape[-1])[2] / 255
    assert images.mean == pytest.approx(unit.mean((0, 1, 2)))
    assert images.std == pytest.approx(unit.std((0, 1, 2)))
    captured = capsys.readouterr()
    first, second = captured.err.splitlines()
    assert captured.out == "" and "(once)" in first and "not the published" in second
    load_images(name)
    assert capsys.readouterr().err == ""


def test_grey_images_become_rgb_and_labels_start_at_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "data"))
    paths = write_tiny(tmp_path / "data", "tiny_imagenet")
    grey = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64).astype(np.uint8)
    for path in paths.values():
        write(path, "image", [png(grey)] * 3, [7, 300, 12])
    images = load_images("tiny_imagenet")
    assert images.train_labels.tolist() == images.valid_labels.tolist() == [0, 2, 1]
    assert images.classes == 3
    assert np.array_equal(images.train[0].numpy(), np.stack([grey] * 3))


def test_several_files_are_one_split_in_their_order(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_images("cifar10")
    encoded, labels, _ = rows("train", 32)
    tiny["train"].unlink()
    write_split(tiny["train"].parent, "train", image_table("img", encoded, labels), ends=[13])
    assert same(load_images("cifar10"), whole)


def test_fingerprint_is_of_the_pixels(tiny: dict[str, Path]) -> None:
    first = load_images("cifar10").fingerprint
    encoded, labels, pixels = rows("train", 32)
    write(tiny["train"], "img", encoded, labels)
    assert load_images("cifar10").fingerprint == first
    pixels[3, 4, 5, 1] ^= 1
    write(tiny["train"], "img", [png(p) for p in pixels], labels)
    assert load_images("cifar10").fingerprint != first


def test_digits_are_the_same_everywhere() -> None:
    images = load_images("digits")
    assert images.train.shape == (1437, 1, 8, 8) and images.valid.shape == (360, 1, 8, 8)
    # Whoever changes the one changes the other: prepared images of old rules stay in the cache.
    assert (image_source.RULES, images.fingerprint) == ("1", "d9bd0e289e622a30")
    assert images.train.max() == 255 and images.train.min() == 0
    both = [{x.numpy().tobytes() for x in part} for part in (images.train, images.valid)]
    assert sum(map(len, both)) == 1797 and not both[0] & both[1]
    counts = torch.bincount(images.train_labels), torch.bincount(images.valid_labels)
    assert [len(c) for c in counts] == [10, 10] and min(c.min() for c in counts) >= 27


# The cache


def test_memory_is_mapped_and_shared(tiny: dict[str, Path]) -> None:
    one, other = load_images("cifar10"), load_images("cifar10")
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    for split in COUNTS:
        lines = [line for line in maps.splitlines() if line.endswith(f"/{split}.npy")]
        assert len(lines) >= 2, split
    # Private to a process that writes, which nobody does; a map, so nothing is read yet.
    other.train[0] = 0
    assert not torch.equal(one.train[0], other.train[0])
    assert same(load_images("cifar10"), one)


def test_a_process_keeps_little_of_a_large_map(tmp_path: Path) -> None:
    """40 MB of images are mapped; the process that takes 8 of them stays far below that."""
    big = tmp_path / "cache" / f"digits-images-{image_source.RULES}"
    load_images("digits")
    pixels = np.zeros((20_000, 1, 45, 45), np.uint8)
    np.save(big / "train.npy", pixels)
    meta = json.loads((big / "meta.json").read_text(encoding="utf-8"))
    (big / "meta.json").unlink()
    write_meta(big, {key: meta[key] for key in ("classes", "mean", "std", "fingerprint")})
    code = (
        "from experiments.data.images import load_images\n"
        "def resident():\n"
        "    with open('/proc/self/smaps_rollup') as file:\n"
        "        return next(int(line.split()[1]) for line in file if line.startswith('Rss'))\n"
        "before = resident()\n"
        "images = load_images('digits')\n"
        "images.train[::2500].clone()\n"
        "print(images.train.numel() // 1024, resident() - before)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    mapped, grown = map(int, done.stdout.split())
    assert mapped > 39_000 and grown < 20_000


def test_what_the_cache_says_of_images_is_verified(tiny: dict[str, Path]) -> None:
    first = load_images("cifar10")
    (path,) = places.cache_dir().glob("*/meta.json")
    meta = json.loads(path.read_text(encoding="utf-8"))
    forms = ({**meta, "mean": [9.0] * 3}, {**meta, "sha256": {}}, {**meta, "classes": 1}, None, [3])
    for form in forms:
        path.write_text(json.dumps(form), encoding="utf-8")
        again = load_images("cifar10")
        assert (again.mean, again.classes) == (first.mean, first.classes)


def test_two_processes_prepare_once(tiny: dict[str, Path]) -> None:
    load_images("cifar10")
    (folder,) = places.cache_dir().glob("cifar10-*/")
    shutil.rmtree(folder)
    code = (
        "from experiments.data.images import load_images\n"
        "print('ready', flush=True); input()\n"
        "print(load_images('cifar10').fingerprint)"
    )
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, cwd=PROJECT, text=True, **pipes) for _ in range(2)]
    with FileLock(f"{folder}.lock"):  # until both have seen that nothing is prepared
        for process in running:
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("\n")
            process.stdin.flush()
        time.sleep(1)
        assert not folder.exists()
    results = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], results
    assert len({out for out, _ in results}) == 1
    assert sum(err.count("(once)") for _, err in results) == 1
    assert [path.name for path in places.cache_dir().glob("cifar10-*/")] == [folder.name]


def test_what_a_killed_process_left_is_removed(tiny: dict[str, Path]) -> None:
    first = load_images("cifar10").fingerprint
    (folder,) = places.cache_dir().glob("cifar10-*/")
    (folder / "meta.json").unlink()
    left = Path(f"{folder}.new")
    left.mkdir()
    (left / "train.npy").write_bytes(b"half")
    assert load_images("cifar10").fingerprint == first and not left.exists()


def test_cache_that_cannot_be_written_is_named(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "file" / "cache"))
    with user_error("MUPKIT_CACHE: cannot write .*file/cache"):
        load_images("cifar10")


# Damaged sources


def test_truncated_parquet_is_named(tiny: dict[str, Path]) -> None:
    tiny["train"].write_bytes(tiny["train"].read_bytes()[:-20])
    with user_error(f"{tiny['train']}.*copy the file again"):
        load_images("cifar10")
    assert not list(places.cache_dir().glob("*/meta.json"))


def test_missing_column_is_named(tiny: dict[str, Path]) -> None:
    encoded, labels, _ = rows("valid", 32)
    write(tiny["valid"], "picture", encoded, labels)
    with user_error(f"{tiny['valid']}.*`img`"):
        load_images("cifar10")
    pq.write_table(pa.table({"img": [{"bytes": image} for image in encoded]}), tiny["valid"])
    with user_error(f"{tiny['valid']}.*`label`"):
        load_images("cifar10")


@pytest.mark.parametrize("damage", ["no image", "cut", "null"])
def test_undecodable_image_is_named_with_its_row(tiny: dict[str, Path], damage: str) -> None:
    encoded, labels, _ = rows("train", 32)
    bad: dict[str, Any] = {"no image": b"text", "cut": encoded[7][:-1500], "null": None}
    images = [*encoded[:7], bad[damage], *encoded[8:]]
    write(tiny["train"], "img", images, labels)
    with user_error(f"{tiny['train']}, row 7: cannot be decoded.*copy the file again"):
        load_images("cifar10")
    assert not list(places.cache_dir().glob("*/meta.json"))


@pytest.mark.parametrize(
    ("labels", "pattern"),
    [
        ([0, 1, None, 3], r"test-.*, row 2: no label"),
        (["0", "cat", "2", "3"], "some labels are numbers and some are names of classes"),
        ([0.0, 1.0, 2.0, 3.0], r"test-.*found columns .*`label` \(double\); wanted .*integers or"),
        ([0, 1, 11, 3], "label 11 is in valid and not in train"),
        ([], "no images in valid"),
    ],
)
def test_impossible_labels_are_named(
    tiny: dict[str, Path], labels: list[Any], pattern: str
) -> None:
    table = pa.array(labels, None if labels else pa.int64())
    write(tiny["valid"], "img", rows("valid", 32)[0][: len(labels)], table)
    with user_error(pattern):
        load_images("cifar10")
    assert not list(places.cache_dir().glob("*/meta.json"))


def test_column_without_images_is_named(tiny: dict[str, Path]) -> None:
    _, labels, _ = rows("valid", 32)
    pq.write_table(pa.table({"img": labels, "label": labels}), tiny["valid"])
    with user_error(f"{tiny['valid']}.*found columns .*`img` .int64.*; wanted one of encoded im"):
        load_images("cifar10")
    write(tiny["valid"], "img", [None] * 10, labels, name="cat.png")
    with user_error(f"{tiny['valid']}, row 0: found no image but the name of one, 'cat.png'"):
        load_images("cifar10")


NAMES = ["plane", "ship", "bird", "cat", "deer", "dog", "frog", "horse", "car", "truck"]
NAMES.sort()


@pytest.mark.parametrize("image", ["img", "image"])
@pytest.mark.parametrize("label", ["label", "labels"])
@pytest.mark.parametrize("kind", ["numbers", "text", "names", "coded"])
def test_other_names_and_types_of_columns(
    tiny: dict[str, Path], image: str, label: str, kind: str
) -> None:
    whole = load_images("cifar10")
    for split, path in tiny.items():
        encoded, numbers, _ = rows(split, 32)
        labels = pa.array([NAMES[i] for i in numbers])
        if kind in ("numbers", "text"):
            labels = pa.array(numbers, pa.int16()).cast("int16" if kind == "numbers" else "string")
        if kind == "coded":
            labels = labels.dictionary_encode()
        pq.write_table(pa.table({image: encoded, label: labels}), path)
    assert same(load_images("cifar10"), whole)


def test_two_columns_of_images_are_named(tiny: dict[str, Path]) -> None:
    encoded, labels, _ = rows("train", 32)
    pq.write_table(pa.table({"img": encoded, "image": encoded, "label": labels}), tiny["train"])
    with user_error(f"{tiny['train']}: found columns `img` .*, `image` .*; wanted one of encoded"):
        load_images("cifar10")


def test_only_cifar10_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace())
    with user_error("tiny_imagenet.*MUPKIT_DATA is not set.*tiny_imagenet_100/data"):
        load_images("tiny_imagenet")


def test_what_is_resolved_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(image_source.COUNTS, "tiny_imagenet", COUNTS)
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "data"))
    write_tiny(tmp_path / "data", "tiny_imagenet")
    monkeypatch.setitem(image_source.MEANS, "tiny_imagenet", load_images("tiny_imagenet").mean)
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "other"))
    for function in (image_source.choose_imagenet, lambda: load_images("tiny_imagenet")):
        with user_error("MUPKIT_DATA: .*other/tiny_imagenet_100"):
            function()
    monkeypatch.delenv("MUPKIT_DATA")
    assert image_source.choose_imagenet() == "tiny_imagenet"
    assert load_images("tiny_imagenet").classes == 10


def test_image_of_another_size_is_named_with_its_row(tiny: dict[str, Path]) -> None:
    encoded, labels, pixels = rows("valid", 32)
    write(tiny["valid"], "img", [*encoded[:-1], png(pixels[0, :, :31])], labels)
    with user_error(f"{tiny['valid']}, row 9.*32 x 32"):
        load_images("cifar10")


def test_the_hub_gives_the_same_images(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    local = load_images("cifar10")
    monkeypatch.delenv("MUPKIT_DATA")

    class Hub(dict[str, list[dict[str, Any]]]):
        def cast_column(self, name: str, feature: object) -> Hub:
            assert name == "img" and feature == "encoded"
            return self

    data = Hub()
    for split, name in (("train", "train"), ("valid", "test")):
        encoded, labels, _ = rows(split, 32)
        pairs = zip(encoded, labels, strict=True)
        data[name] = [{"img": {"bytes": image}, "label": label} for image, label in pairs]
    stub = SimpleNamespace(load_dataset=lambda path: data, Image=lambda decode: "encoded")
    monkeypatch.setitem(sys.modules, "datasets", stub)
    assert same(load_images("cifar10"), local)


def test_hub_failure_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise ConnectionError("several\nlines")

    stub = SimpleNamespace(load_dataset=fail, Image=None)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    with user_error("cifar10.*set MUPKIT_DATA"):
        load_images("cifar10")


# CIFAR-10 and Tiny-ImageNet themselves


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "classes", "each"), [("cifar10", 10, (5000, 1000)), ("tiny_imagenet", 100, (200, 50))]
)
def test_real_images(
    name: str,
    classes: int,
    each: tuple[int, int],
    shared_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(shared_cache))
    monkeypatch.setenv("MUPKIT_DATA", str(DATA))
    images = load_images(name)
    assert images.classes == classes
    assert torch.bincount(images.train_labels).tolist() == [each[0]] * classes
    assert torch.bincount(images.valid_labels).tolist() == [each[1]] * classes
    if name == "cifar10":
        assert images.mean == pytest.approx((0.4913, 0.4821, 0.4465), abs=1e-3)
        assert images.std == pytest.approx((0.247, 0.2435, 0.2616), abs=3e-3)
    # Prepared, it needs no source.
    monkeypatch.delenv("MUPKIT_DATA")
    assert load_images(name).fingerprint == images.fingerprint
    resolve = image_source.choose_cifar10 if classes == 10 else image_source.choose_imagenet
    assert resolve() == name
