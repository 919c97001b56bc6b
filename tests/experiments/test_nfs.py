"""Locks, claims and replaced files over a real NFS, between two kernels (`tools/nfs.py`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISSING = 3
VERSIONS = {"4.2": "/run/nfs4", "3": "/run/nfs3"}


class Nodes:
    def __init__(self, state: Path):
        self.state = state
        self.started: list[subprocess.Popen] = []

    def tool(self, *command) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        whole = [sys.executable, ROOT / "tools" / "nfs.py", *command]
        self.started.append(subprocess.Popen(whole, cwd=ROOT, **pipes))
        return self.started[-1]

    def begin(self, node: str, *command: str) -> subprocess.Popen:
        return self.tool("run", self.state, node, *command)

    def play(self, node: str, *command: str) -> subprocess.Popen:
        return self.begin(node, sys.executable, "-m", "tests.experiments.nfs_node", *command)


def ended(process: subprocess.Popen) -> str:
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def until_there(nodes: Nodes, node: str, path: str) -> None:
    ended(
        nodes.begin(node, "timeout", "60", "sh", "-c", f"until [ -e {path} ]; do sleep 0.1; done")
    )


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    made = Nodes(tmp_path_factory.mktemp("nfs") / "state")
    up = made.tool("start", made.state)
    said, _ = up.communicate()
    if up.returncode == MISSING:
        pytest.skip(said.strip())
    assert up.returncode == 0, said
    yield made
    ended(made.tool("stop", made.state))


@pytest.fixture(params=VERSIONS)
def folder(request, nodes):
    """A folder of both nodes, with nothing in it."""
    path = f"{VERSIONS[request.param]}/{os.urandom(4).hex()}"
    ended(nodes.begin("a", "mkdir", path))
    yield path
    for process in nodes.started:
        process.kill()
        process.wait()
        process.stdout.close()


pytestmark = [pytest.mark.slow, pytest.mark.nfs]


def test_one_process_of_both_nodes_holds_a_lock(nodes, folder) -> None:
    counting = [nodes.play(node, "count", folder, "20") for node in "aab"]
    for process in counting:
        ended(process)
    for node in "ab":
        assert ended(nodes.begin(node, "cat", f"{folder}/count")) == "60"


def test_a_killed_process_holds_no_lock(nodes, folder) -> None:
    holding = nodes.play("a", "hold", folder)
    until_there(nodes, "a", f"{folder}/pid")
    ended(nodes.play("b", "find_held", folder))
    ended(nodes.begin("a", "sh", "-c", f"kill -9 $(cat {folder}/pid)"))
    holding.communicate()
    assert holding.returncode == 128 + 9
    ended(nodes.play("b", "find_free", folder))


def test_a_file_that_another_node_replaces_is_whole(nodes, folder) -> None:
    ended(nodes.play("a", "replace", folder, "1"))
    reading = nodes.play("b", "read", folder)
    until_there(nodes, "b", f"{folder}/reading")
    ended(nodes.play("a", "replace", folder, "100"))
    ended(nodes.begin("b", "touch", f"{folder}/end"))
    ended(reading)


def test_writers_of_one_file_do_not_disturb_each_other(nodes, folder) -> None:
    for writing in [nodes.play(node, "write", folder, "50") for node in "abab"]:
        ended(writing)
    assert ended(nodes.begin("a", "ls", "-A", folder)) == "same\n"


def test_a_file_that_another_node_made_is_seen_if_the_folder_is_looked_at_anew(
    nodes, folder
) -> None:
    """A node takes a file to be missing for a minute that it looked for before."""
    looking = nodes.play("b", "look", folder)
    until_there(nodes, "b", f"{folder}/looked")
    ended(nodes.begin("a", "touch", f"{folder}/late"))
    ended(looking)


def test_runs_that_both_nodes_train_are_trained_once(nodes, folder) -> None:
    for process in [nodes.play(node, "train", folder, "20", node) for node in "ab"]:
        ended(process)
    trained = ended(nodes.begin("a", "sh", "-c", f"awk 1 {folder}/*.trained")).split()
    assert len({*trained}) == 20
    if folder.startswith(VERSIONS["4.2"]):  # version 3 does not tell two changes of one instant
        assert len(trained) == 20
    assert ended(nodes.begin("a", "ls", "-A", f"{folder}/results/locks")) == ""
