"""The workflow on a SLURM of two nodes: jobs ask, are cancelled or ended for their memory, go on,
and train the same bits."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).parents[2]
UP = str(ROOT / "tools" / "slurm.sh")
FIGURES, SMOKE = ("fig21", "fig1_bfloat16"), ("--config", "scale=smoke")  # each a group of 24 runs
THERE_IS_ANOTHER = 3


def profile(name: str) -> dict:
    return yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def slurm(tmp_path):
    """A SLURM of two nodes, for this test alone."""
    for program in ("slurmctld", "slurmd", "munged"):
        if shutil.which(program) is None:
            pytest.skip("no SLURM: apt-get install -y --no-install-recommends slurm-wlm munge")
    if os.geteuid():
        pytest.skip("only root can start a SLURM")
    with FileLock(Path(tempfile.gettempdir()) / "mupkit-slurm.lock"):
        up = subprocess.run([UP, "start", tmp_path / "slurm", "2"], capture_output=True, text=True)
        if up.returncode == THERE_IS_ANOTHER:
            pytest.skip(up.stderr.strip())
        assert up.returncode == 0, up.stderr
        yield
        subprocess.run([UP, "stop"], check=True)


def state(job: str) -> str:
    """All that SLURM says of a job, of one that has ended, too."""
    command = ["scontrol", "show", "job", job]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def jobs(states: str) -> list[str]:
    """Jobs in some states, such as "PENDING,RUNNING"."""
    command = ["squeue", "--noheader", f"--states={states}", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def waiting() -> list[str]:
    """Jobs that wait or run."""
    return jobs("PENDING,RUNNING")


def until(condition, workflow: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert workflow.poll() is None, workflow.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def start(project, figures: tuple[str, ...], *resources: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", *figures, *SMOKE]
    command += ["--workflow-profile", "profiles/slurm"]
    command += ["--slurm-init-seconds-before-status-checks", "1"]
    # A request of the profile comes before the rule's; the GPU is one in name alone.
    command += ["--set-resources", "train:slurm_partition=gpu", "train:gpu=1", *resources]
    kind = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=project.root, env=project.env, **kind)


def table(root: Path, figure: str, name: str) -> bytes:
    return (root / "results" / "smoke" / figure / f"{name}.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_jobs_are_cancelled_ended_requeued_and_train_the_same_bits(
    project, slurm, tmp_path
) -> None:
    local = tmp_path / "local"
    shutil.copytree(project.root, local)
    folder = project.root / "results" / "smoke" / "runs"

    def stored() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.parquet")}

    # Any signal cancels the jobs, which may wait in the queue for days.
    partition = ["scontrol", "update", "PartitionName=gpu"]
    subprocess.run([*partition, "State=DOWN"], check=True)
    workflow = start(project, FIGURES)
    until(lambda: len(waiting()) == len(FIGURES), workflow)
    cancelled = waiting()
    for asked in map(state, cancelled):
        for request in ("TimeLimit=00:11:00", "MinMemoryNode=4001M", "Partition=gpu", "gres:gpu:1"):
            assert request in asked
    time.sleep(3)  # sbatch has long returned, and Snakemake has looked at the job
    workflow.send_signal(signal.SIGTERM)
    said = workflow.communicate(timeout=120)[1]
    assert "of 48 runs are kept; the same command goes on with the rest" in said
    assert "Traceback" not in said
    assert workflow.returncode == 1
    assert all("JobState=CANCELLED" in state(job) for job in cancelled)
    subprocess.run([*partition, "State=UP"], check=True)

    # Jobs that SLURM ends for their memory get more; those that are preempted go on with the runs
    # that are not there.
    workflow = start(project, FIGURES, "train:mem_mb=150*attempt**3")
    until(lambda: len(jobs("FAILED")) == len(FIGURES), workflow)
    until(lambda: len(stored()) >= 1 and len(jobs("RUNNING")) == len(FIGURES), workflow)
    running = jobs("RUNNING")
    for job in jobs("FAILED"):
        assert "MinMemoryNode=150M" in state(job)
    for job in running:
        assert "MinMemoryNode=1200M" in state(job)
    nodes = {re.search(r" NodeList=(\S+)", state(job))[1] for job in running}
    assert nodes == {"node1", "node2"}
    subprocess.run(["scontrol", "requeue", *running], check=True)
    before = stored()
    assert len(before) < 48
    # Meanwhile the same groups are trained without a cluster, and undisturbed.
    logs = [*(project.root / "logs" / "smoke" / "train").iterdir()]
    trained, collected = (("train", log.stem) for log in logs), (("collect", f) for f in FIGURES)
    for command in (*trained, *collected):
        alone = [sys.executable, "-m", "experiments", *command, "--scale", "smoke"]
        done = subprocess.run(alone, cwd=local, env=project.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    out, said = workflow.communicate(timeout=240)
    assert workflow.returncode == 0, said
    for job in running:
        assert {"JobState=COMPLETED", "Restarts=1"} <= {*state(job).split()}
    after = stored()
    assert len(after) == 48
    assert {path: after[path] for path in before} == before
    for log in logs:  # no job helps another
        assert f"{log.stem}: 24 of 24 runs" in log.read_text(encoding="utf-8")
    for figure in FIGURES:
        for name in ("runs", "curves"):  # all but where and when
            assert table(project.root, figure, name) == table(local, figure, name)
        assert (project.root / "figures" / "smoke" / f"{figure}.png").exists()
    # What jobs say is in their logs; how far they are and the verdicts are on the terminal.
    assert "2 figures and tables: 48 of 48 runs" in said
    assert "not judged" in out + said


def test_the_profile_differs_from_the_default_one_only_where_it_means_to() -> None:
    default, ours = profile("default"), profile("slurm")
    assert default.pop("cores") == "all"  # the rules ask for what they need
    assert {*default.pop("quiet")} - {*ours["quiet"]} == {"rules"}  # which includes failed jobs
    assert {key: ours.get(key) for key in default} == default
