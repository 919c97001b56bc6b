"""What the tests of fairseq measure inside fairseq: `python -m ... FOLDER` writes FOUND there.

It is a process of its own, since fairseq takes seconds to import and warns of much.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mupkit
from experiments.models.fairseq import runner
from experiments.models.fairseq.runner import EOS, UNK, Dimensions, Options, Pairs
from mupkit.coord_check import coord_check

VOCAB = 20
SMALL = Options(
    shape=Dimensions(32, 48, 4, 8, 8),
    base=None,
    lr=2.0**-7,
    factors=(0.0, 0.5, 1.0, 0.8, 0.7, 0.6),
    max_tokens=400,
    encoder_layers=2,
    decoder_layers=2,
    weight_decay=0.1,
    clip_norm=1.0,
    dropout=0.1,
    seed=3,
)
WIDE = replace(
    SMALL,
    shape=Dimensions(64, 96, 4, 32, 16),
    base=Dimensions(32, 32, 2, 8, 8),
    share="all",
    output_mult=2.0,
    attn_mult=0.5,
    factors=(0.0, 0.5, *[1.0] * 28),
    dropout=0.0,
)
BASE, WIDTHS, LR = 16, (32, 64, 128), 2.0**-6  # of the coordinate check
FOUND = "found.json"


@cache
def pairs() -> Pairs:
    """Random sentences and their reversal."""
    rng = random.Random(0)

    def split(size: int) -> tuple[list[list[int]], list[list[int]]]:
        words = [rng.choices(range(UNK + 1, VOCAB), k=rng.randint(2, 8)) for _ in range(size)]
        return [[*w, EOS] for w in words], [[*w[::-1], EOS] for w in words]

    return {"train": split(200), "validation": split(21)}


def batches() -> list[list[int]]:
    """Three batches that leave out most pairs."""
    return [list(range(start, start + 20)) for start in (100, 0, 40)]


def by_hand(model: nn.Module, split: str, numbers: Iterable[int], smoothing: float) -> float:
    """The mean loss of pairs, one by one and so without padding."""
    model.eval()
    total, tokens = 0.0, 0
    for number in numbers:
        source, target = (torch.tensor([side[number]]) for side in pairs()[split])
        logp_LV = logits(model, source, target)[0].double().log_softmax(-1)
        right_L = logp_LV.gather(1, target.T)[:, 0]
        wrong_L = (logp_LV.sum(1) - right_L) / (VOCAB - 1)
        total -= float(((1 - smoothing) * right_L + smoothing * wrong_L).sum().detach())
        tokens += target.numel()
    return total / tokens


def logits(model: nn.Module, source_BS: Tensor, target_BL: Tensor) -> Tensor:
    """Logits (B, L, V) of sentences of one length each."""
    previous_BL = target_BL.roll(1, 1)
    lengths_B = torch.full(source_BS.shape[:1], source_BS.shape[1])
    return model(source_BS, lengths_B, previous_BL)[0]


class Fairseq:
    """fairseq with the plug-in, and the corpus on the disk."""

    def __init__(self, folder: Path):
        from fairseq import options, tasks, utils
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        self.folder = folder
        runner.write_data(pairs(), VOCAB, folder / runner.DATA)
        utils.import_user_module(Namespace(user_dir=str(runner.PLUGIN)))
        arguments = [str(folder / runner.DATA), *runner.arguments(WIDE, folder)]
        args = options.parse_args_and_arch(options.get_training_parser(), arguments)
        self.config = convert_namespace_to_omegaconf(args)
        self.task = tasks.setup_task(self.config.task)

    def build(self, chosen: Options, seed: int = 0, **changes: Any) -> nn.Module:
        """A model from a seed, with options of the plug-in changed."""
        args = copy.copy(self.config.model)
        for prefix, shape in (("", chosen.shape), ("base_", chosen.base)):
            for name in ("d_model", "d_ffn", "n_head", "d_k", "d_v"):
                setattr(args, prefix + name, getattr(shape, name) if shape else 0)
        vars(args).update(
            encoder_layers=chosen.encoder_layers,
            decoder_layers=chosen.decoder_layers,
            share_all_embeddings=chosen.share == "all",
            share_decoder_input_output_embed=chosen.share != "none",
            output_mult=chosen.output_mult,
            attn_mult=chosen.attn_mult,
            dropout=chosen.dropout,
            **changes,
        )
        torch.manual_seed(seed)
        return self.task.build_model(args)

    def optimizer(self, model: nn.Module) -> Any:
        """The optimizer of WIDE as fairseq's trainer makes it: from a flat list of parameters."""
        from fairseq import optim

        return optim.build_optimizer(self.config.optimizer, list(model.parameters()))

    def data(self) -> dict[str, Any]:
        """The corpus as fairseq reads it."""
        read = {}
        for split in pairs():
            self.task.load_dataset(split)
            data = self.task.dataset(split)
            read[split] = [[x.tolist() for x in side] for side in (data.src, data.tgt)]
        return {"read": read, "words": list(self.task.target_dictionary.symbols)}

    def trained(self) -> dict[str, list[str]]:
        """The lines of losses of plain fairseq, of the plug-in in SP, and of it at base width."""
        from fairseq_cli.train import cli_main

        sp, base, plain = (
            runner.arguments(replace(SMALL, base=b), self.folder) for b in (None, SMALL.shape, None)
        )
        plain[plain.index("mup_transformer")] = "transformer_iwslt_de_en"
        plain[plain.index("mup_adam")] = "adam"
        own = ("--d-", "--n-", "--output-mult", "--attn-mult", "--init-std")
        drop = {i + k for i, part in enumerate(plain) if part.startswith(own) for k in (0, 1)}
        plain = [part for i, part in enumerate(plain) if i not in drop]
        for side in ("--encoder", "--decoder"):
            plain += [f"{side}-embed-dim", "32", f"{side}-ffn-embed-dim", "48"]
        lines = {}
        for name, arguments in {"plain": plain, "sp": sp, "base": base}.items():
            file = self.folder / f"{name}.jsonl"
            sys.argv = ["train", str(self.folder / runner.DATA), *arguments, "--no-save"]
            sys.argv += ["--loss-file", str(file)]
            cli_main()
            lines[name] = file.read_text().splitlines()
        return lines

    def start(self) -> dict[str, float]:
        """Losses of untrained models, by hand."""
        wide, small = self.build(WIDE, WIDE.seed), self.build(SMALL, SMALL.seed)
        first, second, _ = batches()
        return {
            "first": by_hand(wide, "train", first, WIDE.label_smoothing),
            "second": by_hand(wide, "train", second, WIDE.label_smoothing),
            "some": by_hand(small, "train", range(60), SMALL.label_smoothing),
            "validation": by_hand(small, "validation", range(21), 0.0),
        }

    def rates(self) -> dict[str, dict[str, list[float]]]:
        """Rate, epsilon and decay of each parameter in the plug-in and by `mupkit.MuAdam`."""
        model = self.build(WIDE)
        names = {id(p): name for name, p in model.named_parameters()}
        own = self.optimizer(model)
        own.set_lr(0.125)
        core = mupkit.MuAdam(model, lr=WIDE.lr, eps=WIDE.eps, weight_decay=WIDE.weight_decay)
        for group in core.param_groups:
            group["lr"] *= 0.125 / WIDE.lr
        found = {
            key: {
                names[id(p)]: [group["lr"], group["eps"], group["weight_decay"]]
                for group in groups
                for p in group["params"]
            }
            for key, groups in {"own": own.param_groups, "core": core.param_groups}.items()
        }
        return {**found, "lr": own.get_lr()}

    def multipliers(self) -> dict[str, Any]:
        """The factors of logits, attention and embeddings, and how the initialization scales."""
        source, target = torch.tensor([[5, 6, EOS]]), torch.tensor([[6, 5, EOS]])
        once = replace(WIDE, output_mult=1.0)
        model, single = self.build(WIDE), self.build(once)
        difference = logits(model, source, target) - 2 * logits(single, source, target)
        attentions = [m.scaling for m in model.modules() if hasattr(m, "beam_size")]
        untied = replace(WIDE, share="none")
        wide, base = self.build(untied), self.build(replace(untied, shape=untied.base))
        std = {
            name: [float(p.std()), float(q.std())]
            for (name, p), q in zip(wide.named_parameters(), base.parameters(), strict=True)
        }
        return {
            "output": float(difference.abs().max()),
            "readout": model.decoder.output_projection.width_mult(),
            "attention": attentions,
            "embedding": [model.encoder.embed_scale**2, model.decoder.embed_scale**2],
            "std": std,
        }

    def attention(self) -> dict[str, float]:
        """Differences of the plug-in's attention to fairseq's, and of its steps to the whole."""
        from fairseq.modules import MultiheadAttention
        from mupkit_fairseq.attention import Attention

        torch.manual_seed(0)
        x, memory = torch.randn(7, 3, 32), torch.randn(5, 3, 32)
        future = torch.full((7, 7), float("-inf")).triu(1)
        padding = torch.arange(7) >= torch.tensor([[7], [5], [6]])
        found = {}
        for name, key, mask, static in (("self", x, future, False), ("cross", memory, None, True)):
            kind = {"encoder_decoder_attention" if static else "self_attention": True}
            plain = MultiheadAttention(32, 4, **kind)
            own = Attention(plain, 4, 8, 8, 8**-0.5)
            own.load_state_dict(plain.state_dict())
            padded = padding[:, : len(key)]
            given = {"key_padding_mask": padded, "attn_mask": mask, "static_kv": static}
            found[name] = _difference(plain(x, key, key, **given)[0], own(x, key, key, **given)[0])
            # As in generation: one step at a time, and sentences leave and change places.
            own, order, state = Attention(plain, 2, 12, 6, 0.3), torch.tensor([2, 0]), {}
            whole = own(x[:, order], key[:, order], key[:, order], attn_mask=mask)[0]
            steps, queries, keys = [], x, key
            for step in range(len(x)):
                if step == 3:
                    own.reorder_incremental_state(state, order)
                    steps = [y[:, order] for y in steps]
                    queries, keys = x[:, order], key[:, order]
                new = queries[step : step + 1]
                given = {"incremental_state": state, "static_kv": static}
                steps.append(own(new, *2 * [keys if static else new], **given)[0])
            found[f"{name} in steps"] = _difference(torch.cat(steps), whole)
        return found

    def initial_weights(self) -> dict[str, Any]:
        """Whether weights come from a file, and what is said of one that does not fit."""
        from safetensors.torch import save_file

        other = self.build(WIDE, seed=7)
        good, bad = self.folder / "good.safetensors", self.folder / "bad.safetensors"
        tensors = {name: p.detach().clone() for name, p in other.named_parameters()}
        save_file(tensors, good)
        save_file({n: t for n, t in tensors.items() if "fc1.bias" not in n}, bad)
        loaded = dict(self.build(WIDE, initial_weights=str(good)).named_parameters())
        try:
            self.build(WIDE, initial_weights=str(bad))
            said = ""
        except ValueError as error:
            said = str(error)
        return {"equal": all(torch.equal(loaded[n], t) for n, t in tensors.items()), "said": said}

    def ends(self) -> dict[str, bool]:
        """Whether what is not finite ends the process without an error."""
        model, huge = self.build(WIDE), self.build(replace(WIDE, output_mult=1e38))
        for p in model.parameters():
            p.grad = torch.full_like(p, torch.inf)
        self.task.load_dataset("train")
        data = self.task.dataset("train")
        sample = data.collater([data[0], data[1]])
        criterion = self.task.build_criterion(self.config.criterion)
        return {
            "gradient": _ends(lambda: self.optimizer(model).clip_grad_norm(0.0)),
            "loss": _ends(lambda: criterion(huge, sample)),
            "finite": _ends(lambda: criterion(model, sample)),
        }

    def coordinates(self) -> dict[str, Any]:
        """What contradicts µP, with the plug-in's optimizer and with fairseq's own."""
        from fairseq.optim.adam import Adam

        def options(width: int) -> Options:
            shape = Dimensions(width, 2 * width, 4, width // 2, width // 4)
            return replace(WIDE, shape=shape, encoder_layers=1, decoder_layers=1, share="decoder")

        base = options(BASE).shape
        sources = torch.randint(UNK + 1, VOCAB, (16, 6), generator=torch.Generator().manual_seed(0))
        targets = sources.flip(1)

        def build(width: int) -> nn.Module:
            return self.build(replace(options(width), base=base), seed=torch.initial_seed())

        def loss(model: nn.Module) -> Tensor:
            return F.cross_entropy(logits(model, sources, targets).flatten(0, 1), targets.flatten())

        def mup_adam(model: nn.Module) -> Any:
            optimizer = self.optimizer(model)
            optimizer.set_lr(LR)
            return optimizer.optimizer

        def adam(model: nn.Module) -> Any:
            return Adam(model.parameters(), lr=LR)

        found = {}
        for name, make in (("mup_adam", mup_adam), ("adam", adam)):
            report = coord_check(build, WIDTHS, make_optimizer=make, loss=loss, seeds=range(2))
            verdicts = [(v.judgement, v.fit.kind, v.fit.tensor) for v in report.verdicts]
            found[name] = {j: [v[1:] for v in verdicts if v[0] == j] for j in ("ok", "fails")}
        return found


def _ends(call: Callable[[], Any]) -> bool:
    try:
        call()
    except SystemExit as end:
        return end.code is None
    return False


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def main() -> None:
    """Write every measurement under the name of its method."""
    folder = Path(sys.argv[1])
    fairseq = Fairseq(folder)
    names = ("data", "start", "rates", "multipliers", "attention", "initial_weights")
    names += ("ends", "coordinates", "trained")
    found = {name: getattr(fairseq, name)() for name in names}
    (folder / FOUND).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
