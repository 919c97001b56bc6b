"""Run the test suite of the `mup` package on mupkit, with nothing but its imports changed.

    git clone https://github.com/microsoft/mup
    python tools/mup_suite.py mup

The checkout is copied and stays as it is. The suite trains on CIFAR-10 through torchvision; where
that is missing, digits of scikit-learn take its place, as large, with three equal colours. Without
a GPU `.cuda()` does nothing. Both are said. What the suite prints follows; the exit code is 1 if a
test fails. `--package mup` runs the same on mup, if that is installed.
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
TORCHVISION = """
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

class transforms:
    Compose = ToTensor = Normalize = staticmethod(lambda *args: None)

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


def copy_suite(checkout: Path, folder: Path, under_test: str) -> list[str]:
    """Write the suite to `folder`; returns what was put in place of what is missing.

    Raises:
        FileNotFoundError: if the checkout has no suite.
    """
    import torch

    package = folder / PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("__main__.py", "models.py"):
        source = (checkout / "mup" / "test" / name).read_text(encoding="utf-8")
        (package / name).write_text(rewritten(source, under_test), encoding="utf-8")
    said = []
    if importlib.util.find_spec("torchvision") is None:
        (folder / "torchvision.py").write_text(TORCHVISION, encoding="utf-8")
        said.append("torchvision is missing: scikit-learn's digits in place of CIFAR-10")
    if not torch.cuda.is_available():
        (package / "__init__.py").write_text(NO_GPU, encoding="utf-8")
        said.append("there is no GPU: .cuda() does nothing")
    return said


def main() -> int:
    """Run the suite of the checkout that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="a clone of microsoft/mup")
    parser.add_argument("--package", default="mupkit", help="mupkit, or mup to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            said = copy_suite(options.checkout, Path(folder), options.package)
        except FileNotFoundError as error:
            print(f"{error.filename} is not there: give a clone of microsoft/mup", file=sys.stderr)
            return 2
        print("\n".join(said), flush=True)
        path = os.pathsep.join([folder, str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-m", PACKAGE]
        return subprocess.run(command, cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
