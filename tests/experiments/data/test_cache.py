"""What a folder of the cache says of itself."""

import json
from functools import partial

import pytest

from experiments.data import (
    cache,
    image_source,
    images,
    places,
    pretraining,
    text,
    text_source,
    translation,
    translation_source,
)
from tests.experiments.stored_files import some_data


@pytest.mark.parametrize("digests", [None, 3, [], {"a.npy": 3}])
def test_metadata_without_digests_are_damage_whatever_their_own(tmp_path, digests) -> None:
    meta = {} if digests is None else {"sha256": digests}
    text = json.dumps({**meta, "digest": cache._digest(meta)})
    (tmp_path / "meta.json").write_text(text, encoding="utf-8")
    assert cache.read_meta(tmp_path) is None


def test_a_file_that_moves_to_another_split_is_another_key(tmp_path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("a")
    b.write_text("b")
    assert cache.cache_key({"train": [a, b], "test": []}) != cache.cache_key(
        {"train": [a], "test": [b]}
    )


# What prepares data: the modules that have the number of its rules, and how many folders it makes.
PREPARED = {
    "words": ((text_source,), partial(text.load_corpus, "wikitext2", 20), 2),
    "images": ((image_source,), partial(images.load_images, "digits"), 1),
    "byte pairs": (
        (pretraining,),
        partial(pretraining.load_text, "wikipedia_novels", 260, "bpe"),
        1,
    ),
    "pairs": (
        (translation_source, translation),
        partial(translation.load_translation, "multi30k", 262),
        2,
    ),
}


@pytest.mark.parametrize("what", PREPARED)
def test_other_rules_prepare_all_anew(what, tmp_path, monkeypatch) -> None:
    modules, load, count = PREPARED[what]
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    some_data(tmp_path / "data", monkeypatch)

    def folders() -> set:
        load()
        return {*places.cache_dir().glob("*/")}

    first = folders()
    assert len(first) == count and folders() == first
    for module in modules:
        monkeypatch.setattr(module, "RULES", "other")
    assert len(folders() - first) == count


def test_other_tokenizers_prepare_byte_pairs_anew(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    some_data(tmp_path / "data", monkeypatch)
    first, _ = pretraining._origin("wikipedia_novels")
    monkeypatch.setattr(pretraining.importlib.metadata, "version", lambda name: f"{name} 0.0")
    assert pretraining._origin("wikipedia_novels")[0] != first
    assert pretraining._origin("wikipedia_sample")[0] != first


PUBLISHED = {
    "wikitext2-full": (text_source, text_source.prepared_wikitext2),
    "cifar10-images": (image_source, partial(image_source.prepared, "cifar10")),
    "multi30k-pairs": (translation_source, partial(translation_source.prepared, "multi30k")),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_other_rules_prepared_does_not_stand_for_lost_files(
    name, tmp_path, monkeypatch
) -> None:
    module, prepared = PUBLISHED[name]
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path))
    found = places.prepared
    monkeypatch.setattr(places, "prepared", lambda names, _: found(names, bool))
    folder = tmp_path / f"{name}-{module.RULES}-0123"
    folder.mkdir()
    (folder / "meta.json").write_text('{"source": "a"}', encoding="utf-8")
    assert prepared() == folder
    monkeypatch.setattr(module, "RULES", "other")
    assert prepared() is None
