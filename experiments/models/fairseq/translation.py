"""fairseq-generate for one checkpoint, as a process of its own.

`python -m experiments.models.fairseq.translation DIGEST ARGUMENTS...` goes on as
`fairseq-generate ARGUMENTS...` if the file of --path has this SHA-256 digest.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from experiments.files import sha256


def main() -> None:
    """Check the checkpoint, then translate.

    fairseq's checkpoints are pickles. torch reads them as tensors and plain values, with no class
    but the `Namespace` of the options (the runner sets TORCH_FORCE_WEIGHTS_ONLY_LOAD).
    """
    digest = sys.argv.pop(1)
    checkpoint = Path(sys.argv[sys.argv.index("--path") + 1])
    if sha256(checkpoint) != digest:
        sys.exit(f"{checkpoint} is not the file that the training wrote: its digest is another")

    import torch
    from fairseq_cli import generate

    torch.serialization.add_safe_globals([Namespace])
    generate.cli_main()


if __name__ == "__main__":
    main()
