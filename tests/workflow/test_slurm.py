"""The workflow on a SLURM of one node: jobs ask, are cancelled, go on, and train the same bits."""

import os
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
FIGURE, SMOKE = "fig21", ("--config", "scale=smoke")  # one group of 24 runs
THERE_IS_ANOTHER = 3


def profile(name: str) -> dict:
    return yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def slurm(tmp_path):
    """A SLURM of one node, for this test alone."""
    for program in ("slurmctld", "slurmd", "munged"):
        if shutil.which(program) is None:
            pytest.skip("no SLURM: apt-get install -y --no-install-recommends slurm-wlm munge")
    if os.geteuid():
        pytest.skip("only root can start a SLURM")
    with FileLock(Path(tempfile.gettempdir()) / "mupkit-slurm.lock"):
        up = subprocess.run([UP, "start", tmp_path / "slurm"], capture_output=True, text=True)
        if up.returncode == THERE_IS_ANOTHER:
            pytest.skip(up.stderr.strip())
        assert up.returncode == 0, up.stderr
        yield
        subprocess.run([UP, "stop"], check=True)


def state(job: str) -> str:
    """All that SLURM says of a job, of one that has ended, too."""
    command = ["scontrol", "show", "job", job]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def waiting() -> list[str]:
    """Jobs that wait or run."""
    command = ["squeue", "--noheader", "--states=PENDING,RUNNING", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def until(condition, workflow: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert workflow.poll() is None, workflow.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def table(root: Path, name: str) -> bytes:
    return (root / "results" / "smoke" / FIGURE / f"{name}.parquet").read_bytes()


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_jobs_are_cancelled_requeued_and_train_the_same_bits(project, slurm, tmp_path) -> None:
    local = tmp_path / "local"
    shutil.copytree(project.root, local)
    folder = project.root / "results" / "smoke" / "runs"

    def stored() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.parquet")}

    def start() -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", FIGURE, *SMOKE]
        command += ["--workflow-profile", "profiles/slurm"]
        command += ["--slurm-init-seconds-before-status-checks", "1"]
        # A request of the profile comes before the rule's; the GPU is one in name alone.
        command += ["--set-resources", "train:slurm_partition=gpu", "train:gpu=1"]
        kind = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=project.root, env=project.env, **kind)

    # Any signal cancels the jobs, which may wait in the queue for days.
    partition = ["scontrol", "update", "PartitionName=gpu"]
    subprocess.run([*partition, "State=DOWN"], check=True)
    workflow = start()
    until(waiting, workflow)
    (job,) = waiting()
    time.sleep(3)  # sbatch has long returned, and Snakemake has looked at the job
    workflow.send_signal(signal.SIGTERM)
    said = workflow.communicate(timeout=120)[1]
    assert "of 24 runs are kept; the same command goes on with the rest" in said
    assert "Traceback" not in said
    assert workflow.returncode == 1
    assert "JobState=CANCELLED" in state(job)
    subprocess.run([*partition, "State=UP"], check=True)

    # A job that is preempted goes on with the runs that are not there.
    workflow = start()
    until(lambda: len(stored()) >= 1, workflow)
    (job,) = waiting()
    asked = state(job)
    for request in ("TimeLimit=00:11:00", "MinMemoryNode=4001M", "Partition=gpu", "gres:gpu:1"):
        assert request in asked
    subprocess.run(["scontrol", "requeue", job], check=True)
    before = stored()
    assert len(before) < 24
    # Meanwhile the same group is trained without a cluster, and undisturbed.
    (log,) = (project.root / "logs" / "smoke" / "train").iterdir()
    for command in (("train", log.stem), ("collect", FIGURE)):
        alone = [sys.executable, "-m", "experiments", *command, "--scale", "smoke"]
        done = subprocess.run(alone, cwd=local, env=project.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    out, said = workflow.communicate(timeout=240)
    assert workflow.returncode == 0, said
    assert {"JobState=COMPLETED", "Restarts=1"} <= {*state(job).split()}
    after = stored()
    assert len(after) == 24
    assert {path: after[path] for path in before} == before
    assert f"{log.stem}: 24 of 24 runs" in log.read_text(encoding="utf-8")  # it helps no other
    for name in ("runs", "curves"):  # all but where and when
        assert table(project.root, name) == table(local, name)
    assert (project.root / "figures" / "smoke" / f"{FIGURE}.png").exists()
    # What jobs say is in their logs; how far they are and the verdicts are on the terminal.
    assert f"{FIGURE}: 24 of 24 runs" in said
    assert "not judged" in out + said


def test_the_profile_differs_from_the_default_one_only_where_it_means_to() -> None:
    default, ours = profile("default"), profile("slurm")
    assert default.pop("cores") == "all"  # the rules ask for what they need
    assert {*default.pop("quiet")} - {*ours["quiet"]} == {"rules"}  # which includes failed jobs
    assert {key: ours.get(key) for key in default} == default
