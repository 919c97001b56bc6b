"""What a folder of the cache says of itself."""

import json

import pytest

from experiments.data import cache


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
