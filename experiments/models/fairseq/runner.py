"""Training and translation by fairseq, in processes of its own, in a folder of the caller's.

Source: fairseq's recipe for IWSLT14 (examples/translation/README.md), which Tensor Programs V,
Appendix F.1, uses.
"""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.errors import UserError
from experiments.files import sha256

if TYPE_CHECKING:  # never imported here; so a run knows that these change its numbers
    from experiments.models.fairseq import translation  # noqa: F401
    from experiments.models.fairseq.plugin.mupkit_fairseq import (  # noqa: F401
        attention,
        exact_loss,
        given_rates,
        mup_adam,
    )
    from experiments.models.fairseq.plugin.mupkit_fairseq.models import (  # noqa: F401
        mup_transformer,
    )
    from experiments.models.fairseq.plugin.mupkit_fairseq.tasks import (  # noqa: F401
        translation_in_batches,
    )

ROOT = Path(__file__).parents[3]
PLUGIN = Path(__file__).parent / "plugin" / "mupkit_fairseq"
BOS, PAD, EOS, UNK = range(4)
"""The ids of fairseq's special symbols."""
Pairs = Mapping[str, tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]]
"""Sources and targets by split, as ids that end with `EOS`; "train" and "validation" are needed."""
LANGUAGES = ("src", "tgt")
SHARING = {
    "none": [],
    "decoder": ["--share-decoder-input-output-embed"],
    "all": ["--share-all-embeddings"],
}
DATA, CHECKPOINT = "data", "checkpoints/checkpoint_last.pt"  # in a training's folder
LINES = 3  # of the log of a process that failed


@dataclass(frozen=True)
class Dimensions:
    """The dimensions of encoder and decoder alike; `d_model` is a multiple of `n_head`."""

    d_model: int
    d_ffn: int
    n_head: int
    d_k: int
    d_v: int


@dataclass(frozen=True)
class Options:
    """Everything that changes the numbers of a training, beside its data.

    Args:
        shape: the model's dimensions.
        base: the dimensions at which µP equals SP; None for SP.
        encoder_layers, decoder_layers: depth.
        share: which embeddings are one: "decoder" for those of the decoder's input and output,
            "all" for these and the encoder's, or "none".
        output_mult, attn_mult: multipliers of the logits and of the attention's logits.
        init_std: a factor of fairseq's own initialization of all matrices.
        initial_weights: a safetensors file with all parameters, by fairseq's names.
        lr: the rate of Adam at base width.
        factors: of the rate, one for each update.
        betas, eps, weight_decay: of Adam; decay is decoupled from gradients.
        clip_norm: the largest norm of a gradient; 0 for any.
        label_smoothing: the probability that is spread over all wrong words alike.
        dropout: probability.
        max_tokens: the most source or target tokens of a batch, padding included.
        seed: of weights, dropout and the order of batches.
    """

    shape: Dimensions
    base: Dimensions | None
    lr: float
    factors: Sequence[float]
    max_tokens: int
    encoder_layers: int = 6
    decoder_layers: int = 6
    share: Literal["none", "decoder", "all"] = "decoder"
    output_mult: float = 1.0
    attn_mult: float = 1.0
    init_std: float = 1.0
    initial_weights: Path | None = None
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.1
    dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        losses: label-smoothed training loss of each update, before it, in nats per target token.
            If the run diverged the last one is not finite, and there may be fewer.
        valid_losses: validation loss at the end of each epoch and of the training, by the number
            of updates before it, in nats per target token, without smoothing.
        hypotheses: ids of the translated validation sources, in order, without `EOS`; empty if
            not asked for, or if the run diverged.
    """

    losses: tuple[float, ...]
    valid_losses: dict[int, float]
    hypotheses: list[list[int]]


def train(
    pairs: Pairs,
    vocab_size: int,
    options: Options,
    folder: Path,
    on_step: Callable[[int, float], None] | None = None,
    beam: int = 0,
    length_penalty: float = 1.0,
    batches: Sequence[Sequence[int]] | None = None,
) -> Outcome:
    """Train from scratch with fairseq and, if asked for, translate the validation set.

    Args:
        pairs: the corpus; one vocabulary for both languages, in the order of fairseq's.
        vocab_size: number of ids, the four special ones included.
        options: of the training.
        folder: an empty one, for data, logs and the checkpoint.
        on_step: called after each update with its number, from 0, and its loss.
        beam: of the search for translations; 0 for none.
        length_penalty: exponent of the length in it.
        batches: the training pairs of each update by their number; they come again and again in
            this order. Without them fairseq makes batches of like lengths and shuffles these.

    Returns:
        Losses and hypotheses. A run that diverges is a result, not an error.

    Raises:
        UserError: if fairseq is not installed, or if a process of it fails, with the end of its
            log.
    """
    if find_spec("fairseq") is None:
        raise UserError(
            "fairseq is not installed; `pip install --no-deps -r requirements.lock` does it with "
            "Python 3.11 or 3.12 on Linux (x86-64), and it has no packages for others"
        )
    checkpoint = folder / CHECKPOINT
    write_data(pairs, vocab_size, folder / DATA)
    command = ["-m", "fairseq_cli.train", str(folder / DATA), *arguments(options, folder)]
    command += ["--save-dir", str(checkpoint.parent), *([] if beam else ["--no-save"])]
    if batches is not None:
        path = _written(folder / "batches.json", [[int(i) for i in batch] for batch in batches])
        command += ["--task", "translation_in_batches", "--batches", str(path)]
        command += ["--curriculum", str(len(options.factors))]
    losses, valid_losses = _train(command, folder / "train.log", on_step)
    if len(losses) < len(options.factors) and math.isfinite(losses[-1]):
        losses.append(math.nan)  # what would follow a gradient that is not finite
    hypotheses: list[list[int]] = []
    if beam and all(map(math.isfinite, [*losses, *valid_losses.values()])):
        hypotheses = translate_validation(folder, sha256(checkpoint), beam, length_penalty)
    return Outcome(tuple(losses), valid_losses, hypotheses)


def write_data(pairs: Pairs, vocab_size: int, folder: Path) -> None:
    """Write a corpus and its dictionary as fairseq's preprocessing does; a word is its id.

    Source: `MMapIndexedDatasetBuilder` of fairseq.data.indexed_dataset.
    """
    folder.mkdir(parents=True)
    for side, language in enumerate(LANGUAGES):
        words = "".join(f"{word} 1\n" for word in range(UNK + 1, vocab_size))
        (folder / f"dict.{language}.txt").write_text(words, encoding="utf-8")
        for split, both in pairs.items():
            sizes = np.array([len(ids) for ids in both[side]], np.int32)
            tokens = np.fromiter((i for ids in both[side] for i in ids), np.int32, sizes.sum())
            starts = (np.cumsum(sizes, dtype=np.int64) - sizes) * tokens.itemsize
            version, int32 = 1, 4
            header = b"MMIDIDX\0\0" + struct.pack("<QBQ", version, int32, len(sizes))
            path = folder / f"{split}.{'-'.join(LANGUAGES)}.{language}"
            Path(f"{path}.bin").write_bytes(tokens.tobytes())
            Path(f"{path}.idx").write_bytes(header + sizes.tobytes() + starts.tobytes())


def arguments(options: Options, folder: Path) -> list[str]:
    """The options of fairseq-train, and of the plug-in; what is long is written to a folder."""
    values: dict[str, Any] = {
        "user-dir": PLUGIN,
        "source-lang": LANGUAGES[0],
        "target-lang": LANGUAGES[1],
        "valid-subset": "validation",
        "arch": "mup_transformer",
        "encoder-layers": options.encoder_layers,
        "decoder-layers": options.decoder_layers,
        "output-mult": options.output_mult,
        "attn-mult": options.attn_mult,
        "init-std": options.init_std,
        "dropout": options.dropout,
        "criterion": "exact_label_smoothed_cross_entropy",
        "label-smoothing": options.label_smoothing,
        "optimizer": "mup_adam",
        "adam-betas": options.betas,
        "adam-eps": options.eps,
        "weight-decay": options.weight_decay,
        "clip-norm": options.clip_norm,
        "lr": options.lr,
        "lr-scheduler": "given_rates",
        "factors": _written(folder / "factors.json", options.factors),
        "max-update": len(options.factors),
        "max-tokens": options.max_tokens,
        # A last batch that is no multiple would be dropped, in validation too.
        "required-batch-size-multiple": 1,
        "seed": options.seed,
        "num-workers": 0,
        "distributed-world-size": 1,
        "save-interval": len(options.factors) + 1,  # epochs: only the end is saved
        "log-format": "json",
    }
    for prefix, shape in (("", options.shape), ("base_", options.base)):
        for name, size in asdict(shape).items() if shape else ():
            values[f"{prefix}{name}".replace("_", "-")] = size
    if options.initial_weights is not None:
        values["initial-weights"] = options.initial_weights
    flags = ["--no-epoch-checkpoints", "--no-save-optimizer-state", *SHARING[options.share]]
    return [*flags, *(part for name, value in values.items() for part in (f"--{name}", str(value)))]


def _written(path: Path, content: Sequence[Any]) -> Path:
    """The path of a JSON file, which is written."""
    path.write_text(json.dumps(list(content)), "utf-8")
    return path


def _train(
    command: Sequence[str], log: Path, on_step: Callable[[int, float], None] | None
) -> tuple[list[float], dict[int, float]]:
    """Training losses, and validation losses by update, of fairseq-train: means over tokens.

    They come through a pipe, so that the process ends with this one, however that ends.
    """
    losses: list[float] = []
    validations: dict[int, tuple[float, int]] = {}  # sums over batches, by update
    reading, writing = os.pipe()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "--loss-file", f"/dev/fd/{writing}"],
            pass_fds=(writing,),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
        )
    os.close(writing)
    try:
        with os.fdopen(reading, encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                if line["training"]:
                    losses.append(line["loss"] / line["tokens"])
                    if on_step is not None:
                        on_step(len(losses) - 1, losses[-1])
                else:
                    loss, tokens = validations.get(line["update"], (0.0, 0))
                    sums = loss + line["loss"], tokens + line["tokens"]
                    validations[line["update"]] = sums
        _check(process.wait(), log)
    finally:
        process.kill()
        process.wait()
    return losses, {update: loss / tokens for update, (loss, tokens) in validations.items()}


def translate_validation(
    folder: Path, digest: str, beam: int, length_penalty: float
) -> list[list[int]]:
    """The validation sources in translation, by beam search with the checkpoint of a training.

    Hypotheses have at most 1.2 times the words of the longest source of their batch, and 10 more.

    Args:
        folder: that of the training.
        digest: SHA-256 of the checkpoint, taken when the training ended.
        beam, length_penalty: as in `train`.

    Raises:
        UserError: if the checkpoint has another digest, or if fairseq fails.
    """
    log = folder / "translate.log"
    command = [sys.executable, "-m", "experiments.models.fairseq.translation", digest]
    command += [str(folder / DATA), "--path", str(folder / CHECKPOINT), "--user-dir", str(PLUGIN)]
    command += ["--source-lang", LANGUAGES[0], "--target-lang", LANGUAGES[1]]
    command += ["--gen-subset", "validation", "--required-batch-size-multiple", "1"]
    command += [
        "--beam",
        str(beam),
        "--lenpen",
        str(length_penalty),
        "--max-len-a",
        "1.2",
        "--max-len-b",
        "10",
    ]
    with log.open("wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=_environment())
    _check(done.returncode, log)
    found: dict[int, list[int]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith("H-"):  # fairseq's own format: H-number, score, words
            number, _, words = line.removeprefix("H-").split("\t")
            found[int(number)] = [UNK if w == "<unk>" else int(w) for w in words.split()]
    return [found[number] for number in range(len(found))]


def _environment() -> dict[str, str]:
    """One thread, and checkpoints read as tensors and plain values alone."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    changed = {"OMP_NUM_THREADS": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "PYTHONPATH": path}
    kept = {k: v for k, v in os.environ.items() if k != "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"}
    return {**kept, **changed}


def _check(returncode: int, log: Path) -> None:
    """Raise a UserError with the end of the log if a process failed."""
    if returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        end = " | ".join([line.strip() for line in lines if line.strip()][-LINES:])
        raise UserError(f"fairseq failed with status {returncode}: {end}; all of it is in {log}")
