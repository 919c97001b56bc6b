"""Optimizers whose learning rates follow the scaling rules of a model, parameter by parameter.

They are torch's own optimizers. Each sorts the parameters into groups whose rates are

    lr * lr_mult,    lr_mult = ñ_in^a ñ_out^b,    ñ = size / size at base width

with the exponents (a, b) that the rule for the parameter's role has for the optimizer. A group
holds its factor as `lr_mult`.

Before each step a guard checks that the rates keep their ratios: a scheduler that sets absolute
rates (OneCycleLR, eta_min) would otherwise undo µP without a sign. The class of an optimizer is a
subclass of torch's of the same name, so that copies, pickles and loaded states keep the guard.

Source: Tensor Programs V, Tables 3, 8 and 9; Appendix B.3.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import (
    ASGD,
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    SparseAdam,
)

from mupkit.base_shapes import get_scalings, infshape_of, rules_of
from mupkit.infshape import InfShape
from mupkit.messages import MupWarning
from mupkit.rules import Family, Rule, Rules, rule_for, scale
from mupkit.schedule import guard, guarded
from mupkit.staged import MuAdafactor, MuRAdam

Params = nn.Module | Iterable[Any]
Impl = type[Optimizer] | partial[Any]
DecayMode = Literal["independent", "coupled"]

Muon: Any = getattr(torch.optim, "Muon", None)  # which torch has since 2.9

_FAMILY_OF: dict[type[Optimizer], Family] = {
    SGD: "sgd",
    ASGD: "sgd",
    Adam: "adam",
    AdamW: "adam",
    NAdam: "adam",
    RAdam: "adam",
    Adagrad: "adam",
    Adamax: "adam",
    RMSprop: "adam",
    SparseAdam: "adam",
    Adafactor: "frobenius",
    **({} if Muon is None else {Muon: "muon"}),
}
_COUPLED = (Adam, NAdam, RAdam, Adagrad, Adamax, RMSprop)  # unless decoupled_weight_decay
_NO_RULE = (torch.optim.Adadelta, torch.optim.Rprop, torch.optim.LBFGS)
_STAGED: dict[type[Optimizer], type[Optimizer]] = {RAdam: MuRAdam, Adafactor: MuAdafactor}
_WRAPPER: dict[Family, str] = {
    "sgd": "MuSGD",
    "adam": "MuAdam",
    "lion": "MuAdam",
    "frobenius": "MuFrobenius",
    "muon": "MuMuon",
}


def MuAdam(
    params: Params,
    impl: Impl = Adam,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float = 0.0,
    weight_decay_mode: DecayMode = "independent",
    scale_eps: bool = True,
    **options: Any,
) -> Optimizer:
    """Adam and its relatives, whose updates are as large as the rate, whatever the gradient's size.

    The factor of a parameter's rate is 1 or, with ñ a size over that at base width,

        role                  Table 3   Table 8   Table 9
        input weight, bias    1         1         1/sqrt(ñ_out)
        hidden weight         1/ñ_in    1/ñ_in    1/ñ_in
        output weight         1/ñ_in    1         1/sqrt(ñ_in)

    RAdam's first steps are SGD's, and have the factors of `MuSGD`.

        >>> import mupkit
        >>> from torch import nn
        >>> def build(width):
        ...     return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))
        >>> model = mupkit.parametrize(build(256), build(32))
        >>> optimizer = mupkit.MuAdam(model, lr=0.5)
        >>> sorted({group["lr"] for group in optimizer.param_groups})
        [0.0625, 0.5]

    Args:
        params: the model, `model.parameters()`, `model.named_parameters()`, or torch's group
            dictionaries, which are left unchanged. An option of a group overrides the argument.
        impl: Adam, AdamW, Adagrad, Adamax, NAdam, RAdam, RMSprop or SparseAdam of torch, or another
            class whose updates are as large as the rate, such as Lion, or a functools.partial that
            binds keywords of such a class.
        lr: learning rate at base width; required unless every group has its own.
        weight_decay: coefficient λ at base width: a step shrinks a weight by its rate * λ. 0 unless
            given, also where torch has another default.
        weight_decay_mode: "independent" keeps rate * λ constant in width, as `mup` does and as
            Lemma J.1 requires; "coupled" keeps λ constant, so that decay follows the rate.
        scale_eps: scale epsilon as the gradient scales, for example by 1/ñ_out for hidden weights
            (Appendix B.3); False leaves epsilon as it is, as `mup` does.
        **options: further keywords of `impl`, such as betas, passed to it.

    Returns:
        An instance of `impl`.

    Raises:
        ValueError: if a rate, the parameters or their base shapes are missing, or if `impl` needs
            another function of this module.

    Warns:
        MupWarning: if `impl` adds weight decay to the gradient, as Adam does and AdamW does not:
            such decay does not transfer across width (Appendix B.3).

    Source: Tensor Programs V, Tables 3, 8 and 9, row "Adam LR"; Appendix B.3.
    """
    shared = _Shared(lr, weight_decay, weight_decay_mode, scale_eps)
    return _make(params, impl, "adam", shared, options)


def MuAdamW(
    params: Params,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float = 0.0,
    weight_decay_mode: DecayMode = "independent",
    scale_eps: bool = True,
    **options: Any,
) -> Optimizer:
    """`MuAdam` with torch's AdamW, whose weight decay transfers across width.

    Args:
        params: the model, `model.parameters()`, `model.named_parameters()`, or torch's group
            dictionaries, which are left unchanged. An option of a group overrides the argument.
        lr: learning rate at base width; required unless every group has its own.
        weight_decay: coefficient λ at base width: a step shrinks a weight by its rate * λ. 0 unless
            given, also where torch has another default.
        weight_decay_mode: "independent" keeps rate * λ constant in width, as `mup` does and as
            Lemma J.1 requires; "coupled" keeps λ constant, so that decay follows the rate.
        scale_eps: scale epsilon as the gradient scales, for example by 1/ñ_out for hidden weights
            (Appendix B.3); False leaves epsilon as it is, as `mup` does.
        **options: further keywords of torch's AdamW, such as betas, passed to it.

    Raises:
        ValueError: as `MuAdam`.

    Source: Tensor Programs V, Tables 3, 8 and 9, row "Adam LR"; Appendix B.3.
    """
    shared = _Shared(lr, weight_decay, weight_decay_mode, scale_eps)
    return _make(params, AdamW, "adam", shared, options)


def MuSGD(
    params: Params,
    impl: Impl = SGD,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float = 0.0,
    weight_decay_mode: DecayMode = "independent",
    scale_eps: bool = True,
    **options: Any,
) -> Optimizer:
    """SGD and its relatives, whose updates are linear in the gradient.

    The factor of a parameter's rate is 1 or, with ñ a size over that at base width,

        role                  Table 3         Table 8         Table 9
        input weight, bias    ñ_out           ñ_out           1
        hidden weight         ñ_out / ñ_in    ñ_out / ñ_in    ñ_out / ñ_in
        output weight         1/ñ_in          ñ_in            1

    Args:
        params: the model, `model.parameters()`, `model.named_parameters()`, or torch's group
            dictionaries, which are left unchanged. An option of a group overrides the argument.
        impl: SGD or ASGD of torch (ASGD's lambd is scaled as weight decay), or another class whose
            updates are linear in the gradient.
        lr: learning rate at base width; required unless every group has its own.
        weight_decay: coefficient λ at base width: a step shrinks a weight by its rate * λ. 0 unless
            given, also where torch has another default.
        weight_decay_mode: "independent" keeps rate * λ constant in width, as `mup` does and as
            Lemma J.1 requires; "coupled" keeps λ constant, so that decay follows the rate.
        scale_eps: scale the epsilon of an `impl` that has one as the gradient scales (Appendix
            B.3); False leaves it as it is.
        **options: further keywords of `impl`, such as momentum, passed to it.

    Raises:
        ValueError: as `MuAdam`.

    Source: Tensor Programs V, Tables 3, 8 and 9, row "SGD LR"; Appendix J.2.1.
    """
    shared = _Shared(lr, weight_decay, weight_decay_mode, scale_eps)
    return _make(params, impl, "sgd", shared, options)


def MuFrobenius(
    params: Params,
    impl: Impl = Adafactor,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float = 0.0,
    weight_decay_mode: DecayMode = "independent",
    scale_eps: bool = True,
    **options: Any,
) -> Optimizer:
    """Optimizers that give an update the Frobenius norm of its weight: Adafactor, LARS, LAMB.

    The factor of a hidden weight's rate is 1/sqrt(ñ_in), with ñ_in its fan-in over that at base
    width. All other factors are 1.

    Args:
        params: the model, `model.parameters()`, `model.named_parameters()`, or torch's group
            dictionaries, which are left unchanged. An option of a group overrides the argument.
        impl: torch's Adafactor, or another class whose updates have their weight's norm.
        lr: learning rate at base width; required unless every group has its own.
        weight_decay: coefficient λ at base width: a step shrinks a weight by its rate * λ. 0 unless
            given, also where torch has another default.
        weight_decay_mode: "independent" keeps rate * λ constant in width, as `mup` does and as
            Lemma J.1 requires; "coupled" keeps λ constant, so that decay follows the rate.
        scale_eps: scale epsilon as the gradient scales, for example by 1/ñ_out for hidden weights
            (Appendix B.3), and Adafactor's floor of a weight's size, eps[1], as the std of the
            weight's initialization; False leaves them as they are.
        **options: further keywords of `impl`, such as beta2_decay, passed to it.

    Raises:
        ValueError: as `MuAdam`.

    Source: Tensor Programs V, Appendix B.3, "Frobenius Normalization".
    """
    shared = _Shared(lr, weight_decay, weight_decay_mode, scale_eps)
    return _make(params, impl, "frobenius", shared, options)


def MuMuon(
    params: Params,
    impl: Impl = Muon,
    *,
    lr: float | Tensor | None = None,
    weight_decay: float = 0.0,
    weight_decay_mode: DecayMode = "independent",
    **options: Any,
) -> Optimizer:
    """Muon for hidden matrices; give all other parameters to another optimizer.

    The spectral norm of an update is lr * sqrt(ñ_out / ñ_in), with ñ a size over that at base
    width. Torch's Muon multiplies the rate by sqrt(max(1, fan_out / fan_in)) itself, or by what
    `adjust_lr_fn="match_rms_adamw"` says; this factor is divided out.

    Args:
        params: hidden matrices, alone, as (name, tensor) pairs or in torch's group dictionaries,
            which are left unchanged. An option of a group overrides the argument.
        impl: torch's Muon, or another class whose updates are orthogonal matrices.
        lr: learning rate at base width; required unless every group has its own.
        weight_decay: coefficient λ at base width: a step shrinks a weight by its rate * λ. 0 unless
            given, also where torch has another default.
        weight_decay_mode: "independent" keeps rate * λ constant in width, as `mup` does and as
            Lemma J.1 requires; "coupled" keeps λ constant, so that decay follows the rate.
        **options: further keywords of `impl`, such as momentum, passed to it. Its eps, a floor of
            the whole gradient's norm, is not scaled.

    Raises:
        ValueError: as `MuAdam`, for a parameter that is no hidden matrix, naming it, and without
            `impl` if torch is older than 2.9 and has no Muon.

    Source: Yang, Simon, Bernstein 2023 (arXiv:2310.17813), Condition 1.
    """
    if impl is None:
        raise ValueError(f"torch {torch.__version__} has no Muon: give an impl, or update torch")
    shared = _Shared(lr, weight_decay, weight_decay_mode, scale_eps=False)
    return _make(params, impl, "muon", shared, options)


@dataclass(frozen=True)
class _Shared:
    """The keywords that the functions of this module have in common."""

    lr: float | Tensor | None
    weight_decay: float
    weight_decay_mode: DecayMode
    scale_eps: bool


@dataclass(frozen=True)
class Setting:
    """The factors of an optimizer for one parameter, relative to base width."""

    lr_mult: float
    eps_mult: float
    std_mult: float
    sgd_ratio: float


def setting(infshape: InfShape, rules: Rules, family: Family) -> Setting:
    """The factors of a parameter's rate, epsilon and size, 1 at base width."""
    rule: Rule = rule_for(infshape, rules)
    lr = scale(infshape, rule.lr[family])
    return Setting(
        lr_mult=lr,
        eps_mult=scale(infshape, rule.eps),
        std_mult=scale(infshape, rule.init_std),
        sgd_ratio=scale(infshape, rule.lr["sgd"]) / lr,
    )


def family_of(impl: type[Optimizer]) -> Family | None:
    """The family of one of torch's optimizers; None for other classes."""
    return next((family for known, family in _FAMILY_OF.items() if issubclass(impl, known)), None)


def _make(
    params: Params, impl: Impl, family: Family, shared: _Shared, options: dict[str, Any]
) -> Optimizer:
    impl, shared, options = _unbound(impl, shared, options)
    _check_family(impl, family)
    mode = shared.weight_decay_mode
    if mode not in ("independent", "coupled"):
        raise ValueError(f"weight_decay_mode is {mode!r}, allowed are 'independent' and 'coupled'")
    accepted = inspect.signature(impl).parameters
    given = dict(options)
    if shared.lr is not None:
        given["lr"] = shared.lr
    if shared.weight_decay or "weight_decay" in accepted:  # SparseAdam has none
        given["weight_decay"] = shared.weight_decay
    defaults = {n: p.default for n, p in accepted.items()} | {"weight_decay": 0.0} | given
    coupled = impl in _COUPLED and not options.get("decoupled_weight_decay", False)
    name, impl = impl.__name__, _STAGED.get(impl, impl)
    decays = ["weight_decay", *(["lambd"] if issubclass(impl, ASGD) else [])]
    groups = []
    for origin, group in enumerate(_as_groups(params)):
        own = {k: v for k, v in group.items() if k not in ("params", "names", "scalings")}
        if "lr" not in {**given, **own}:
            raise ValueError("a µP optimizer needs lr, as an argument or in every group")
        asked = {**defaults, **own}
        for (found, applied), members in _by_setting(group, family, asked).items():
            mult = found.lr_mult / applied
            new = {**own, "params": members, "lr": asked["lr"] * mult}
            for decay in decays:
                new[decay] = asked[decay] / (mult if mode == "independent" else 1)
            new |= {"lr_mult": mult, "mup_group": origin, "mup_lr": float(asked["lr"])}
            if mode == "coupled":
                new["coupled_decay"] = True
            if shared.scale_eps:
                new |= _epsilon(asked.get("eps"), found)
            if issubclass(impl, MuRAdam):
                new["sgd_ratio"] = found.sgd_ratio
            groups.append(new)
    optimizer: Optimizer = guarded(impl)(groups, **given)
    optimizer.register_step_pre_hook(guard)
    if coupled and any(group["weight_decay"] for group in optimizer.param_groups):
        what = (
            f"the weight decay of {name} goes through its normalization and does not transfer "
            "across width"
        )
        warnings.warn(MupWarning(what, "Use mupkit.MuAdamW"), stacklevel=3)
    return optimizer


def _unbound(
    impl: Impl, shared: _Shared, options: dict[str, Any]
) -> tuple[type[Optimizer], _Shared, dict[str, Any]]:
    """A class, with what a functools.partial of it binds as options."""
    lr, decay = shared.lr, shared.weight_decay
    kind: Any = impl
    while isinstance(kind, partial):
        if kind.args:
            raise ValueError(f"impl binds {kind.args} by position: bind keywords alone")
        options = {**kind.keywords, **options}
        kind = kind.func
    if lr is None:
        lr = options.get("lr")
    decay = decay or options.get("weight_decay", 0.0)
    options = {n: value for n, value in options.items() if n not in ("lr", "weight_decay")}
    return kind, dataclasses.replace(shared, lr=lr, weight_decay=decay), options


def process_param_groups(params: Iterable[Any], **options: Any) -> list[dict[str, Any]]:
    """Parameters as torch's group dictionaries, each with a rate and a weight decay.

    Args:
        params: parameters, or groups of them, which are left unchanged.
        **options: lr, and weight_decay (0 without it), for groups that have none of their own.

    Raises:
        ValueError: if a group has no rate.
    """
    groups = list(params)
    if groups and not isinstance(groups[0], dict):
        groups = [{"params": groups}]
    defaults = {"weight_decay": 0.0, **options}
    shared = {key: defaults[key] for key in ("lr", "weight_decay") if key in defaults}
    groups = [{**shared, **group} for group in groups]
    if any("lr" not in group for group in groups):
        raise ValueError("a µP optimizer needs lr, as an argument or in every group")
    return groups


def _check_family(impl: type[Optimizer], family: Family) -> None:
    if issubclass(impl, _NO_RULE):
        raise ValueError(
            f"{impl.__name__} has no rule in µP: its own state decides the sizes of its steps more "
            "than lr does; use MuAdam or MuSGD with another impl"
        )
    known = family_of(impl)
    if known is not None and known != family:
        raise ValueError(
            f"{impl.__name__} is for mupkit.{_WRAPPER[known]}, not {_WRAPPER[family]}: its updates "
            "scale differently"
        )


def _by_setting(
    group: dict[str, Any], family: Family, asked: dict[str, Any]
) -> dict[tuple[Setting, float], list[Tensor]]:
    """The parameters of a group by their factors and the one that the optimizer applies itself."""
    found: dict[tuple[Setting, float], list[Tensor]] = {}
    members = zip(group["params"], group["names"], group["scalings"], strict=True)
    for p, name, (infshape, rules) in members:
        applied = _spectral(p, name, infshape, asked) if family == "muon" else 1.0
        found.setdefault((setting(infshape, rules, family), applied), []).append(p)
    return found


def _epsilon(eps: Any, found: Setting) -> dict[str, Any]:
    if isinstance(eps, tuple):  # Adafactor: floors of the gradient and of the weight's size
        first, second = eps
        return {"eps": (first and first * found.eps_mult, second * found.std_mult)}
    return {} if eps is None or found.eps_mult == 1 else {"eps": eps * found.eps_mult}


def _spectral(p: Tensor, name: str, infshape: InfShape, asked: dict[str, Any]) -> float:
    """The factor that torch's Muon applies to the rate at this width, relative to base width."""
    if infshape.role() in ("input", "output") or p.ndim != 2:
        raise ValueError(
            f"{name or tuple(p.shape)} is no hidden matrix ({infshape}); give MuMuon only those, "
            "and the rest to MuAdamW"
        )

    def factor(rows: int, columns: int) -> float:
        match asked.get("adjust_lr_fn"):
            case None | "original":
                return math.sqrt(max(1, rows / columns))
            case "match_rms_adamw":
                return math.sqrt(max(rows, columns))
        return 1.0

    base = [d.base_dim or d.dim for d in infshape]
    return factor(*p.shape) / factor(*base)


def _as_groups(params: Params) -> list[dict[str, Any]]:
    """Any of torch's forms as group dictionaries, with names and scalings of the parameters."""
    if isinstance(params, nn.Module):
        scalings = get_scalings(params)
        named = {n: p for n, p in params.named_parameters() if p.requires_grad}
        names = list(named)
        return [
            {
                "params": list(named.values()),
                "names": names,
                "scalings": [scalings[n] for n in names],
            }
        ]
    entries = list(params)
    if not entries:
        raise ValueError("a µP optimizer got no parameters")
    if not isinstance(entries[0], dict):
        entries = [{"params": entries}]
    groups = []
    for group in entries:
        members = group["params"]
        members = [members] if isinstance(members, Tensor) else list(members)
        pairs = [m if isinstance(m, tuple) else ("", m) for m in members]
        groups.append(
            {
                **group,
                "params": [p for _, p in pairs],
                "names": [n for n, _ in pairs],
                "scalings": [(infshape_of(p, n), rules_of(p)) for n, p in pairs],
            }
        )
    return groups
