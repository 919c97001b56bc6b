"""What a training process loads."""

import subprocess
import sys

import pytest

HEAVY = ("torch._dynamo", "pandas", "matplotlib", "transformers", "scipy", "sklearn", "datasets")
OF_DIGITS = ["pandas", "scipy", "sklearn"]  # decoding scikit-learn's images, once on a machine
SMALL = "--width 32 --base-width 16 --batch-size 4 --seq-len 8 --vocab-size 100"
CODE = """
import sys
from pathlib import Path
from experiments.cli.train import _configured
from experiments.declare import registry
from experiments.runs.store import Store
from experiments.runs.training import train_runs
family, data, options, folder, *heavy = sys.argv[1:]
config = _configured(registry.family(family), options.split(), data)
train_runs([config], Store(Path(folder)))
print([name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("family", "data", "options", "needed"),
    [
        ("transformer_wikitext2", "wikitext2", f"--steps 2 {SMALL}", []),
        ("mlp_cifar10", "digits", "--width 64 --steps 2 --momentum 0.9", OF_DIGITS),
    ],
)
def test_training_loads_neither_a_compiler_nor_tables(
    family, data, options, needed, tiny, tmp_path
):
    """Each takes a part of a second or more, of the four that a start once took."""
    command = [sys.executable, "-c", CODE, family, data, options, str(tmp_path), *HEAVY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{needed}\n"
