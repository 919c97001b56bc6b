"""Parametrization bugs, planted in small models, to see which check notices them.

Axes: B batch, C classes, L length, D d_model, H heads, K d_head, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

import mupkit
from mupkit import TABLE_3, TABLE_8, Rules

BASE = 32
VOCABULARY, LENGTH, HEADS, CLASSES = 11, 8, 2, 5


class Right(nn.Module):
    """A matrix that is used as x @ W, stored (fan_in, fan_out)."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(fan_in, fan_out) * fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


class MLP(nn.Module):
    """Four layers; the middle width grows as the square of the outer one."""

    def __init__(self, width: int, middle: int, right: bool = False):
        super().__init__()
        linear = Right if right else nn.Linear
        self.input = nn.Linear(8, width)
        self.up = linear(width, middle)
        self.down = linear(middle, width)
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.input, self.up, self.down):
            x = torch.relu(layer(x))
        logits_BC: Tensor = self.readout(x)
        return logits_BC


class CNN(nn.Module):
    """Two convolutions and a convolutional head, averaged over pixels."""

    def __init__(self, width: int):
        super().__init__()
        self.input = nn.Conv2d(2, width, 3, padding=1)
        self.hidden = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = torch.relu(self.hidden(torch.relu(self.input(x_BCHW))))
        logits_BC: Tensor = self.head(x_BCHW).mean((2, 3))
        return logits_BC


class Transformer(nn.Module):
    """One block, pre-norm; d_head grows, the number of heads does not.

    Args:
        width: d_model.
        tied: whether the readout shares the weight of the embedding.
        base_d_head: d_head at base width; without it attention is 1/sqrt(d).
        attention_power: a power of d_head over its base that multiplies the logits in addition.
        branch_power: a power of width over its base that multiplies both branches.
    """

    def __init__(
        self,
        width: int,
        tied: bool = False,
        base_d_head: int | None = BASE // HEADS,
        attention_power: float = 0.0,
        branch_power: float = 0.0,
    ):
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, width)
        self.position = nn.Parameter(torch.randn(LENGTH, width))
        self.norm, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        nn.init.zeros_(self.query.weight)  # as the paper advises, Appendix D.2
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.final = nn.LayerNorm(width)
        self.readout = nn.Linear(width, VOCABULARY, bias=False)
        if tied:
            self.readout.weight = self.word.weight
        ratio = width / BASE
        self.scale = mupkit.attention_scale(width // HEADS, base_d_head) * ratio**attention_power
        self.branch = ratio**branch_power

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x_BLD = self.word(tokens_BL) + self.position
        y_BLD = self.norm(x_BLD)
        q_BHLK, k_BHLK, v_BHLK = (
            layer(y_BLD).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights_BHLL = (self.scale * q_BHLK @ k_BHLK.mT).softmax(-1)
        y_BLD = self.out((weights_BHLL @ v_BHLK).transpose(1, 2).flatten(2))
        x_BLD = x_BLD + self.branch * y_BLD
        x_BLD = x_BLD + self.branch * self.down(torch.relu(self.up(self.norm_2(x_BLD))))
        logits_BLV: Tensor = self.readout(self.final(x_BLD))
        return logits_BLV


@dataclass(frozen=True)
class Kind:
    """A kind of model, how it is built at a width, and its fixed batch."""

    plain: Callable[..., nn.Module]
    widths: tuple[int, ...]
    batch: Callable[[], tuple[Tensor, Tensor]]

    def loss(self, model: nn.Module) -> Tensor:
        """Cross-entropy on the batch, in the precision of the model."""
        x, labels = self.batch()
        if x.is_floating_point():
            x = x.to(next(model.parameters()).dtype)
        return F.cross_entropy(model(x).flatten(0, -2), labels)


def _drawn(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator), torch.arange(shape[0]) % CLASSES


def _tokens() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCABULARY, (4, LENGTH), generator=torch.Generator().manual_seed(7))
    return tokens, tokens.flip(1).reshape(-1)


def uneven_mlp(width: int, **options: Any) -> nn.Module:
    """An MLP whose middle layer grows as the square of the others."""
    return MLP(width, width * width // BASE, **options)


def even_mlp(width: int) -> nn.Module:
    """An MLP whose layers grow alike."""
    return MLP(width, width)


EVEN = Kind(even_mlp, (32, 64, 128, 256), lambda: _drawn(16, 8))
WIDE = Kind(even_mlp, (256, 512, 1024, 2048), lambda: _drawn(16, 8))
UNEVEN = Kind(uneven_mlp, (32, 64, 128, 256), lambda: _drawn(16, 8))
CNNS = Kind(CNN, (32, 64, 128, 256), lambda: _drawn(8, 2, 6, 6))
TRANSFORMERS = Kind(Transformer, (64, 128, 256, 512), _tokens)


@dataclass(frozen=True)
class Case:
    """A model and its training, right or with one bug.

    Args:
        name: of the bug, or "right: ..." for a model without one.
        what: what is wrong.
        kind: of the model.
        build: the model of a width, parametrized.
        make_optimizer: of the model and the learning rate.
        lr: large, for the coordinate check.
        mup_lr: the one that the `mup` package's own check is used with.
        scheduler: of the optimizer, if it is what is wrong.
    """

    name: str
    what: str
    kind: Kind
    build: Callable[[int], nn.Module]
    make_optimizer: Callable[[nn.Module, float], Optimizer]
    lr: float
    mup_lr: float
    scheduler: Callable[[Optimizer], LRScheduler] | None = None

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return self.what == NOTHING


def changed(rules: Rules, role: Any, **rule: Any) -> Rules:
    """The rules with some entries of one role changed; `lr` names optimizer families."""
    if "lr" in rule:
        rule["lr"] = {**rules[role].lr, **rule["lr"]}
    by_role = {**rules.by_role, role: dataclasses.replace(rules[role], **rule)}
    return dataclasses.replace(rules, by_role=by_role)


def parametrized(
    kind: Kind, rules: Rules, layout: Any = None, **options: Any
) -> Callable[[int], nn.Module]:
    """Builds the kind's model by scaling rules."""

    def build(width: int) -> nn.Module:
        with torch.device("meta"):
            base, delta = kind.plain(BASE, **options), kind.plain(2 * BASE, **options)
        model = kind.plain(width, **options)
        return mupkit.parametrize(model, base, delta, rules=rules, layout=layout or {})

    return build


def adam(model: nn.Module, lr: float) -> Optimizer:
    """µP's Adam."""
    return mupkit.MuAdam(model, lr=lr)


def sgd(model: nn.Module, lr: float) -> Optimizer:
    """µP's SGD."""
    return mupkit.MuSGD(model, lr=lr)


def plain_adam(model: nn.Module, lr: float) -> Optimizer:
    """One rate for all."""
    return Adam(model.parameters(), lr=lr)


def unscaled_eps(model: nn.Module, lr: float) -> Optimizer:
    """An epsilon as large as the base model's gradients, at every width."""
    return mupkit.MuAdam(model, lr=lr, eps=0.01, scale_eps=False)


def flat_decay(model: nn.Module, lr: float) -> Optimizer:
    """AdamW with one weight decay for all groups, set after it was made."""
    optimizer = mupkit.MuAdamW(model, lr=lr, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.1
    return optimizer


def clipped(model: nn.Module, lr: float) -> Optimizer:
    """SGD with gradients clipped by the norm of all of them."""
    optimizer, parameters = mupkit.MuSGD(model, lr=lr), list(model.parameters())

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, 0.1)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def one_cycle(optimizer: Optimizer) -> LRScheduler:
    """A scheduler with one maximum for all groups; it starts at max_lr / 25."""
    highest = max(group["lr"] for group in optimizer.param_groups)
    return OneCycleLR(optimizer, max_lr=25 * highest, total_steps=1000)


def flattened(model: nn.Module, lr: float) -> Optimizer:
    """The rates that the scheduler leaves; without the guard, as in `mup`."""
    optimizer = mupkit.MuAdam(model, lr=lr)
    optimizer._optimizer_step_pre_hooks.clear()
    one_cycle(optimizer)
    return optimizer


def constant_bias_rate(model: nn.Module, lr: float) -> Optimizer:
    """SGD whose biases have the master rate at every width."""
    biases = [p for p in model.parameters() if p.ndim == 1]
    weights = [p for p in model.parameters() if p.ndim > 1]
    optimizer = mupkit.MuSGD([{"params": weights}, {"params": biases}], lr=lr)
    for group in optimizer.param_groups:
        if group["mup_group"] == 1:
            group |= {"lr": lr, "lr_mult": 1.0}
    return optimizer


def embedding_as_hidden(model: nn.Module, lr: float) -> Optimizer:
    """Adam whose rate of the embedding falls with its width, as a hidden weight's."""
    word = cast(Transformer, model).word.weight
    rest = [p for p in model.parameters() if p is not word]
    optimizer = mupkit.MuAdam([{"params": rest}, {"params": [word]}], lr=lr)
    mult = BASE / word.shape[1]
    optimizer.param_groups[-1].update(lr=lr * mult, lr_mult=mult)
    return optimizer


def forgotten_delta(width: int) -> nn.Module:
    """The delta model does not vary the middle width."""
    with torch.device("meta"):
        base, delta = MLP(BASE, BASE), MLP(2 * BASE, BASE)
    return mupkit.parametrize(uneven_mlp(width), base, delta)


def rescaled_tie(width: int) -> nn.Module:
    """A tied weight multiplied by sqrt(width), as `mup`'s MuSharedReadout does."""
    model = cast(Transformer, parametrized(TRANSFORMERS, TABLE_8, tied=True)(width))
    with torch.no_grad():
        model.word.weight.mul_((width / BASE) ** 0.5)
    return model


def flat_hidden_std(width: int) -> nn.Module:
    """Hidden weights drawn with one std at all widths, after the parametrization."""
    model = cast(Transformer, parametrized(TRANSFORMERS, TABLE_3)(width))
    for layer in (model.query, model.key, model.value, model.out, model.up, model.down):
        nn.init.normal_(layer.weight, std=BASE**-0.5)
    return model


def small_position(width: int) -> nn.Module:
    """Positions that start smaller, the wider the model is, drawn after the parametrization."""
    model = cast(Transformer, parametrized(TRANSFORMERS, TABLE_3)(width))
    nn.init.normal_(model.position, std=(BASE / width) ** 0.5)
    return model


NOTHING = "nothing"  # is wrong with a right model
_ADAM, _SGD = (0.02, 1e-3), (0.5, 0.1)


def cases() -> Iterable[Case]:
    """The right models, then the bugs."""
    T, M, E, W, C = TRANSFORMERS, UNEVEN, EVEN, WIDE, CNNS

    def with_adam(name: str, what: str, kind: Kind, build: Any, make: Any = adam) -> Case:
        return Case(name, what, kind, build, make, *_ADAM)

    def with_sgd(name: str, what: str, kind: Kind, build: Any, make: Any = sgd) -> Case:
        return Case(name, what, kind, build, make, *_SGD)

    yield with_adam("right: Transformer, Table 3, Adam", NOTHING, T, parametrized(T, TABLE_3))
    yield with_adam(
        "right: tied Transformer, Table 8, Adam", NOTHING, T, parametrized(T, TABLE_8, tied=True)
    )
    yield with_adam("right: uneven MLP, Table 3, Adam", NOTHING, M, parametrized(M, TABLE_3))
    yield with_sgd("right: MLP, Table 8, SGD", NOTHING, E, parametrized(E, TABLE_8))
    yield with_sgd("right: MLP, Table 3, SGD", NOTHING, W, parametrized(W, TABLE_3))
    yield with_adam("right: CNN, Table 8, Adam", NOTHING, C, parametrized(C, TABLE_8))
    yield with_sgd("right: CNN, Table 3, SGD", NOTHING, C, parametrized(C, TABLE_3))

    yield with_adam("SP", "no µP at all", T, _standard, plain_adam)
    yield with_adam(
        "plain optimizer",
        "µP's initialization, one rate for all",
        T,
        parametrized(T, TABLE_3),
        plain_adam,
    )
    sp_output = changed(TABLE_3, "output", init_std=(-0.5, 0), lr={"adam": (0, 0)})
    yield with_adam("SP readout", "the readout alone is in SP", T, parametrized(T, sp_output))
    unmultiplied = changed(TABLE_8, "output", multiplier=(0, 0))
    yield with_adam(
        "no readout multiplier", "Table 8 without its multiplier", T, parametrized(T, unmultiplied)
    )
    mixed = changed(TABLE_8, "output", init_std=(-1, 0), lr={"adam": (-1, 0)})
    yield with_adam(
        "tables mixed", "Table 8's multiplier with Table 3's readout", T, parametrized(T, mixed)
    )
    output_rate = changed(TABLE_3, "output", lr={"adam": (0, 0)})
    yield with_adam(
        "readout rate unscaled", "the readout's rate does not fall", T, parametrized(T, output_rate)
    )
    yield with_adam("hidden std wrong", "one std at all widths", T, flat_hidden_std)
    hidden_rate = changed(TABLE_3, "hidden", lr={"adam": (0, 0)})
    yield with_adam(
        "hidden rate unscaled", "hidden rates do not fall", T, parametrized(T, hidden_rate)
    )
    yield with_adam(
        "1/sqrt(d) attention",
        "logits over sqrt(d_head)",
        T,
        parametrized(T, TABLE_3, base_d_head=None),
    )
    yield with_adam(
        "attention scaled twice",
        "1/d and 1/sqrt(d_head)",
        T,
        parametrized(T, TABLE_3, attention_power=-0.5),
    )
    yield with_adam(
        "branches over sqrt(width)",
        "residual branches vanish",
        T,
        parametrized(T, TABLE_3, branch_power=-0.5),
    )
    yield with_adam("small positions", "their std falls with width", T, small_position)
    yield with_adam(
        "flat weight decay", "AdamW, one decay for all", T, parametrized(T, TABLE_3), flat_decay
    )
    yield with_adam(
        "embedding as hidden",
        "its rate falls with width",
        T,
        parametrized(T, TABLE_3),
        embedding_as_hidden,
    )
    yield with_adam("tied head rescaled", "the embedding grows with width", T, rescaled_tie)
    yield with_adam(
        "epsilon unscaled",
        "epsilon stays, gradients shrink",
        T,
        parametrized(T, TABLE_3),
        unscaled_eps,
    )
    yield Case(
        "scheduler flattens groups",
        "OneCycleLR with one max_lr",
        T,
        parametrized(T, TABLE_3),
        flattened,
        *_ADAM,
        scheduler=one_cycle,
    )
    yield with_adam(
        "transposed weight",
        "x @ W read as W x, widths differ",
        M,
        parametrized(M, TABLE_3, right=True),
    )
    yield with_adam("forgotten delta", "a width that the delta model keeps", M, forgotten_delta)
    fan_out = changed(TABLE_3, "hidden", init_std=(0, -0.5))
    yield with_adam(
        "fan-out for fan-in", "hidden std by fan-out, widths differ", M, parametrized(M, fan_out)
    )
    head = changed(TABLE_8, "output", multiplier=(0, 0), init_std=(-0.5, 0))
    yield with_adam(
        "forgotten convolutional head", "left as it is, as in `mup`", C, parametrized(C, head)
    )
    yield with_sgd(
        "bias rate unscaled",
        "SGD, one rate for biases",
        E,
        parametrized(E, TABLE_3),
        constant_bias_rate,
    )
    yield with_sgd(
        "clipped gradients",
        "SGD, clipped by their global norm",
        W,
        parametrized(W, TABLE_3),
        clipped,
    )
    input_rate = changed(TABLE_3, "input", lr={"sgd": (0, 0)})
    yield with_sgd(
        "input rate unscaled",
        "SGD, the input layer's rate does not grow",
        C,
        parametrized(C, input_rate),
    )
    hidden_sgd = changed(TABLE_3, "hidden", lr={"sgd": (-1, 0)})
    yield with_sgd(
        "Adam's rule with SGD", "hidden rates of SGD fall as Adam's", C, parametrized(C, hidden_sgd)
    )


def _standard(width: int) -> nn.Module:
    """Its own base, so that all stays as PyTorch has it."""
    return mupkit.parametrize(Transformer(width, base_d_head=None), None)
