"""What the doctor finds in a results folder, and what it may remove."""

import dataclasses
import json
import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest
import torch
import typer

from experiments import files
from experiments.cli import keep, look
from experiments.declare import registry
from experiments.errors import UserError
from experiments.products.doctor import examine as examining
from experiments.products.doctor import folders
from experiments.products.doctor.examine import examine
from experiments.products.doctor.finding import Finding
from experiments.products.doctor.fix import fix
from experiments.products.doctor.runs import DataNow
from experiments.products.tidying import write_tables
from experiments.runs import training
from experiments.runs.store import Store
from experiments.train.checkpoint import Checkpoint
from tests.experiments.runs.test_store import PROVENANCE, record, rewrite


@pytest.fixture
def folder(healthy_store) -> Store:
    """A healthy store of two runs that fig1 needs, with the tables of both."""
    (healthy_store.folder / "fig1" / "scale.json").write_text('{"scale": "smoke"}')
    return healthy_store


def ids(folder: Store) -> list[str]:
    return sorted(p.stem for p in (folder.folder / "runs").glob("[0-9a-f]*"))


def examined(folder: Store) -> list[Finding]:
    return examine("smoke")


def found(folder: Store, words: str, *, note: bool = False) -> Finding:
    """The only finding, which says these words."""
    (one,) = examined(folder)
    assert words in one.text
    assert one.note == note
    return one


def fixed(folder: Store, *, stale: bool = False) -> None:
    findings = examined(folder)
    done = fix(findings, "smoke", stale)
    assert all(done.values())
    assert all("set aside" in left.text and left.note for left in examined(folder))


def change(folder: Store, index: int = 0, **provenance) -> None:
    one = folder.read(ids(folder)[index])
    folder.write(dataclasses.replace(one, provenance=dataclasses.replace(PROVENANCE, **provenance)))


def test_a_healthy_folder(folder, capsys) -> None:
    assert examined(folder) == []
    keep.doctor("smoke", "wikipedia_sample")
    assert capsys.readouterr().out == "results/smoke is in order\n"


def test_replays_are_not_left_behind_but_their_temporaries_are(folder) -> None:
    replays = folder.folder / "reverse"
    replays.mkdir()
    for suffix in ("parquet", "png"):
        (replays / f"0123456789abcdef.{suffix}").write_bytes(b"")
    assert examined(folder) == []
    left = replays / ".0123456789abcdef.png.mupkit-abcd_123.png"
    left.write_bytes(b"")
    found(folder, left.name)
    fixed(folder)
    assert len(list(replays.iterdir())) == 2


def test_no_folder_is_in_order(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(examining, "results_dir", lambda scale: tmp_path / "nowhere" / "smoke")
    assert examined(folder) == []


def test_a_truncated_run_is_set_aside(folder) -> None:
    path = folder.path(ids(folder)[0])
    for number in (1, 2):
        path.write_bytes(b"PAR1 %d" % number)
        assert path.name in next(f.text for f in examined(folder) if not f.note)
        fixed(folder)
        assert not path.exists()
    assert len(ids(folder)) == 1
    aside = [folder.folder / "damaged" / f"{path.stem}-{number}.parquet" for number in (1, 2)]
    assert [one.read_bytes() for one in aside] == [b"PAR1 1", b"PAR1 2"]


def test_a_flipped_byte(folder) -> None:
    path = folder.path(ids(folder)[0])
    content = bytearray(path.read_bytes())
    content[content.index(b'"final_loss"') + 3] ^= 1
    path.write_bytes(content)
    found(folder, path.name)
    fixed(folder)


def test_a_copy_of_another_run_goes_and_a_renamed_one_gets_its_name_back(folder) -> None:
    first, second = ids(folder)
    whole = folder.path(first).read_bytes()
    other = folder.path("0" * 16)
    other.write_bytes(whole)
    found(folder, f"holds run {first}")
    fixed(folder)
    shutil.rmtree(folder.folder / "damaged")
    folder.path(first).rename(other)
    assert "renamed" in found(folder, f"holds run {first}").remedy
    fixed(folder)
    assert ids(folder) == [first, second]
    assert folder.path(first).read_bytes() == whole


def test_left_behind_temporaries_and_locks_but_not_held_ones(folder, tmp_path) -> None:
    left = [
        folder.folder / "runs" / ".0123456789abcdef.parquet.mupkit-abcd_123.parquet",
        folder.folder / "fig1" / ".runs.parquet.mupkit-abcd_123.parquet",
        tmp_path / "figures" / "smoke" / ".fig1.svg.mupkit-abcd_123.svg",
        folder.folder / "locks" / "0123456789abcdef.lock",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    with (
        folder.claim("0" * 16),
        files.atomic_path(folder.folder / "fig1" / "curves.parquet") as living,
    ):
        assert {f.files[0] for f in examined(folder)} == set(left)
        fix(examined(folder), "smoke", False)
        assert living.exists()
        living.write_bytes((folder.folder / "fig1" / "curves.parquet").read_bytes())
    assert not any(path.exists() for path in left)
    assert examined(folder) == []


def test_what_others_keep_in_our_folders_stays(folder, tmp_path) -> None:
    foreign = [
        tmp_path / "cache" / ".bash_history.20240101",
        tmp_path / "cache" / ".zshrc.original",
        folder.folder / ".viminfo.backup__",
        folder.folder / "locks" / "mine.lock",
        folder.folder / "fig1" / "mine.parquet",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert not found(folder, "mine.lock: not the name of a lock").fixable
    (folder.folder / "fig1" / "runs.parquet").write_bytes(b"")
    fix(examined(folder), "smoke", True)
    assert not (folder.folder / "fig1" / "curves.parquet").exists()
    assert all(path.read_text() == "mine" for path in foreign)


def test_checkpoints(folder) -> None:
    checkpoints = folder.folder / "checkpoints"
    checkpoints.mkdir()
    unfinished = checkpoints / f"{'0' * 16}.safetensors"
    unfinished.write_bytes(b"")
    found(folder, f"{unfinished.name}: ")
    fixed(folder)
    assert not unfinished.exists()
    kept = Checkpoint(unfinished, {"id": "0" * 16})
    model = torch.nn.Linear(1, 1)
    kept._write(model, torch.optim.SGD(model.parameters()), [1.0], 0.0, {}, {})
    assert examined(folder) == []
    orphan = checkpoints / f"{ids(folder)[0]}.safetensors"
    orphan.write_bytes(b"")
    found(folder, "checkpoint of a finished run")
    fixed(folder)
    assert unfinished.exists()
    foreign = checkpoints / "best model.pt"
    foreign.write_bytes(b"")
    assert not found(folder, "not the name of a checkpoint").fixable
    fix(examined(folder), "smoke", True)
    assert foreign.exists()


def test_names_of_nfs_are_nobodys(folder) -> None:
    """A file that is removed while its node has it open stays under such a name until then."""
    for part in ("runs", "locks", "checkpoints", "damaged"):
        (folder.folder / part).mkdir(exist_ok=True)
        (folder.folder / part / ".nfs00000000014d0001").touch()
    assert examined(folder) == []


def test_a_foreign_name_among_the_runs(folder) -> None:
    (folder.folder / "runs" / "notes.txt").write_text("mine")
    assert not found(folder, "notes.txt: not the name of a run").fixable


@pytest.mark.parametrize(("schema", "stays"), [(99, True), (0, False)])
@pytest.mark.parametrize("change", [{}, {"news": "of another version"}])
def test_another_schema(folder, schema, stays, change) -> None:
    path = folder.path(ids(folder)[0])
    rewrite(path, lambda meta: meta.update(schema=schema, **change))
    one = found(folder, f"written with schema {schema}")
    assert one.fixable != stays
    fix(examined(folder), "smoke", False)
    assert path.exists()
    fix(examined(folder), "smoke", True)
    assert path.exists() == stays


def test_other_code_goes_with_stale_alone(folder, monkeypatch) -> None:
    monkeypatch.setattr("experiments.runs.store.code_version", lambda family: "newer")
    found(folder, "2 runs made by other code")
    assert fix(examined(folder), "smoke", False) == {}
    assert len(ids(folder)) == 2
    fix(examined(folder), "smoke", True)
    assert ids(folder) == []


def test_other_data_go_with_stale_alone_also_by_forget(folder, monkeypatch) -> None:
    monkeypatch.setattr(DataNow, "__call__", lambda self, record: "changed")
    found(folder, "2 runs made with other data")
    assert fix(examined(folder), "smoke", False) == {}
    runs = registry.product("fig1").runs("smoke", "wikitext2")
    assert keep._forget_runs(runs, folder, True) == 2
    assert ids(folder) == []


def test_forget_and_status_agree_with_the_doctor(folder) -> None:
    runs = registry.product("fig1").runs("smoke", "wikitext2")
    assert keep._forget_runs(runs, folder, True) == 0
    path = folder.path(ids(folder)[0])
    path.write_bytes(path.read_bytes()[:-20])
    counts = look._runs_status(registry.product("fig1"), "smoke", "wikitext2", stack=1)
    assert counts[:5] == ("1", "24", "0", "1", "0")
    assert keep._forget_runs(runs, folder, True) == 1
    assert keep._forget_runs(runs, folder, False) == 1


def test_forget_sets_a_folder_in_a_runs_place_aside(folder, capsys) -> None:
    runs = registry.product("fig1").runs("smoke", "wikitext2")
    path = folder.path(ids(folder)[0])
    path.unlink()
    (path / "mine").mkdir(parents=True)
    assert keep._forget_runs(runs, folder, False) == 2
    kept = folder.folder / "damaged" / f"{path.stem}-1.parquet"
    assert ids(folder) == [] and (kept / "mine").exists()
    assert capsys.readouterr().err == f"{path}: a folder, kept as {kept}\n"


def test_notes_are_not_wrong(folder, capsys) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat(timespec="seconds")
    change(folder, finished_at=tomorrow)
    first = folder.read(ids(folder)[0])
    write_tables(folder.folder / "fig1", [first])
    os.utime(folder.folder / "fig1" / "claims.json")
    found(folder, "clock was set back", note=True)
    change(folder)
    write_tables(folder.folder / "fig1", [folder.read(i) for i in ids(folder)])
    os.utime(folder.folder / "fig1" / "claims.json")
    folder.write(record())
    found(folder, "needed by no figure or table", note=True)
    keep.doctor("smoke", "wikipedia_sample", fix=True)
    assert "in order" in capsys.readouterr().out
    assert len(ids(folder)) == 3


def test_tables_and_claims_older_than_their_runs(folder) -> None:
    change(folder, seconds=9.0)
    found(folder, "tables are older than their runs")
    fixed(folder)
    tables = folder.folder / "fig1"
    assert {p.name for p in tables.iterdir()} == {
        "runs.parquet",
        "curves.parquet",
        "provenance.parquet",
    }
    write_tables(tables, [folder.read(i) for i in ids(folder)])
    (tables / "scale.json").write_text('{"scale": "smoke"}')
    (tables / "claims.json").write_text("[]")
    os.utime(tables / "claims.json", (1, 1))
    found(folder, "claims.json: older than its table")
    fixed(folder)
    (tables / "claims.json").write_text('[{"id"')
    found(folder, "claims.json: Invalid JSON")
    fixed(folder)


def test_damaged_tables(folder) -> None:
    table = folder.folder / "fig1" / "curves.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    found(folder, "damaged tables")
    fixed(folder)
    assert len(ids(folder)) == 2


def test_no_space_left(folder, monkeypatch) -> None:
    usage = type("usage", (), {"free": 1e6})
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage)
    assert not found(folder, "1 MB left on the disk").fixable


def test_a_read_only_folder(folder, monkeypatch) -> None:
    real = os.access
    monkeypatch.setattr(
        folders.os, "access", lambda p, mode: p != folder.folder / "runs" and real(p, mode)
    )
    assert not found(folder, "runs: read-only").fixable


def test_a_run_that_was_fixed_meanwhile_or_is_being_trained_stays(folder) -> None:
    path = folder.path(ids(folder)[0])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    findings = examined(folder)
    with folder.claim(path.stem):
        assert list(fix(findings, "smoke", False).values()) == [False]
    path.write_bytes(whole)
    assert list(fix(findings, "smoke", False).values()) == [False]
    assert path.read_bytes() == whole


def test_nothing_is_fixed_under_a_running_workflow(folder) -> None:
    (folder.folder / "locks").mkdir()
    (folder.folder / "locks" / f"{'0' * 16}.lock").write_text("")
    findings = examined(folder)
    with (
        files.FileLock(folder.folder / ".workflow.lock"),
        pytest.raises(UserError, match="a workflow runs in"),
    ):
        fix(findings, "smoke", False)


def test_exit_status(folder, capsys) -> None:
    (folder.folder / "locks").mkdir()
    (folder.folder / "locks" / f"{'0' * 16}.lock").write_text("")
    with pytest.raises(typer.Exit) as wrong:
        keep.doctor("smoke", "wikipedia_sample")
    assert wrong.value.exit_code == 1
    assert "lock file that no process holds; --fix: removed" in capsys.readouterr().out
    with pytest.raises(typer.Exit):
        keep.doctor("smoke", "wikipedia_sample", fix=True)
    assert "fixed: removed" in capsys.readouterr().out
    keep.doctor("smoke", "wikipedia_sample")
    with pytest.raises(UserError, match="give both"):
        keep.doctor("smoke", stale=True)


def test_data_of_a_run_are_asked_of_its_task(tiny, tmp_path) -> None:
    from tests.tiny_runs import tiny_run

    (made,) = training.train_runs([tiny_run(seed=7)], Store(tmp_path / "store"))
    data_now = DataNow()
    assert data_now(made) == made.provenance.data_fingerprint
    other = dataclasses.replace(
        made, provenance=dataclasses.replace(made.provenance, data_fingerprint="other")
    )
    assert data_now(other) == made.provenance.data_fingerprint
    unknown = dataclasses.replace(made, config={**made.config, "news": 1})
    assert DataNow()(unknown) is None
    assert json.dumps(sorted(map(list, data_now.known))) == (
        '[["transformer_wikitext2", "wikitext2"]]'
    )
