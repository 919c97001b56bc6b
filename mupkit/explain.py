"""What a parametrization does to each parameter of a model, and what looks wrong about it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from mupkit.base_shapes import canonical, get_scalings, unwrap
from mupkit.infshape import InfShape, Role
from mupkit.messages import RatioError
from mupkit.multipliers import multiplier
from mupkit.observe import changed, observe
from mupkit.optim import family_of, setting
from mupkit.parametrization import LAYOUT, NO_LAYOUT
from mupkit.rules import Exponents, Family, Rules, rule_for, scale
from mupkit.schedule import guard
from mupkit.storage import Layout, embeddings, free_parameters, is_linear, own_parameters

COLUMNS: dict[Role, str] = {
    "input": "input weights & biases",
    "hidden": "hidden weights",
    "output": "output weights",
    "scalar": "scalars",
}
SCHEDULER_STEPS = 100
SCHEDULER_FIX = (
    "It sets absolute rates: give it a list, mupkit.per_group(optimizer, rate), leave eta_min at "
    "0, or use LambdaLR"
)


@dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
        name, shape: as in torch.
        widths: the dimensions that scale, as "base -> size"; a finite one is "-".
        role: "input", "hidden", "output" or "scalar".
        fan_in, fan_out: sizes; a vector has fan-in 1.
        init_std: root mean square of the entries; None on the meta device.
        multiplier: the factor of the weight in the forward pass.
        lr, weight_decay, eps: those of the optimizer; None if it has none.
        rule: the scaling rule behind these values, in words.
    """

    name: str
    shape: tuple[int, ...]
    widths: str
    role: Role
    fan_in: int
    fan_out: int
    init_std: float | None
    multiplier: float
    lr: float | None
    weight_decay: float | None
    eps: float | None
    rule: str


@dataclass(frozen=True)
class Finding:
    """Something that is wrong (a warning) or worth knowing (a note).

    Attributes:
        where: a parameter, a module, "model" or "scheduler".
        what: what was found.
        fix: what to do about it; empty if unknown.
        level: a note is no reason to fail.
    """

    where: str
    what: str
    fix: str
    level: Literal["warning", "note"] = "warning"

    def __str__(self) -> str:
        fix = f" {self.fix}." if self.fix else ""
        return f"{self.level}: {self.where}: {self.what}.{fix}"


def explain(model: nn.Module, optimizer: Optimizer | None = None) -> list[Row]:
    """One row per parameter of a parametrized model, in the model's order.

    Raises:
        ValueError: if a parameter has no base shape.
    """
    options = _options(optimizer)
    mults = {id(p): multiplier(m, local) for _, m, local, p in reversed([*own_parameters(model)])}
    family = None if optimizer is None else family_of(type(optimizer))
    rows = []
    scalings = get_scalings(model)
    for name, p in model.named_parameters():
        infshape, rules = scalings[name]
        fan_in, fan_out = infshape.fanin_fanout()
        group = options.get(id(p), {})
        rows.append(
            Row(
                name=canonical(name),
                shape=tuple(p.shape),
                widths=", ".join(
                    f"{d.base_dim} -> {d.dim}" if d.isinf() else "-" for d in infshape
                ),
                role=infshape.role(),
                fan_in=fan_in.dim,
                fan_out=fan_out.dim,
                init_std=_std(p),
                multiplier=mults[id(p)],
                lr=_number(group.get("lr")),
                weight_decay=_number(group.get("weight_decay")),
                eps=_number(group.get("eps")),
                rule=_rule_text(infshape, rules, family),
            )
        )
    return rows


def _options(optimizer: Optimizer | None) -> dict[int, dict[str, Any]]:
    groups = [] if optimizer is None else optimizer.param_groups
    return {id(p): group for group in groups for p in group["params"]}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float | Tensor) else None


def _std(p: Tensor) -> float | None:
    return None if p.is_meta else math.sqrt(p.detach().double().square().mean().item())


def power(exponents: Exponents) -> str:
    """Exponents of (fan_in, fan_out) as a formula: (-0.5, 0) becomes "1/sqrt(fan_in)"."""
    up: list[str] = []
    down: list[str] = []
    for name, e in zip(("fan_in", "fan_out"), exponents, strict=True):
        size = {0.5: f"sqrt({name})", 1: name, 2: f"{name}^2"}.get(abs(e), f"{name}^{abs(e):g}")
        if e:
            (up if e > 0 else down).append(size)
    top = " ".join(up) or "1"
    return f"{top}/{' '.join(down)}" if down else top


def _rule_text(infshape: InfShape, rules: Rules, family: Family | None) -> str:
    rule = rule_for(infshape, rules)
    text = f"{rules.title}, {COLUMNS[infshape.role()]}: std {power(rule.init_std)}"
    if any(rule.multiplier):
        text += f", multiplier {power(rule.multiplier)}"
    return text if family is None else f"{text}, {family} lr {power(rule.lr[family])}"


def findings(
    model: nn.Module,
    base: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Callable[[Optimizer], Any] | None = None,
    loss: Callable[[Any], Any] | None = None,
) -> list[Finding]:
    """What looks wrong about a parametrized model.

    Args:
        model: on any device; its initialization is checked unless it is on the meta device.
        base: the base model, initialized alike, to compare stds with (unless it is on the meta
            device) and sizes of heads.
        optimizer: its rates are compared with the rules'.
        scheduler: scheduler(optimizer) makes a scheduler, which is then stepped a hundred times.
        loss: loss(model) makes a forward pass, in which attention and the numbers that multiply
            activations are looked at, beside those of the base.
    """
    found = [*_structure(model), *_attention(model, base)]
    if base is not None:
        found += _initialization(model, base)
        found += _forward(model, base, loss) if loss is not None else []
    if optimizer is not None:
        found += _rates(model, optimizer)
        if scheduler is not None:
            found += _schedule(optimizer, scheduler)
    return found


def _structure(model: nn.Module) -> Iterable[Finding]:
    scalings = get_scalings(model)
    if not any(infshape.ninf() for infshape, _ in scalings.values()):
        yield Finding(
            "model",
            "no dimension of any parameter scales with width, so it is in SP",
            "Give a base whose widths differ, or a delta model if this is the base width",
        )
    told: Layout = vars(unwrap(model)).get(LAYOUT, NO_LAYOUT)
    embedded, free = embeddings(model), free_parameters(unwrap(model), told)
    by_id = {id(p): scalings[name] for name, p in model.named_parameters()}
    known = (nn.MultiheadAttention, nn.RNNBase, nn.Embedding, nn.EmbeddingBag)
    for name, module, _, p in own_parameters(model):
        infshape, rules = by_id[id(p)]
        if id(p) in embedded and is_linear(module):
            yield Finding(
                name,
                "shares the weight of an embedding, which keeps the input weights' rules of "
                f"{rules.title}; its logits are multiplied by {multiplier(module, 'weight'):g}",
                "Nothing to do, if that is what you want; else give the readout its own weight",
                "note",
            )
        guessed = id(p) in free and not isinstance(module, known)
        if guessed and p.ndim > 1 and infshape.ninf() == 1:
            yield Finding(
                name,
                f"{type(module).__name__} does not tell how it uses {tuple(p.shape)}, so it is "
                "taken for an input weight, such as a position",
                f'If it maps a width to a finite dimension, say layout={{"{name}": "out_in"}} (or '
                '"in_out" for x @ W)',
                "note",
            )


def _attention(model: nn.Module, base: nn.Module | None) -> Iterable[Finding]:
    sizes = {} if base is None else _head_sizes(base)
    for name, size in _head_sizes(model).items():
        if size > 1 and sizes.get(name) != size:
            yield Finding(
                name,
                "nn.MultiheadAttention divides attention logits by sqrt(d_head), and d_head is "
                f"{size} here and {sizes.get(name, 'unknown')} in the base model",
                "Keep d_head fixed and scale the number of heads, or use an attention whose logits "
                "you multiply by mupkit.attention_scale(d_head, base_d_head)",
            )


def _head_sizes(model: nn.Module) -> dict[str, int]:
    modules = model.named_modules()
    return {canonical(n): m.head_dim for n, m in modules if isinstance(m, nn.MultiheadAttention)}


def _forward(model: nn.Module, base: nn.Module, loss: Callable[[Any], Any]) -> Iterable[Finding]:
    """What the forward pass does otherwise than at base width, apart from multipliers of mupkit."""
    seen, at_base = (observe(m, partial(loss, m)) for m in (model, base))
    known = {canonical(n) for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    for name in seen.attention.keys() & at_base.attention.keys() - known:
        logits = zip(at_base.attention[name], seen.attention[name], strict=False)
        ratios = {s.relative / b.relative for b, s in logits}
        if wrong := [ratio for ratio in ratios if abs(math.log(abs(ratio))) > 0.01]:
            yield Finding(
                name or "model",
                f"d_head times the factor of q·k is {wrong[0]:.3g} times what it is in the base "
                "model, and should be the same",
                "Multiply q·k by mupkit.attention_scale(d_head, base_d_head), and by nothing else",
            )
    scaled = {
        canonical(name)
        for name, module, local, _ in own_parameters(model)
        for name in [name.removesuffix(f".{local}")]
        if multiplier(module, local) != 1
    }
    for name in seen.factors.keys() & at_base.factors.keys() - scaled:
        if pairs := changed(at_base.factors[name], seen.factors[name]):
            numbers = ", ".join(f"{there:.3g} there and {here:.3g} here" for there, here in pairs)
            yield Finding(
                name or "model",
                "activations are multiplied by a number that is not that of the base model: "
                f"{numbers}",
                "Use the same number at all widths: initialization and rates already go with width",
            )


def _initialization(model: nn.Module, base: nn.Module) -> Iterable[Finding]:
    theirs = {canonical(name): p for name, p in base.named_parameters()}
    for name, p in model.named_parameters():
        infshape, rules = get_scalings(model)[name]
        std, base_std = _std(p), _std(theirs[canonical(name)])
        if not std or not base_std:
            continue
        ratio = std / base_std / scale(infshape, rule_for(infshape, rules).init_std)
        if abs(math.log(ratio)) > 0.1 + _noise(p, theirs[canonical(name)]):
            yield Finding(
                canonical(name),
                f"its initial size is {ratio:.3g} times what the base model's and "
                f"{rules.title} give",
                "Initialize before parametrize(), with a scheme that init= names, or after it with "
                "the functions of mupkit.init",
            )


def _noise(p: Tensor, q: Tensor) -> float:
    """How far chance may move the logarithm of the ratio of two root mean squares.

    Five standard deviations or, for a few entries, whose root mean square may be small by chance
    (below r with probability r^n), what happens once in e^12 times; 0 for two constants.
    """
    if all(bool((x == x.flatten()[0]).all()) for x in (p, q)):
        return 0.0
    n = min(p.numel(), q.numel())
    return max(5 / math.sqrt(2 * n), 12 / n)


def _rates(model: nn.Module, optimizer: Optimizer) -> Iterable[Finding]:
    family, options = family_of(type(optimizer)), _options(optimizer)
    if family in (None, "muon"):  # torch's Muon has factors of its own
        return
    # By the group in which they were given: rates, and decays that are the same at all widths.
    masters: dict[int, list[tuple[float, str]]] = {}
    decays: dict[int, list[tuple[float, str]]] = {}
    for name, p in model.named_parameters():
        infshape, rules = get_scalings(model)[name]
        group = options.get(id(p))
        if group is not None:
            mult, origin = setting(infshape, rules, family).lr_mult, group.get("mup_group", -1)
            masters.setdefault(origin, []).append((float(group["lr"]) / mult, canonical(name)))
            if (decay := group.get("weight_decay")) and not group.get("coupled_decay"):
                decays.setdefault(origin, []).append((decay * mult, canonical(name)))
        elif p.requires_grad:
            yield Finding(
                canonical(name), "the optimizer does not have it", "Give it all parameters"
            )
    for rates in masters.values():
        (low, least), (high, most) = min(rates), max(rates)
        if high > 1.001 * low:
            yield Finding(
                most,
                f"its rate is {high / low:.3g} times that of {least}, each measured by its rule",
                "Make the optimizer by mupkit.MuAdam, MuAdamW or MuSGD",
            )
    for found in decays.values():
        (low, least), (high, most) = min(found), max(found)
        if high > 1.001 * low:
            yield Finding(
                most,
                f"a step shrinks it {high / low:.3g} times as much as {least} by weight decay; it "
                "should be the same at all widths",
                "Give weight_decay to mupkit.MuAdamW or MuSGD, or say weight_decay_mode='coupled', "
                "if decay is meant to follow the rate",
            )


def _schedule(optimizer: Optimizer, make: Callable[[Optimizer], Any]) -> Iterable[Finding]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a scheduler stepped before its optimizer
        try:
            scheduler = make(optimizer)
            guard(optimizer)
            for _ in range(SCHEDULER_STEPS):
                scheduler.step()
                guard(optimizer)
        except RatioError as error:
            yield Finding("scheduler", error.what, SCHEDULER_FIX)
