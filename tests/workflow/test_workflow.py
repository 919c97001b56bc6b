"""The workflow itself: it trains, draws, resumes, repairs, and says what is wrong."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments.declare import registry

SMOKE = ("--config", "scale=smoke")


def stored(project) -> list[Path]:
    return sorted((project.root / "results" / "smoke" / "runs").glob("[!.]*.parquet"))


def made(project, name: str) -> bool:
    """Whether every file of a figure or table was drawn."""
    drawn = project.root / "figures" / "smoke"
    return all((drawn / f"{name}.{s}").exists() for s in registry.product(name).suffixes)


def table(project, name: str) -> bytes:
    return (project.root / "results" / "smoke" / "fig1" / f"{name}.parquet").read_bytes()


def made_files(project) -> dict[Path, tuple[bytes, int]]:
    """Content and time of everything that a workflow makes, by path."""
    return {
        path: (b"" if path.is_dir() else path.read_bytes(), path.stat().st_mtime_ns)
        for folder in ("results", "figures", "logs")
        for path in (project.root / folder).rglob("*")
        if path.name != "runs"  # the folder's own time says that a run was moved away
    }


@pytest.mark.slow
@pytest.mark.timeout(900)  # everything at smoke, one minute and a half on two idle cores
def test_smoke_trains_and_draws_real_text(project) -> None:
    # Neither data folder nor network: the text that a dependency ships.
    env = {k: v for k, v in project.env.items() if k != "MUPKIT_DATA"}
    project.env = {**env, "HF_HUB_OFFLINE": "1"}
    done = project.snakemake("all", *SMOKE)
    # The data of some families can't be had without either: their jobs say so, and all others'
    # products are made.
    missing = {name for name in registry.products() if not made(project, name)}
    without = ("wide_resnet_imagenet", "transformer_iwslt14", "transformer_wmt14")
    expected = {product.name for name in without for product in registry.exhibit(name).products}
    assert (done.returncode, missing) == (1, expected), done.stderr
    assert "error: neither ImageNet nor Tiny-ImageNet can be had; set MUPKIT_DATA" in done.stderr
    runs = pd.read_parquet(project.root / "results/smoke/fig1/runs.parquet")
    assert set(runs["data"]) == {"wikipedia_sample"}
    assert runs["final_loss"].between(1, 6).all()
    figures = project.root / "figures" / "smoke"
    svg = (figures / "fig1.svg").read_text(encoding="utf-8")
    for text in ("106 English Wikipedia articles", "scale: smoke", "log2 learning rate"):
        assert text in svg
    assert (figures / "fig1.png").stat().st_size > 20_000
    assert len(pd.read_csv(figures / "fig1.csv")) == len(runs) == 24
    assert set(runs["id"]) < {path.stem for path in stored(project)}
    verdicts = json.loads((project.root / "results/smoke/fig1/claims.json").read_text())
    assert {v["verdict"] for v in verdicts} == {"not judged"}
    assert f"{len(runs)} of {len(runs)} runs" in done.stderr
    # What is measured or drawn without training is there too.
    tables = project.root / "results" / "smoke"
    assert len(pd.read_parquet(tables / "table14" / "runs.parquet")) == 3 * 2 * 4
    assert pd.read_parquet(tables / "fig2" / "runs.parquet").empty
    assert not (tables / "table14" / "curves.parquet").exists()
    files = {p.name for p in figures.iterdir()}
    assert {"fig2.svg", "fig11.png", "table8.md", "table8.tex", "table8.html"} <= files
    assert "fig2.csv" not in files


@pytest.mark.slow
@pytest.mark.timeout(900)  # five workflows, half a minute on two idle cores
def test_again_trains_nothing_and_damage_is_repaired(project, finish) -> None:
    finish()
    times = {p: p.stat().st_mtime_ns for p in stored(project)}
    whole = table(project, "runs")
    again = project.snakemake("fig1", *SMOKE)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stderr

    broken, lost = stored(project)[:2]
    broken.write_bytes(broken.read_bytes()[:-30])
    lost.unlink()
    damaged = project.experiments("status", "fig1", "--scale", "smoke")
    assert broken.name in damaged.stderr
    repaired = project.snakemake("fig1", *SMOKE)
    assert repaired.returncode == 0, repaired.stderr
    assert broken.name in repaired.stderr
    changed = {p for p in stored(project) if p.stat().st_mtime_ns != times[p]}
    assert changed == {broken, lost}
    assert table(project, "runs") == whole

    tidy = project.root / "results/smoke/fig1/runs.parquet"
    tidy.write_bytes(tidy.read_bytes()[:-30])
    mended = project.snakemake("fig1", *SMOKE)
    assert mended.returncode == 0, mended.stderr
    assert "the tables of fig1 are made again" in mended.stderr
    assert table(project, "runs") == whole

    forget = ("forget", "fig1", "--scale", "smoke")
    assert project.experiments(*forget, "--stale").stdout == "0 runs of fig1 dropped\n"
    core = project.root / "mupkit" / "rules.py"
    core.write_text(core.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    changed = project.snakemake("fig1", *SMOKE)
    assert "fig1: other code than this checkout's made 24 of its runs" in changed.stderr
    assert "--scale smoke --stale" in changed.stderr
    assert project.experiments(*forget, "--stale").stdout == "24 runs of fig1 dropped\n"
    assert stored(project) == []


@pytest.mark.slow
def test_looking_changes_nothing_and_names_what_was_lost(project, finish, tmp_path) -> None:
    def look() -> None:
        for looking in (("-n",), ("--list",), ("--lint",), ("--summary",), ("-n", "fig2")):
            done = project.snakemake(*looking, *SMOKE)
            assert done.returncode == 0, done.stderr

    def planned() -> str:
        """What a dry run of fig1 says, with every job."""
        done = project.snakemake("-n", "fig1", *SMOKE, "--quiet", "progress")
        return done.stdout + done.stderr

    look()
    assert made_files(project) == {}
    finish()
    whole = made_files(project)
    lost, kept = stored(project)[0], tmp_path / "kept.parquet"
    groups = (project.root / "results" / "smoke" / "groups").glob("*.done")
    markers = {path.stem: path.read_text(encoding="utf-8").split() for path in groups}
    (group,) = (name for name, ids in markers.items() if lost.stem in ids)

    lost.rename(kept)
    before = made_files(project)
    assert before.keys() == whole.keys() - {lost}
    look()
    plan = planned()
    assert made_files(project) == before
    assert "rule collect_fig1:" in plan and "rule draw_fig1:" in plan
    assert [name for name in markers if f"group={name}" in plan] == [group]
    assert "Nothing to be done" not in plan

    kept.rename(lost)
    assert made_files(project) == whole
    assert "Nothing to be done" in planned()

    lost.unlink()
    done = project.snakemake("fig1", *SMOKE)
    assert done.returncode == 0, done.stderr
    now = made_files(project)
    assert now.keys() == whole.keys()
    assert [path for path in stored(project) if now[path] != whole[path]] == [lost]
    assert "Nothing to be done" in project.snakemake("fig1", *SMOKE).stderr


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_bit_for_bit(project, finish) -> None:
    finish()
    undisturbed = {name: table(project, name) for name in ("runs", "curves")}
    csv = (project.root / "figures/smoke/fig1.csv").read_bytes()
    assert project.snakemake("purge", *SMOKE).returncode == 0
    assert os.listdir(project.root / "results" / "smoke") == [".workflow.lock"]

    running = subprocess.Popen(
        project.command("fig1", *SMOKE),
        cwd=project.root,
        env=project.env,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(stored(project)) < 5:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    time.sleep(0.5)
    survivors = {p: p.stat().st_mtime_ns for p in stored(project)}
    assert 5 <= len(survivors) < 24

    resumed = project.snakemake("fig1", *SMOKE)
    assert resumed.returncode == 0, resumed.stderr
    assert {p: p.stat().st_mtime_ns for p in survivors} == survivors
    for name, content in undisturbed.items():
        assert table(project, name) == content, name
    assert (project.root / "figures/smoke/fig1.csv").read_bytes() == csv


def test_clean_keeps_trained_runs(project) -> None:
    runs = project.root / "results" / "smoke" / "runs"
    runs.mkdir(parents=True)
    (runs / "a.parquet").write_bytes(b"")
    figures = project.root / "figures" / "smoke"
    figures.mkdir(parents=True)
    assert project.snakemake("clean", *SMOKE).returncode == 0
    assert runs.exists()
    assert not figures.exists()


def test_unknown_scale_and_missing_data_folder_are_one_clear_line(project, tmp_path) -> None:
    wrong = project.snakemake("fig1", "--config", "scale=huge")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[1:] == [
        "error: unknown scale 'huge' (allowed: gpu, paper, small, smoke)"
    ]
    nowhere, elsewhere = tmp_path / "nowhere", tmp_path / "elsewhere"
    project.env["MUPKIT_DATA"] = str(nowhere)
    lost = project.snakemake("fig1", *SMOKE)
    assert lost.returncode == 2
    assert lost.stderr.splitlines()[1].startswith(f"error: MUPKIT_DATA: {nowhere} does not exist")
    assert len(lost.stderr.splitlines()) == 2
    del project.env["MUPKIT_DATA"]
    moved = project.snakemake("fig1", *SMOKE, f"data_dir={elsewhere}")
    assert moved.returncode == 2
    assert f"{elsewhere} does not exist" in moved.stderr


def test_both_reports_show_what_is_there_and_no_home_is_needed(project, tmp_path) -> None:
    (tmp_path / "file").touch()
    for variable in ("HOME", "XDG_CACHE_HOME"):
        project.env[variable] = str(tmp_path / "file" / "home")
    made = project.snakemake("fig2", "table3", "report", *SMOKE)
    assert made.returncode == 0, made.stderr
    page = project.root / "figures" / "smoke" / "report.html"
    assert "Not there: no runs" in page.read_text(encoding="utf-8")
    entry = re.search(r"report.html: (\d+) of (\d+) figures and tables", made.stderr)
    assert entry and int(entry[1]) == 2 and int(entry[2]) == len(registry.products())
    own = project.snakemake("fig2", "table3", *SMOKE, "--report", "own.html")
    assert own.returncode == 0, own.stderr
    text = (project.root / "own.html").read_text(encoding="utf-8")
    for shown in (registry.product("fig2").title, registry.product("table3").title):
        assert json.dumps(shown)[1:-1] in text


def test_data_folder_without_one_familys_files_stops_that_family_alone(project, tmp_path) -> None:
    project.env["MUPKIT_DATA"] = str(tmp_path)
    both = project.snakemake("fig2", "fig1", *SMOKE)
    assert both.returncode == 1
    error = [line for line in both.stderr.splitlines() if line.startswith("error: ")]
    assert len(set(error)) == 1
    assert "wikitext-2-v1 does not hold train-0000I-of-0000N.parquet or train/" in error[0]
    assert (project.root / "figures" / "smoke" / "fig2.png").exists()


def test_a_measurement_is_made_again_when_its_code_or_settings_change(project) -> None:
    def seconds() -> float:
        (row,) = pd.read_parquet(folder / "provenance.parquet").to_dict("records")
        return row["seconds"]

    folder = project.root / "results" / "smoke" / "table14"
    assert project.snakemake("table14", *SMOKE).returncode == 0
    first, table = seconds(), (folder / "runs.parquet").read_bytes()
    assert "Nothing to be done" in project.snakemake("table14", *SMOKE).stderr
    code = project.root / "experiments" / "families" / "theory" / "sizes.py"
    code.write_text(code.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    status = project.experiments("status", "table14", "--scale", "smoke").stdout
    assert status.splitlines()[-1].split() == ["table14", "1", "1", "0", "1"]
    assert project.snakemake("table14", *SMOKE).returncode == 0
    assert seconds() != first
    assert (folder / "runs.parquet").read_bytes() == table
    spec = project.root / "experiments" / "families" / "theory" / "spec.py"
    text = spec.read_text(encoding="utf-8").replace('"widths": [16, 32, 64]', '"widths": [16, 32]')
    spec.write_text(text, encoding="utf-8")
    assert project.snakemake("table14", *SMOKE).returncode == 0
    assert len(pd.read_parquet(folder / "runs.parquet")) == 2 * 2 * 4
    assert project.experiments("forget", "table14", "--scale", "smoke").returncode == 0
    assert project.snakemake("table14", *SMOKE).returncode == 0
    assert len(pd.read_parquet(folder / "runs.parquet")) == 2 * 2 * 4


@pytest.mark.slow
@pytest.mark.timeout(600)  # four workflows, twenty seconds on two idle cores
def test_damaged_verdicts_are_made_again_once_by_the_same_command(project) -> None:
    def make(*more: str) -> str:
        done = project.snakemake("table14", *SMOKE, *more)
        assert done.returncode == 0, done.stderr
        return done.stderr

    make()
    claims = project.root / "results" / "smoke" / "table14" / "claims.json"
    whole = claims.read_bytes()
    claims.write_bytes(whole[:30])
    said = f"{claims}: Invalid JSON"
    assert said in make("-n") and claims.read_bytes() == whole[:30]
    again = make()
    assert again.count(said) == 1 and "table14 is drawn and judged again" in again
    assert claims.read_bytes() == whole
    after = make()
    assert said not in after and "Nothing to be done" in after


def test_results_folder_that_cannot_be_written_is_one_clear_line(project) -> None:
    (project.root / "results").mkdir()
    (project.root / "results" / "smoke").write_text("a file where a folder should be")
    done = project.snakemake("fig1", *SMOKE)
    assert done.returncode == 2
    assert "error: cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_paper_scale_dry_run(project) -> None:
    """The rules of every product are made, and jobs of these; all have some ten thousand."""
    products = ("fig7", "fig8", "table6", "table3", "kill_matrix")
    done = project.snakemake(*products, "--config", "scale=paper", "-n", "--quiet", "progress")
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
