"""A step of every family beside stock PyTorch, in processes that take turns.

    python benchmarks/families.py                                  # about a quarter of an hour
    python benchmarks/families.py mlp_cifar10 --against ../before  # beside another checkout, too

    python benchmarks/families.py --rounds 5 --processes 3         # three processes of each variant

It needs no idle machine: each variant is a process with one thread, which trains for a moment when
its turn comes, and what counts is the processor time of a step. Ratios are of turns of one round:
median [first, third quartile] over the rounds; below 1 ours is faster. A ratio differs by up to a
tenth from process to process, so `--processes` starts all of them anew so many times, each for that
many rounds. The limit is the fastest float32 product of some large shapes, in its turn, and the
share of it what the FLOPs of `config.flops` would take there over our step. Products alone are the
products and convolutions of one of our steps, forward and backward, one after the other and without
anything between them, over our step: the share of the limit could grow to its own value over theirs
if all else were free.

Stock is what a good user of PyTorch writes: modules of torch or of the library in the default
memory layout, fused attention, images normalized once and held as float32, the optimizer with its
defaults, on the same batches. Its Wide ResNet has our modules without µP and takes images as they
are, neither cropped nor flipped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine import ROOT

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    "transformer_wikitext2": ({"width": 32}, {"width": 64}, {"width": 256}),
    "mlp_cifar10": ({"width": 64}, {"width": 256}, {"width": 1024}),
    "resnet_cifar10": ({"width": 4}, {"width": 16}),
    "wide_resnet_imagenet": ({"width": 8}, {"width": 32}),
    "transformer_iwslt14": ({"width": 32, "d_ffn": 64}, {"width": 128, "d_ffn": 256}),
    "transformer_wmt14": ({"width": 32, "d_ffn": 32, "n_head": 1}, {"width": 128, "d_ffn": 512}),
    "gpt_proxy": ({"width": 64, "n_head": 2}, {"width": 256, "n_head": 8}),
    "bert": ({"width": 64, "d_ffn": 256, "n_head": 4}, {"width": 96, "d_ffn": 384, "n_head": 6}),
}
PRETRAINED = ("gpt_proxy", "bert")  # whose byte pairs of other texts take minutes to learn
SECONDS = 0.15  # of a turn
ANSWER = "answer "
LARGE = ((1024, 256, 1024), (1024, 1024, 256), (4096, 512, 512))
Step = Callable[[], object]


def task_of(family: str, values: dict[str, Any]) -> tuple[Any, Any]:
    """Configuration and task of a case: the family's typical run with other values."""
    from experiments.data.pretraining_source import BUILT_IN
    from experiments.declare import registry
    from experiments.declare.references import load

    found = registry.family(family)
    data = BUILT_IN if family in PRETRAINED else found.resolve_data()
    example = {**found.example, "log2lr": -8.0, "data": data, **values}
    config = found.config.make(**example)
    return config, load(config.task, config.family)(config)


def ours(family: str, values: dict[str, Any]) -> Step:
    """A step as the engine does it."""
    from experiments.train import engine, process

    machine = process.set_up()
    config, task = task_of(family, values)
    held, batches = engine.Held(config, task, machine), task.batches("cpu")

    def step() -> float:
        loss = held.loss(next(batches), 0)
        held.update()
        return loss

    return step


def products(family: str, values: dict[str, Any]) -> Step:
    """The products and convolutions of one of our steps, on tensors of the same layout."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map_only

    aten = torch.ops.aten
    kinds = {getattr(aten, n).default for n in ("mm", "addmm", "bmm", "baddbmm", "convolution")}
    kinds.add(aten.convolution_backward.default)
    calls: list[tuple[Any, Any, Any]] = []

    def kept(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype).copy_(tensor)

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            kwargs = kwargs or {}
            if func in kinds:
                calls.append((func, *tree_map_only(torch.Tensor, kept, (args, kwargs))))
            return func(*args, **kwargs)

    step = ours(family, values)
    step()
    with Record():
        step()

    @torch.no_grad()
    def again() -> None:
        for func, args, kwargs in calls:
            func(*args, **kwargs)

    return again


def stock(family: str, values: dict[str, Any]) -> Step:
    """A step as a good user of PyTorch writes it."""
    import engine as transformer
    import vision

    match family:
        case "transformer_wikitext2":
            return transformer.stock(values["width"], "stock")
        case "mlp_cifar10":
            return vision.stock("mlp", values["width"])
        case "resnet_cifar10":
            return vision.stock("resnet", values["width"])
    make = {"wide_resnet_imagenet": wide_resnet, "gpt_proxy": gpt, "bert": bert}
    config, task = task_of(family, values)
    model, loss_of = make.get(family, translation)(config, task)
    return trained(config, task.batches("cpu"), model, loss_of)


def trained(config: Any, batches: Iterator[Any], model: Any, loss_of: Callable[[Any], Any]) -> Step:
    """The step of a stock model with torch's optimizer."""
    import torch

    if config.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), 1e-3, config.momentum, weight_decay=config.weight_decay
        )
    else:
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(model.parameters(), 1e-3, weight_decay=config.weight_decay)

    def step() -> float:
        loss = loss_of(next(batches))
        optimizer.zero_grad()
        loss.backward()
        if config.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        return loss.item()

    return step


def wide_resnet(config: Any, task: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Our modules in SP, in the default layout, and its loss of a batch."""
    import torch.nn.functional as F

    from experiments.families.wide_resnet_imagenet.spec import BLOCKS
    from experiments.models.wide_resnet import (
        WideResNetOptions,
        WideResNetShape,
        build_wide_resnet,
    )

    images = task.images.images
    inputs = images.train[: task.count].float().div_(255).sub_(0.5).div_(0.25)
    options = WideResNetOptions(images.classes, blocks=BLOCKS)
    model = build_wide_resnet(WideResNetShape.of(config.width / 64), options, None)

    def loss_of(batch: Any) -> Any:
        labels = images.train_labels[batch[0]]
        return F.cross_entropy(
            model(inputs[batch[0]]), labels, label_smoothing=config.label_smoothing
        )

    return model, loss_of


def translation(config: Any, task: Any) -> tuple[Any, Callable[[Any], Any]]:
    """`nn.Transformer` between embeddings, and its loss of a batch."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from experiments.data.translation import PAD
    from experiments.models.encoder_decoder import sinusoids

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source = nn.Embedding(config.vocab_size, config.width, padding_idx=PAD)
            self.target = self.source
            if config.shared != "all":
                self.target = nn.Embedding(config.vocab_size, config.width, padding_idx=PAD)
            self.positions = sinusoids(config.width)
            self.body = nn.Transformer(
                config.width,
                config.n_head,
                config.n_encoder_layer,
                config.n_decoder_layer,
                config.dims()["d_ffn"],
                config.dropout,
                batch_first=True,
            )

        def embed(self, word: nn.Embedding, tokens: Any) -> Any:
            return word(tokens) * config.width**0.5 + self.positions[: tokens.shape[1]]

        def forward(self, source: Any, read: Any) -> Any:
            padding = source == PAD
            causal = nn.Transformer.generate_square_subsequent_mask(read.shape[1])
            x = self.body(
                self.embed(self.source, source),
                self.embed(self.target, read),
                tgt_mask=causal,
                src_key_padding_mask=padding,
                memory_key_padding_mask=padding,
                tgt_is_causal=True,
            )
            return F.linear(x, self.target.weight)

    model = Model()
    for word in (model.source, model.target):
        torch.nn.init.normal_(word.weight, std=config.width**-0.5)

    def loss_of(batch: Any) -> Any:
        source, read, target = batch
        return F.cross_entropy(
            model(source, read).flatten(0, 1),
            target.flatten(),
            ignore_index=PAD,
            label_smoothing=config.label_smoothing,
        )

    return model, loss_of


def gpt(config: Any, task: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Blocks with fused attention, relative positions as its mask, and the loss of a batch."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from experiments.models.relative_transformer import by_distance, distances

    width, heads = config.width, config.n_head

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv = nn.Linear(width, 3 * width, bias=False)
            self.out, self.distance = (nn.Linear(width, width, bias=False) for _ in range(2))
            size = (heads, 1, width // heads)
            self.content, self.place = (nn.Parameter(torch.zeros(size)) for _ in range(2))
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any, r: Any, mask: Any) -> Any:
            q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            r = self.distance(r).unflatten(-1, (heads, -1)).transpose(0, 1)
            scale = q.shape[-1] ** -0.5
            bias = by_distance((q + self.place) @ r.transpose(-1, -2)) * scale + mask
            y = F.scaled_dot_product_attention(q + self.content, k, v, attn_mask=bias, scale=scale)
            x = x + self.out(y.transpose(1, 2).flatten(2))
            return x + self.down(F.gelu(self.up(self.norm_2(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word = nn.Embedding(config.vocab_size, width)
            nn.init.normal_(self.word.weight, std=0.02)
            self.blocks = nn.ModuleList(Block() for _ in range(config.n_layer))
            self.norm = nn.LayerNorm(width)
            self.r = distances(config.seq_len, width).float()
            self.mask = torch.full((config.seq_len, config.seq_len), float("-inf")).triu(1)

        def forward(self, tokens: Any) -> Any:
            x = self.word(tokens)
            for block in self.blocks:
                x = block(x, self.r, self.mask)
            return F.linear(self.norm(x), self.word.weight)

    model = Model()

    def loss_of(batch: Any) -> Any:
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    return model, loss_of


def bert(config: Any, task: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The library's model as it is, and its own loss of a batch."""
    from transformers import MegatronBertConfig, MegatronBertForMaskedLM

    model = MegatronBertForMaskedLM(
        MegatronBertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            intermediate_size=config.dims()["d_ffn"],
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=config.seq_len,
        )
    ).train()

    def loss_of(batch: Any) -> Any:
        read, wanted = task.masked(*batch)
        return model(input_ids=read, labels=wanted).loss

    return model, loss_of


def limit() -> float:
    """Seconds of a GFLOP in the fastest of some large products, in processor time."""
    import torch

    best = float("inf")
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        for rows, fan_in, fan_out in LARGE:
            a, b = torch.randn(rows, fan_in), torch.randn(fan_in, fan_out)
            gflop = 2e-9 * rows * fan_in * fan_out
            for _ in range(3):
                start = time.process_time()
                a @ b
                best = min(best, (time.process_time() - start) / gflop)
    return best


def work(kind: str, root: str) -> None:
    """Answer each line of stdin: set up a case, or do so many steps; tell the seconds of one."""
    sys.path.insert(0, root)
    import torch

    torch.set_num_threads(1)
    step: Step = limit
    for line in sys.stdin:
        asked = json.loads(line)
        if not isinstance(asked, int):
            if kind != "limit":
                step = {"stock": stock, "products": products}.get(kind, ours)(*asked)
            asked = 3
        start = time.process_time()
        for _ in range(asked):
            found = step()
        seconds = (time.process_time() - start) / asked
        print(ANSWER + json.dumps(found if kind == "limit" else seconds), flush=True)


class Worker:
    """A variant in a process of its own."""

    def __init__(self, kind: str, root: Path):
        self.kind, self.steps = kind, 1
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", kind, str(root)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def prepare(self, family: str, values: dict[str, Any]) -> None:
        """Set up a case, and choose how many steps make a turn."""
        seconds = self.ask([family, values])
        self.steps = 1 if self.kind == "limit" else max(1, round(SECONDS / seconds))

    def turn(self) -> float:
        """Seconds of a step."""
        return self.ask(self.steps)

    def ask(self, what: Any) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return float(line.removeprefix(ANSWER))
        sys.exit(f"{self.kind} ended with status {self.process.wait()}")


def measure(
    workers: dict[str, Worker], family: str, values: dict[str, Any], rounds: int
) -> dict[str, list[float]]:
    """Seconds of a step by variant and round."""
    for worker in workers.values():
        worker.prepare(family, values)
    found: dict[str, list[float]] = {kind: [] for kind in workers}
    order = list(workers)
    for _ in range(rounds):
        for kind in order:
            found[kind].append(workers[kind].turn())
        order = [*order[1:], order[0]]
    return found


def spread(values: list[float]) -> str:
    """Median with first and third quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--processes", type=int, default=1, help="of each variant, in turn")
    parser.add_argument("--first", action="store_true", help="the first case of each family alone")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout of ours")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    if unknown := set(arguments.families) - set(CASES):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(CASES)}")
    sys.path.insert(0, str(ROOT))
    roots = {"ours": ROOT, "stock": ROOT, "limit": ROOT, "products": ROOT}
    if arguments.against:
        roots["before"] = arguments.against.resolve()
    others = ["stock", *(["before"] if arguments.against else [])]
    head = ["family", "sizes", "ours, ms a step", *(f"over {o}" for o in others)]
    head += ["share of the limit", "products alone"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    cases = [
        (family, values)
        for family in arguments.families or CASES
        for values in CASES[family][: 1 if arguments.first else None]
    ]
    found: list[dict[str, list[float]]] = [{kind: [] for kind in roots} for _ in cases]
    for number in range(arguments.processes):
        workers = {kind: Worker(kind, root) for kind, root in roots.items()}
        for (family, values), case in zip(cases, found, strict=True):
            for kind, seconds in measure(workers, family, values, arguments.rounds).items():
                case[kind] += seconds
            if number + 1 == arguments.processes:
                print(f"| {' | '.join(row(family, values, case, others))} |", flush=True)
        for worker in workers.values():
            worker.process.communicate()


def row(
    family: str, values: dict[str, Any], found: dict[str, list[float]], others: list[str]
) -> list[str]:
    """The cells of a case."""
    config, _ = task_of(family, values)
    gflop = 1e-9 * config.flops() / config.steps

    def ratios(theirs: list[float]) -> str:
        return spread([a / b for a, b in zip(found["ours"], theirs, strict=True)])

    def shares(theirs: list[float]) -> str:
        return spread([b / a for a, b in zip(found["ours"], theirs, strict=True)])

    return [
        family,
        ", ".join(f"{k} {v}" for k, v in values.items()),
        spread([1e3 * s for s in found["ours"]]),
        *(ratios(found[other]) for other in others),
        shares([gflop * s for s in found["limit"]]),
        shares(found["products"]),
    ]


if __name__ == "__main__":
    main()
