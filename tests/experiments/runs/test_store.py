"""Stored runs: whole or not there, and never silently wrong."""

import dataclasses
import json
import math
import os
import tracemalloc

import pytest

from experiments import files
from experiments.errors import UserError
from experiments.products import tidying
from experiments.runs import store, training
from experiments.runs.store import DamagedRunError, OtherSchemaError, Provenance, Record, Store
from tests.tiny_runs import tiny_run

PROVENANCE = Provenance(
    code_version="c",
    git_commit="g",
    git_dirty=False,
    data_fingerprint="d",
    torch_version="t",
    device="cpu",
    threads=1,
    matmul="highest",
    seconds=1.5,
    flops=1e9,
    finished_at="2026-01-01T00:00:00+00:00",
)


def record(losses=(3.0, 2.0, 0.1 + 0.2), diverged_step=None, **changes) -> Record:
    run = tiny_run(**changes)
    return Record(
        id=run.id,
        family=run.family,
        config=run.model_dump(),
        final_loss=math.nan if diverged_step is not None else losses[-1],
        diverged=diverged_step is not None,
        diverged_step=diverged_step,
        losses=losses,
        provenance=PROVENANCE,
    )


def same(left: Record, right: Record) -> bool:
    return repr(left) == repr(right)  # NaN included


@pytest.mark.parametrize(
    "stored", [record(), record((5.0, math.nan), 1), record((5.0, math.inf), 1)]
)
def test_what_is_written_is_read(tmp_path, stored) -> None:
    folder = Store(tmp_path)
    folder.write(stored)
    assert folder.looks_finished(stored.id)
    assert same(folder.read(stored.id), stored)
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [f"{stored.id}.parquet"]


def test_missing_run(tmp_path) -> None:
    assert not Store(tmp_path).looks_finished("0" * 16)
    with pytest.raises(FileNotFoundError):
        Store(tmp_path).read("0" * 16)


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_truncated_run_is_detected_and_named(tmp_path, keep) -> None:
    folder = Store(tmp_path)
    folder.write(record())
    path = folder.path(record().id)
    path.write_bytes(path.read_bytes()[:keep])
    assert not folder.looks_finished(record().id)
    with pytest.raises(DamagedRunError, match=path.name):
        folder.read(record().id)


def test_every_flipped_byte_is_detected_or_harmless(tmp_path) -> None:
    folder = Store(tmp_path)
    folder.write(record())
    path = folder.path(record().id)
    whole = path.read_bytes()
    detected = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            assert same(folder.read(record().id), record()), position
        except DamagedRunError:
            detected += 1
    assert detected > len(whole) / 3


def test_a_run_under_another_name_is_detected(tmp_path) -> None:
    folder = Store(tmp_path)
    folder.write(record())
    other = record(seed=1).id
    folder.path(record().id).rename(folder.path(other))
    with pytest.raises(DamagedRunError, match=f"holds run {record().id}") as raised:
        folder.read(other)
    assert raised.value.holds == folder.look(other).holds == record().id


def test_digests_of_older_files_still_match() -> None:
    def digest(one: Record) -> str:
        meta = dataclasses.asdict(one)
        return store._digest(meta, meta.pop("losses"), meta.pop("valid_losses"))

    later = {"precision", "base_n_layer"}  # keys of a configuration that came after the file
    config = {key: value for key, value in record().config.items() if key not in later}
    old = dataclasses.replace(record(), config=config)
    assert digest(old) == "f95cd94e06fe4cd4"  # before `derived_from` and `metrics` were there
    derived = dataclasses.replace(PROVENANCE, derived_from="a")
    assert digest(dataclasses.replace(old, provenance=derived)) != "f95cd94e06fe4cd4"
    assert digest(dataclasses.replace(old, metrics={"a": 1.0})) != "f95cd94e06fe4cd4"
    assert digest(dataclasses.replace(old, valid_losses={0: 1.0})) != "f95cd94e06fe4cd4"


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_one_clear_line(tmp_path, monkeypatch) -> None:
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*parquet: No space left on device"):
        Store(tmp_path).write(record())
    assert list((tmp_path / "runs").iterdir()) == []


def test_folder_that_cannot_be_made_is_one_clear_line(tmp_path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cannot write"):
        Store(tmp_path).write(record())


def test_curves_take_little_more_memory_than_their_numbers() -> None:
    losses = tuple(float(step) for step in range(1000))
    records = [record(losses, seed=seed) for seed in range(100)]
    tidying.tidy_curves(records)  # imports
    tracemalloc.start()
    curves = tidying.tidy_curves(records)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(curves) == 100_000
    assert peak < 120 * len(curves)  # bytes; a dictionary for each row takes twice that


def test_tidy_tables(tmp_path) -> None:
    records = [record(), record((5.0, math.nan), 1, seed=1)]
    runs = tidying.tidy_runs(records)
    assert list(runs["id"]) == [r.id for r in records]
    assert list(runs["seed"]) == [0, 1]
    assert list(runs["diverged"]) == [False, True]
    assert runs["final_loss"].isna().tolist() == [False, True]
    assert set(tiny_run().model_dump()) <= set(runs.columns)
    curves = tidying.tidy_curves(records)
    assert curves.groupby("id").size().to_dict() == {records[0].id: 3, records[1].id: 2}
    assert {f.name for f in dataclasses.fields(Provenance)} < set(
        tidying.tidy_provenance(records).columns
    )


def rewrite(path, change) -> None:
    """A run's file with other metadata."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    meta = json.loads(table.schema.metadata[store.METADATA])
    change(meta)
    pq.write_table(table.replace_schema_metadata({store.METADATA: json.dumps(meta).encode()}), path)


def test_metrics_are_columns_of_their_own_and_absent_where_there_are_none(tmp_path) -> None:
    folder = Store(tmp_path)
    measured = dataclasses.replace(record(), metrics={"valid_accuracy": 0.1 + 0.2})
    folder.write(measured)
    assert folder.read(measured.id).metrics == {"valid_accuracy": 0.1 + 0.2}
    frame = tidying.tidy_runs([measured, record()])
    assert frame["valid_accuracy"].isna().tolist() == [False, True]
    assert "valid_accuracy" not in tidying.tidy_runs([record()])
    rewrite(folder.path(measured.id), lambda meta: meta.update(metrics={"valid_accuracy": 0.4}))
    with pytest.raises(DamagedRunError, match="checksum"):
        folder.read(measured.id)


def test_losses_on_held_out_data_are_a_column_where_there_are_any(tmp_path) -> None:
    folder = Store(tmp_path)
    measured = dataclasses.replace(record(), valid_losses={1: 0.1 + 0.2})
    folder.write(measured)
    assert folder.read(measured.id).valid_losses == {1: 0.1 + 0.2}
    assert tidying.tidy_curves([measured])["valid_loss"].isna().tolist() == [True, False, True]
    assert "valid_loss" not in tidying.tidy_curves([record()])
    folder.write(record())
    assert folder.read(record().id).valid_losses == {}


def test_a_file_without_a_schema_number_is_read(tmp_path) -> None:
    folder = Store(tmp_path)
    folder.write(record())
    rewrite(folder.path(record().id), lambda meta: meta.pop("schema"))
    assert same(folder.read(record().id), record())


@pytest.mark.parametrize("change", [{"news": "of another version"}, {"final_loss": 1.0}, {}])
@pytest.mark.parametrize(("schema", "state"), [(99, "newer schema"), (0, "older schema")])
def test_a_run_of_another_schema_is_named_and_left_alone(tmp_path, schema, state, change) -> None:
    folder = Store(tmp_path)
    folder.write(record())
    path = folder.path(record().id)
    rewrite(path, lambda meta: meta.update(schema=schema, **change))
    before = path.read_bytes()
    with pytest.raises(OtherSchemaError, match=f"{path.name}: written with schema {schema}"):
        folder.read(record().id)
    assert folder.look(record().id).state == state
    with pytest.raises(UserError, match="written with schema"):
        training.train_runs([tiny_run()], folder)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"family": None},
        {"family": "a\0b"},
        {"family": ["a"]},
        {"config": None},
        {"metrics": [1]},
        {"metrics": {"a": None}},
        {"diverged": 1},
        {"diverged_step": "1"},
        {"provenance": None},
        {"provenance": {}},
        {"provenance": {**dataclasses.asdict(PROVENANCE), "seconds": "1"}},
        {"news": 1},
    ],
)
def test_metadata_of_another_form_are_damage_whatever_their_digest(tmp_path, change) -> None:
    folder = Store(tmp_path)
    folder.write(record())

    def forge(meta) -> None:
        meta.update(change)
        schema = meta.pop("schema")
        meta.pop("digest")
        try:
            digest = store._digest(meta, record().losses, {})
        except (TypeError, KeyError, AttributeError):
            digest = ""
        meta.update(schema=schema, digest=digest)

    rewrite(folder.path(record().id), forge)
    assert folder.look(record().id).state == "damaged"


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "dangling link"])
def test_what_is_no_regular_file_is_damage_and_is_set_aside(tmp_path, kind) -> None:
    folder = Store(tmp_path / "store")
    folder.write(record())
    path, elsewhere = folder.path(record().id), tmp_path / "elsewhere"
    path.rename(elsewhere)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(elsewhere if kind == "link" else tmp_path / "nowhere")
    assert not folder.looks_finished(record().id)
    with pytest.raises(DamagedRunError, match=f"{path.name}: a .*, not a regular file"):
        folder.read(record().id)
    aside = folder.set_aside(record().id)
    assert os.path.lexists(aside) and not os.path.lexists(path)
    assert elsewhere.exists()


def test_a_run_that_may_not_be_read_is_no_damage(tmp_path, monkeypatch) -> None:
    folder = Store(tmp_path)
    folder.write(record())

    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open_regular", denied)
    with pytest.raises(UserError, match=r"cannot read .*\.parquet: Permission denied"):
        folder.read(record().id)
    assert folder.look(record().id).state == "unreadable"


def test_a_field_with_a_default_keeps_older_files(tmp_path, monkeypatch) -> None:
    folder = Store(tmp_path)
    folder.write(record())
    fields = [("news", str, dataclasses.field(default=""))]
    longer = dataclasses.make_dataclass("Longer", fields, bases=(Provenance,), frozen=True)
    monkeypatch.setattr(store, "Provenance", longer)
    files._adapter.cache_clear()
    assert folder.read(record().id).provenance.news == ""
    files._adapter.cache_clear()


def test_states_of_stored_runs(tmp_path, monkeypatch) -> None:
    folder = Store(tmp_path)
    folder.write(record())
    run_id = record().id
    assert folder.look("0" * 16).state == "missing"
    assert folder.look(run_id).state == "other code"
    monkeypatch.setattr("experiments.runs.store.code_version", lambda family: "c")
    assert folder.look(run_id).state == "done"
    assert folder.look(run_id, lambda r: "d").state == "done"
    assert folder.look(run_id, lambda r: None).state == "done"
    assert folder.look(run_id, lambda r: "changed").state == "other data"
    rewrite(folder.path(run_id), lambda meta: meta.update(diverged=True))
    damaged = folder.look(run_id)
    assert (damaged.state, damaged.record) == ("damaged", None)
    assert "does not match its checksum" in damaged.reason


def test_a_run_of_an_experiment_that_is_gone_is_of_other_code(tmp_path) -> None:
    folder = Store(tmp_path)
    folder.write(dataclasses.replace(record(), family="gone"))
    assert folder.look(record().id).state == "other code"


@pytest.mark.parametrize("run_id", ["../x", "/etc/passwd", "a/b", "..", "", "0" * 15, "G" * 16])
def test_an_id_cannot_leave_the_folder(tmp_path, run_id) -> None:
    folder = Store(tmp_path)
    for call in (folder.path, folder.read, folder.look, folder.remove, folder.looks_finished):
        with pytest.raises(UserError, match="is no id of a run"):
            call(run_id)
    with pytest.raises(UserError, match="is no id of a run"), folder.claim(run_id):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["header", "page", "metadata", "footer"])
def test_a_flipped_byte_of_each_part_is_detected(tmp_path, part) -> None:
    import pyarrow.parquet as pq

    folder = Store(tmp_path)
    folder.write(record())
    path = folder.path(record().id)
    whole = path.read_bytes()
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    position = {
        "header": 1,
        "page": column.data_page_offset + column.total_compressed_size - 2,
        "metadata": whole.index(b'"final_loss"') + 14,
        "footer": len(whole) - 6,
    }[part]
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x04]) + whole[position + 1 :])
    with pytest.raises(DamagedRunError, match=path.name):
        folder.read(record().id)


def test_a_claim_lets_runs_and_checkpoints_be_looked_at_anew(tmp_path, monkeypatch) -> None:
    """Over NFS a node would not see for a minute that another one trained the run, or how far."""
    seen: list = []
    monkeypatch.setattr(store, "look_anew", seen.append)
    with Store(tmp_path).claim("0" * 16):
        assert seen == [tmp_path, tmp_path / "runs", tmp_path / "checkpoints"]


def test_the_lock_of_a_finished_run_goes(tmp_path) -> None:
    folder = Store(tmp_path)
    with folder.claim("0" * 16):
        assert files.held(tmp_path / "locks" / f"{'0' * 16}.lock")
    assert list((tmp_path / "locks").iterdir()) == []
