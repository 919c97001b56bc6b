"""Optimizers whose learning rates follow the table of a model, parameter by parameter.

They are torch's own optimizers: the parameters are sorted into groups with scaled rates, each
with its factor as `lr_mult`. Give them `model.parameters()`, `model.named_parameters()`, the
model itself, or torch's group dictionaries, which are left unchanged.

All take
    params: as above.
    impl: the optimizer's class.
    weight_decay_mode: "independent": rate * decay is constant in width, as in `mup` and as Lemma
        J.1 needs; "coupled": the decay itself is, so that wide matrices decay less.
    scale_eps: let epsilon shrink as the gradients do. `mup` leaves it as it is.
    **kwargs: passed to `impl`. `weight_decay` defaults to 0, where torch's AdamW has 0.01.

Before each step a guard looks whether the rates of the groups still stand to each other as the
table says: a scheduler that sets absolute rates (OneCycleLR, eta_min) would undo µP in silence.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
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
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    SparseAdam,
)

from mupkit.infshape import InfShape
from mupkit.rules import Family, Rule, Table, rule_for, scale
from mupkit.schedule import guard
from mupkit.shape import get_scalings, infshape_of, table_of
from mupkit.staged import MuAdafactor, MuRAdam

Params = nn.Module | Iterable[Any]
DecayMode = Literal["independent", "coupled"]

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
    Muon: "muon",
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


def MuAdam(params: Params, impl: type[Optimizer] = Adam, **kwargs: Any) -> Optimizer:
    """Adam-like optimizers: AdamW, Adagrad, RMSprop, NAdam, RAdam, and Lion (a sign, too).

    RAdam's first steps are SGD's and are scaled as such. L2 decay inside Adam's gradient is not
    compatible with µP (Appendix B.3), and warned of.

    Source: Tensor Programs V, Tables 3, 8 and 9, row "Adam LR"; Appendix B.3.
    """
    optimizer = _make(params, impl, "adam", kwargs)
    coupled = impl in _COUPLED and not kwargs.get("decoupled_weight_decay", False)
    if coupled and any(group["weight_decay"] for group in optimizer.param_groups):
        warnings.warn(
            f"the weight decay of {impl.__name__} goes through its normalization and does not "
            "transfer across width; use MuAdamW",
            stacklevel=2,
        )
    return optimizer


def MuAdamW(params: Params, **kwargs: Any) -> Optimizer:
    """`MuAdam` with torch's AdamW. Weight decay defaults to 0, where torch has 0.01."""
    return MuAdam(params, impl=AdamW, **kwargs)


def MuSGD(params: Params, impl: type[Optimizer] = SGD, **kwargs: Any) -> Optimizer:
    """SGD-like optimizers, whose update is linear in the gradients.

    Source: Tensor Programs V, Tables 3, 8 and 9, row "SGD LR".
    """
    return _make(params, impl, "sgd", kwargs)


def MuFrobenius(params: Params, impl: type[Optimizer] = Adafactor, **kwargs: Any) -> Optimizer:
    """Optimizers that give an update the Frobenius norm of its weight: Adafactor, LARS, LAMB.

    Adafactor's floor of a weight's size, eps[1], is scaled as the weight's initialization.

    Source: Tensor Programs V, Appendix B.3, "Frobenius Normalization".
    """
    return _make(params, impl, "frobenius", kwargs)


def MuMuon(params: Params, impl: type[Optimizer] = Muon, **kwargs: Any) -> Optimizer:
    """Muon for hidden matrices; give all other parameters to another optimizer, as with Muon.

    The factor sqrt(max(1, fan_out / fan_in)) (or that of `adjust_lr_fn="match_rms_adamw"`) that
    torch's Muon applies itself is divided out, so that the rule is not applied twice.

    Raises:
        ValueError: for a parameter that is not a hidden matrix, naming it.

    Source: Yang, Simon, Bernstein 2023 (arXiv:2310.17813), Condition 1.
    """
    return _make(params, impl, "muon", kwargs)


@dataclass(frozen=True)
class Setting:
    """What an optimizer of some family does with one parameter, relative to base width."""

    lr_mult: float
    eps_mult: float
    std_mult: float
    sgd_ratio: float


def setting(infshape: InfShape, table: Table, family: Family) -> Setting:
    """The factors of a parameter's rate, epsilon and size, 1 at base width."""
    rule: Rule = rule_for(infshape, table)
    lr = scale(infshape, rule.lr[family])
    return Setting(
        lr_mult=lr,
        eps_mult=scale(infshape, rule.eps),
        std_mult=scale(infshape, rule.init_std),
        sgd_ratio=scale(infshape, rule.lr["sgd"]) / lr,
    )


def family_of(impl: type[Optimizer]) -> Family | None:
    """The family of one of torch's optimizers, None for others."""
    return next((family for known, family in _FAMILY_OF.items() if issubclass(impl, known)), None)


def _make(
    params: Params, impl: type[Optimizer], family: Family, kwargs: dict[str, Any]
) -> Optimizer:
    _check_family(impl, family)
    mode: DecayMode = kwargs.pop("weight_decay_mode", "independent")
    if mode not in ("independent", "coupled"):
        raise ValueError(f"weight_decay_mode is {mode!r}, allowed are 'independent' and 'coupled'")
    scale_eps: bool = kwargs.pop("scale_eps", True)
    defaults = {n: p.default for n, p in inspect.signature(impl).parameters.items()} | kwargs
    defaults["weight_decay"] = kwargs.get("weight_decay", 0.0)
    impl = _STAGED.get(impl, impl)
    decays = ["weight_decay", *(["lambd"] if issubclass(impl, ASGD) else [])]
    groups = []
    for origin, group in enumerate(_as_groups(params)):
        options = {k: v for k, v in group.items() if k not in ("params", "names", "scalings")}
        asked = {**defaults, **options}
        if "lr" not in {**kwargs, **options}:
            raise ValueError("a µP optimizer needs lr, as an argument or in every group")
        for (found, own), members in _by_setting(group, family, asked).items():
            mult = found.lr_mult / own
            new = {**options, "params": members, "lr": asked["lr"] * mult}
            for decay in decays:
                new[decay] = asked[decay] / (mult if mode == "independent" else 1)
            new |= {"lr_mult": mult, "mup_group": origin}
            if scale_eps and family != "muon":  # Muon's is a floor of the whole gradient's norm
                new |= _epsilon(asked.get("eps"), found)
            if issubclass(impl, MuRAdam):
                new["sgd_ratio"] = found.sgd_ratio
            groups.append(new)
    optimizer = impl(groups, **kwargs)
    optimizer.register_step_pre_hook(guard)
    return optimizer


def _check_family(impl: type[Optimizer], family: Family) -> None:
    if issubclass(impl, _NO_RULE):
        raise ValueError(
            f"{impl.__name__} has no rule in µP: the sizes of its steps follow from its own state "
            "more than from lr; use MuAdam or MuSGD with another impl"
        )
    known = family_of(impl)
    if known is not None and known != family:
        raise ValueError(
            f"{impl.__name__} is for mupkit.{_WRAPPER[known]}, not {_WRAPPER[family]}: its updates "
            "scale otherwise"
        )


def _by_setting(
    group: dict[str, Any], family: Family, asked: dict[str, Any]
) -> dict[tuple[Setting, float], list[Tensor]]:
    """The parameters of a group by their factors and by what the optimizer itself applies."""
    found: dict[tuple[Setting, float], list[Tensor]] = {}
    members = zip(group["params"], group["names"], group["scalings"], strict=True)
    for p, name, (infshape, table) in members:
        own = _spectral(p, name, infshape, asked) if family == "muon" else 1.0
        found.setdefault((setting(infshape, table, family), own), []).append(p)
    return found


def _epsilon(eps: Any, found: Setting) -> dict[str, Any]:
    if isinstance(eps, tuple):  # Adafactor: floors of the gradient and of the weight's size
        first, second = eps
        return {"eps": (first and first * found.eps_mult, second * found.std_mult)}
    return {} if eps is None or found.eps_mult == 1 else {"eps": eps * found.eps_mult}


def _spectral(p: Tensor, name: str, infshape: InfShape, asked: dict[str, Any]) -> float:
    """What torch's Muon multiplies the rate by at this width, relative to base width."""
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
                "scalings": [(infshape_of(p, n), table_of(p)) for n, p in pairs],
            }
        )
    return groups
