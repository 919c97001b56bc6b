"""No file that is read back ends anything with a traceback, is waited for, or is used unseen."""

import ast
import os
import re
from pathlib import Path

import pytest

from experiments.declare import registry
from experiments.errors import UserError
from experiments.files import DamagedFileError
from experiments.products import tidy_tables
from experiments.products.doctor import runs as doctor_runs
from experiments.products.doctor.examine import examine
from experiments.products.doctor.finding import Finding
from experiments.products.doctor.fix import fix
from tests.experiments.stored_files import KINDS, PLACES, damage, generated

ROOT = Path(__file__).parents[2]
CASES = [(name, how) for name, kind in KINDS.items() for how in kind.reactions()]
DOCTORED = [
    (name, how)
    for name, how in CASES
    if KINDS[name].doctor and (how in PLACES or (KINDS[name].contents and how == "random bytes"))
]
ERRORS = (UserError, DamagedFileError, ValueError, OSError)  # whose line is shown
# Functions by which a file is opened, and modules that open others than those of KINDS.
OPENERS = {
    *("read_json", "read_regular", "open_regular", "read_text", "read_bytes", "safe_open"),
    *("ParquetFile", "from_file", "np.load", "locked", "take_lock"),
}
ELSEWHERE = {
    "experiments.products.report.page": "its own template, style and script",
    "experiments.data.parquet": "the data folder: tests/experiments/data",
    "experiments.data.iwslt14": "the data folder: tests/experiments/data",
    "experiments.models.fairseq.runner": "a training's own folder, which goes with it",
    "experiments.models.fairseq.plugin.mupkit_fairseq.given_rates": "the same",
    "experiments.models.fairseq.plugin.mupkit_fairseq.tasks.translation_in_batches": "the same",
    "experiments.products.doctor.cache": "the doctor looks at what others read",
    "experiments.products.doctor.fix": "the doctor looks at what others read",
    "experiments.products.readme": "pages of the checkout",
    "experiments.runs.versions": "source code",
    "mupkit.transfer": "a user's own file",
}


@pytest.fixture
def results(healthy_store, monkeypatch) -> Path:
    """A healthy results folder."""
    needed = {path.stem for path in (healthy_store.folder / "runs").iterdir()}
    monkeypatch.setattr(doctor_runs, "_needed", lambda scale: needed)
    return healthy_store.folder


def damaged(path: Path, how: str) -> None:
    if how == "unreadable" and not os.geteuid():
        pytest.skip("root reads everything")
    damage(path, how)


def restored(path: Path, content: bytes) -> None:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_damaged_file_is_made_again_or_named(results, monkeypatch, capsys, name, how) -> None:
    kind = KINDS[name]
    wanted = kind.reactions()[how]
    stored = kind.make(results, monkeypatch)
    contents = {path: path.read_bytes() if path.exists() else b"" for path in stored.paths}
    whole = stored.read()
    for path, content in contents.items():
        restored(path, content)  # a lock goes when it is released
        damaged(path, how)
        capsys.readouterr()
        if wanted == "named":
            with pytest.raises(ERRORS) as raised:
                stored.read()
            assert path.name in str(raised.value) and "\n" not in str(raised.value)
        else:
            assert stored.read() == (whole if stored.after is None else stored.after[0])
            said = capsys.readouterr().err
            if wanted == "made again" and how != "absent":
                assert path.name in said or path.parent.name in said
        restored(path, content)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "how"), DOCTORED)
def test_the_doctor_names_it_and_what_it_fixes_is_gone(results, monkeypatch, name, how) -> None:
    stored = KINDS[name].make(results, monkeypatch)
    assert wrong() == []
    path = stored.paths[-1]
    restored(path, path.read_bytes() if path.exists() else b"")
    damaged(path, how)
    found = wrong()
    assert any(str(path) in one.text or str(path.parent) in one.text for one in found)
    assert all(fix(found, "smoke", False).values())
    left = wrong()
    assert not any(one.fixable for one in left)
    assert not left or os.path.lexists(path)


@pytest.mark.parametrize("name", ["runs", "curves", "provenance"])
def test_whole_tables_of_other_numbers_are_named(results, name) -> None:
    """As Parquet nothing is wrong with them: scale.json alone tells."""
    fig1 = registry.product("fig1")
    table = tidy_tables.read_table(fig1, "smoke", name)
    path = results / "fig1" / f"{name}.parquet"
    table.iloc[::-1].to_parquet(path, index=False)
    with pytest.raises(UserError, match=f"{path}: its content does not match its checksum"):
        tidy_tables.read_table(fig1, "smoke", name)


def test_a_table_of_other_columns_is_named_without_digests_too(results) -> None:
    fig1 = registry.product("fig1")
    (results / "fig1" / "scale.json").write_text('{"scale": "smoke"}', encoding="utf-8")
    table = tidy_tables.read_table(fig1, "smoke", "runs")
    table.drop(columns="final_loss").to_parquet(results / "fig1" / "runs.parquet", index=False)
    with pytest.raises(UserError, match=r"runs\.parquet: no column final_loss"):
        tidy_tables.read_table(fig1, "smoke", "runs")


def wrong() -> list[Finding]:
    return [one for one in examine("smoke") if not one.note]


def test_every_module_that_opens_files_is_among_the_kinds() -> None:
    found = set()
    for path in [*ROOT.glob("experiments/**/*.py"), *ROOT.glob("mupkit/**/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        if OPENERS & {*called, *(name.rpartition(".")[2] for name in called)}:
            found.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert found == {reader for kind in KINDS.values() for reader in kind.readers} | {*ELSEWHERE}


def test_the_page_says_what_is_tested_and_where() -> None:
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    assert page.partition("<!-- damages:begin -->\n")[2].startswith(
        f"{generated()}\n<!-- damages:end -->"
    ), "print it anew by `python -m tests.experiments.stored_files`"
    for path in re.findall(r"`((?:tests|benchmarks)/[^`]+)`", page):
        assert (ROOT / path).exists(), path
