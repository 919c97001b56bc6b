"""Base shape files: the same for the `mup` package, version 1.0.0, and for us; errors; names."""

from __future__ import annotations

import os
from collections import OrderedDict

import mup
import pytest
import torch
from torch import nn

import mupkit
from mupkit import get_infshapes, make_base_shapes, parametrize, set_base_shapes
from mupkit.base_shapes import read_shapes
from tests.mupkit.models import FAMILIES, MLP, PLAIN, parametrized


class Odd(nn.Module):
    """Names that YAML would read as something else, and a parameter without dimensions."""

    def __init__(self, width):
        super().__init__()
        self.no = nn.Parameter(torch.zeros(width))
        self.null = nn.Parameter(torch.zeros(()))
        self.add_module("1", nn.ParameterList([nn.Parameter(torch.zeros(3, width))]))
        self.add_module("1e3", nn.Linear(width, width))
        self.add_module("x-y", nn.Linear(3, width))


MODELS = {
    **{name: (lambda widths, f=f: f.build(PLAIN, *widths)) for name, f in FAMILIES.items()},
    "odd names": lambda widths: Odd(widths[0]),
}
WIDTHS = {name: (f.base, f.delta, f.targets[3]) for name, f in FAMILIES.items()}
WIDTHS["odd names"] = ((16,), (17,), (48,))


def dims(model):
    return {n: [(d.base_dim, d.dim) for d in p.infshape] for n, p in model.named_parameters()}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.bsh"


@pytest.mark.parametrize("writer", ["mup", "mup of a model", "mupkit", "mupkit of a model"])
@pytest.mark.parametrize("name", MODELS)
def test_files_of_each_are_read_by_the_other(name, writer, file):
    base, delta, target = (MODELS[name](widths) for widths in WIDTHS[name])
    lib = mup if writer.startswith("mup ") or writer == "mup" else mupkit
    if writer.endswith("model"):
        with_shapes = lib.set_base_shapes(target, base, delta=delta, **no_check())
        lib.save_base_shapes(with_shapes, file)
    else:
        lib.make_base_shapes(base, delta, savefile=file)
    ours = set_base_shapes(MODELS[name](WIDTHS[name][2]), str(file), **no_check())
    theirs = mup.set_base_shapes(MODELS[name](WIDTHS[name][2]), str(file), **no_check())
    expected = mup.set_base_shapes(MODELS[name](WIDTHS[name][2]), base, delta=delta, **no_check())
    assert dims(ours) == dims(theirs) == dims(expected)
    assert any(base for shape in dims(ours).values() for base, _ in shape)
    assert mupkit.load_base_shapes(file) == make_base_shapes(base, delta)


def no_check():
    return {"rescale_params": False, "do_assert": False}


def test_a_file_is_a_base_wherever_a_model_is(file):
    model = parametrized(mupkit, "mlp", (64, 96))
    make_base_shapes(MLP(mupkit, 16, 24), MLP(mupkit, 17, 25), file)
    for lib in (set_base_shapes, parametrize):
        for source in (file, str(file)):
            assert get_infshapes(lib(MLP(mupkit, 64, 96), source)) == get_infshapes(model)
    at_base = set_base_shapes(MLP(mupkit, 16, 24), file)  # the file says what scales
    assert get_infshapes(at_base)["hidden.weight"].role() == "hidden"
    narrow = make_base_shapes(file, MLP(mupkit, 17, 25))
    assert narrow["hidden.weight"] == [24, 16]


def test_a_delta_beside_a_file_warns_of_nothing_that_the_file_tells(tmp_path):
    """Whose finite sizes are null."""
    file = tmp_path / "base.bsh"
    make_base_shapes(MLP(mupkit, 16, 24), MLP(mupkit, 17, 25), savefile=file)
    model = set_base_shapes(MLP(mupkit, 64, 96), file, delta=MLP(mupkit, 17, 25))
    assert get_infshapes(model) == get_infshapes(set_base_shapes(MLP(mupkit, 64, 96), file))
    with pytest.warns(UserWarning, match=r"hidden\.weight dimension 0 \(24 -> 96\)"):
        set_base_shapes(MLP(mupkit, 64, 96), file, delta=MLP(mupkit, 17, 24), do_assert=False)


def test_every_way_to_write_one_writes_the_same(tmp_path):
    files = [tmp_path / f"{i}.bsh" for i in range(4)]
    base, delta = MLP(mupkit, 16, 24), MLP(mupkit, 17, 25)
    shapes = make_base_shapes(base, delta, savefile=files[0])
    model = set_base_shapes(MLP(mupkit, 64, 96), base, delta=delta, savefile=files[1])
    mupkit.save_base_shapes(model, files[2])
    mupkit.save_base_shapes(shapes, str(files[3]))
    texts = {file.read_text(encoding="utf-8") for file in files}
    assert len(texts) == 1
    (text,) = texts
    assert text.startswith("# ")
    assert "hidden.weight: [24, 16]\nhidden.bias: [24]\nreadout.weight: [null, 24]\n" in text
    assert mupkit.get_base_shapes(model) == shapes


BROKEN = {
    "a word": ("# c\na.weight: [1, null]\nhello\n", "line 3: 'hello' is not a base shape"),
    "text in a list": ("a.weight: [1, x]\n", r"line 1: 'a\.weight: \[1, x\]'"),
    "a fraction": ("a.weight: [1.5]\n", "line 1"),
    "a truth": ("a.weight: [true]\n", "line 1"),
    "a list in a list": ("a.weight:\n- 1\n- [2]\n", r"line 3: '- \[2\]'"),
    "an item before any name": ("- 64\n", "line 1: '- 64'"),
    "a scalar": ("a.weight: 64\n", "line 1.*expected a line such as 'decoder"),
    "an open list": ("a.weight: [1,\n", "line 1"),
    "a mapping": ("a:\n  b:\n    - 1\n", "line 2"),
    "nothing": ("# only a comment\n\n", "holds no base shapes"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_base_shape_is_named_with_file_and_line(kind, file):
    text, message = BROKEN[kind]
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"model\.bsh.*{message}"):
        mupkit.load_base_shapes(file)


def test_a_missing_file_is_named(file):
    with pytest.raises(FileNotFoundError, match=r"model\.bsh"):
        set_base_shapes(MLP(mupkit, 64, 96), file)


def test_block_lists_comments_and_quotes(file):
    file.write_text(
        "# mup writes so\n'a.weight':\n-   64\n-   null\n\n\"b\":\n    -   ~\nc: []\nd.e: [3]\n",
        encoding="utf-8",
    )
    assert mupkit.load_base_shapes(file) == {
        "a.weight": [64, None],
        "b": [None],
        "c": [],
        "d.e": [3],
    }


class Holder(nn.Module):
    """A model whose parts are called as wrappers are."""

    def __init__(self, name, *parts):
        super().__init__()
        for i, part in enumerate(parts):
            self.add_module(name if i == 0 else f"other{i}", part)


def layer(width):
    parts = {"decoder": nn.Linear(3, width), "lode": nn.Linear(width, width)}
    return nn.Sequential(OrderedDict(parts))


def wrapped(depth, width):
    model = layer(width)
    for _ in range(depth):
        model = Holder("module", model)
    return model


@pytest.mark.parametrize("source_depth", [0, 1, 2])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_prefixes_of_wrappers_make_no_difference(depth, source_depth, file):
    """Ours wrapped or the saved one wrapped, or a model that calls its only part so."""
    expected = make_base_shapes(layer(16), layer(17)).values()
    mupkit.save_base_shapes(make_base_shapes(*(wrapped(source_depth, w) for w in (16, 17))), file)
    model = parametrize(wrapped(depth, 48), file)
    assert list(mupkit.get_base_shapes(model).values()) == list(expected)
    assert all(name.startswith("module." * depth) for name in get_infshapes(model))
    delta = mupkit.get_shapes(wrapped(depth, 17))
    mixed = make_base_shapes(mupkit.get_shapes(wrapped(source_depth, 16)), delta)
    assert list(mixed.values()) == list(expected)
    assert all(name.startswith("module." * source_depth) for name in mixed)


def test_names_that_look_like_prefixes_are_left_alone(file):
    """`mup` strips the letters of "module." from both ends of every name."""

    def build(width):
        parts = Holder("module", layer(width)), nn.Linear(3, width)
        model = Holder("decoder", *parts)
        model.module = nn.Linear(3, width)
        return model

    make_base_shapes(build(16), build(17), file)
    shapes = get_infshapes(parametrize(build(48), file))
    assert set(mupkit.load_base_shapes(file)) == set(shapes)
    assert {"decoder.module.decoder.weight", "module.weight", "other1.bias"} <= shapes.keys()
    inside = Holder("module", Holder("decoder", layer(16)), layer(16))
    assert set(read_shapes(mupkit.get_shapes(inside))) == set(mupkit.get_shapes(inside))
    with pytest.raises(ValueError, match=r"module\.decoder\.decoder\.bias \(base only\)"):
        parametrize(layer(48), mupkit.get_shapes(inside))


@pytest.mark.parametrize("wrap", ["DataParallel", "compile", "both"])
def test_torchs_wrappers(wrap, file):
    make_base_shapes(layer(16), layer(17), file)

    def build(width):
        model = layer(width)
        if wrap != "compile":
            model = nn.DataParallel(model)
        return model if wrap == "DataParallel" else torch.compile(model, backend="eager")

    expected = list(get_infshapes(parametrize(layer(48), file)).values())
    for base in (layer(16), build(16), file, mupkit.get_shapes(build(16))):
        model = build(48)
        assert parametrize(model, base, layer(17) if base is not file else None) is model
        assert list(get_infshapes(model).values()) == expected
    prefix = "" if wrap == "compile" else "module."
    assert set(mupkit.get_shapes(build(16))) == {
        prefix + name for name in mupkit.get_shapes(layer(16))
    }


def test_an_empty_dictionary_is_refused_by_name():
    with pytest.raises(ValueError, match=r"decoder\.bias \(model only\)"):
        parametrize(layer(48), {})


@pytest.mark.parametrize(
    "content",
    [
        "a.weight: [0, null]\n",
        "a.weight: [-4, null]\n",
        "a.weight: [1" + "0" * 30 + "]\n",
        "a.weight: [1" + "0" * 5000 + "]\n",
        "a.weight: [true]\n",
        "a.weight: [[4]]\n",
        "a.weight: " + "[" * 100_000 + "]\n",
        "a.weight:\n- 0\n",
        "a.weight:\n- 1" + "0" * 30 + "\n",
        "a.weight: [4]\na.weight: [8]\n",
    ],
)
def test_sizes_that_no_tensor_has_and_names_twice_are_refused(content, file):
    file.write_text(content)
    with pytest.raises(ValueError, match=r"model\.bsh, line [123]: ") as raised:
        mupkit.bsh.load(file)
    assert len(str(raised.value)) < 400


def test_what_is_no_text_file_is_refused(tmp_path, file):
    os.mkfifo(tmp_path / "pipe")
    file.write_bytes(b"\xff\0")
    for path in (tmp_path, tmp_path / "pipe", file):
        with pytest.raises(ValueError, match=f"{path.name} is no"):
            mupkit.bsh.load(path)


def test_a_file_that_is_too_large_is_not_read(file, monkeypatch):
    file.write_text("a.weight: [4]\n", encoding="utf-8")
    monkeypatch.setattr(mupkit.bsh, "MOST", file.stat().st_size)
    assert mupkit.bsh.load(file) == {"a.weight": [4]}
    monkeypatch.setattr(mupkit.bsh, "MOST", file.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"model\.bsh is no regular file of at most"):
        mupkit.bsh.load(file)


@pytest.mark.parametrize("shape", [[0, None], [-1, None], [1.5, None], ["4", None]])
def test_a_dictionary_of_impossible_sizes_is_refused(shape):
    with pytest.raises(ValueError, match=r"a\.weight: .* no tensor has"):
        read_shapes({"a.weight": shape})
