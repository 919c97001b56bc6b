"""Run the test suite of the `mup` package on mupkit, with nothing but its imports changed.

    git clone https://github.com/microsoft/mup
    python tools/mup_suite.py mup
    python tools/mup_suite.py mup MLPTrainCase.test_adam --seed 1

The checkout is copied and stays as it is. The suite trains on CIFAR-10 through torchvision; where
that is missing, CIFAR-10 is read from MUPKIT_DATA, and without that digits of scikit-learn take its
place, as large, with three equal colours. Some of its tests compare losses of three widths in one
run, which chance decides on so easy a set. Without a GPU `.cuda()` does nothing. All of it is said.
What the suite prints follows; the exit code is 1 if a test fails. `--package mup` runs the same on
mup, if that is installed: with one seed both draw the same numbers.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "mup_suite"
TRANSFORMS = """
class transforms:
    Compose = ToTensor = Normalize = staticmethod(lambda *args: None)
"""
CIFAR10 = """
from experiments.data.images import load_images
from torch.utils.data import Dataset

class CIFAR10(Dataset):
    def __init__(self, **options):
        self.images = load_images("cifar10")

    def __len__(self):
        return len(self.images.train)

    def __getitem__(self, i):
        return self.images.train[i] / 127.5 - 1, int(self.images.train_labels[i])

class datasets:
    CIFAR10 = CIFAR10
"""
DIGITS = """
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

class datasets:
    @staticmethod
    def CIFAR10(**options):
        images, labels = load_digits(return_X_y=True)
        images = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 8 - 1
        images = torch.nn.functional.interpolate(images, scale_factor=4).repeat(1, 3, 1, 1)
        return TensorDataset(images, torch.from_numpy(labels))
"""
NO_GPU = """
import torch

torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **options: self
"""


def rewritten(text: str, package: str) -> str:
    """A file of the suite with another package in place of mup."""
    text = re.sub(r"\bmup\.test\b", PACKAGE, text)
    return re.sub(r"^(\s*(?:from|import)) mup\b", rf"\1 {package}", text, flags=re.MULTILINE)


def copy_suite(checkout: Path, folder: Path, under_test: str, seed: int | None) -> list[str]:
    """Write the suite to `folder`; returns what was put in place of what is missing.

    Raises:
        FileNotFoundError: if the checkout has no suite.
    """
    import torch

    package = folder / PACKAGE
    package.mkdir()
    start = "" if seed is None else f"import torch\n\ntorch.manual_seed({seed})\n"
    for name in ("__main__.py", "models.py"):
        source = (checkout / "mup" / "test" / name).read_text(encoding="utf-8")
        (package / name).write_text(rewritten(source, under_test), encoding="utf-8")
    said = []
    if importlib.util.find_spec("torchvision") is None:
        data = os.environ.get("MUPKIT_DATA")
        text = TRANSFORMS + (CIFAR10 if data else DIGITS)
        (folder / "torchvision.py").write_text(text, encoding="utf-8")
        instead = f"CIFAR-10 of MUPKIT_DATA ({data})" if data else "scikit-learn's digits"
        said.append(f"torchvision is missing: {instead} in place of its CIFAR-10")
    if not torch.cuda.is_available():
        start += NO_GPU
        said.append("there is no GPU: .cuda() does nothing")
    (package / "__init__.py").write_text(start, encoding="utf-8")
    return said


def main() -> int:
    """Run the suite of the checkout that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="a clone of microsoft/mup")
    parser.add_argument("tests", nargs="*", help="such as MLPTrainCase.test_adam; else all")
    parser.add_argument("--package", default="mupkit", help="mupkit, or mup to compare with")
    parser.add_argument("--seed", type=int, help="of torch; the suite itself sets none in places")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            said = copy_suite(options.checkout, Path(folder), options.package, options.seed)
        except FileNotFoundError as error:
            print(f"{error.filename} is not there: give a clone of microsoft/mup", file=sys.stderr)
            return 2
        print("\n".join(said), flush=True)
        path = os.pathsep.join([folder, str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        module = f"{PACKAGE}.__main__"
        named = [f"{module}.{test}" for test in options.tests] or [module]
        command = [sys.executable, "-m", "unittest", *named]
        return subprocess.run(command, cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
