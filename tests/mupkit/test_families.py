"""Families of optimizers: rate, epsilon and decay by role, and what is refused."""

from __future__ import annotations

import inspect
import math
import warnings

import pytest
import torch
from torch import nn

import mupkit
from mupkit import MuAdam, MuAdamW, MuFrobenius, MuMuon, MuSGD
from mupkit.base_shapes import canonical
from mupkit.optim import family_of
from tests.mupkit.models import Lion, by_name

BASE, LR, EPS, DECAY = (4, 6), 0.1, 1e-3, 0.05
N, M = 3.0, 5.0  # multipliers of the two widths; the hidden weight has fan-in n, fan-out m


class Net(nn.Module):
    """One parameter of each role; only the output has fan-in m."""

    def __init__(self, width, width_2):
        super().__init__()
        self.input = nn.Linear(3, width)
        self.hidden = nn.Linear(width, width_2, bias=False)
        self.output = nn.Linear(width_2, 2)

    def forward(self, x):
        return self.output(torch.tanh(self.hidden(torch.tanh(self.input(x)))))


def net(rules=mupkit.TABLE_8, widths=(12, 30)):
    torch.manual_seed(0)
    return mupkit.parametrize(Net(*widths), Net(*BASE), Net(5, 7), rules=rules)


ROLES = {
    "input.weight": "input",
    "input.bias": "input",
    "hidden.weight": "hidden",
    "output.weight": "output",
    "output.bias": "scalar",
}
ONE = {"input": 1, "hidden": 1, "output": 1, "scalar": 1}
# Rates by hand. Source: Tensor Programs V, Tables 3, 8 and 9 with Appendix B.3; Muon by Condition 1
# of arXiv:2310.17813.
SGD_RATES = {
    "3": ONE | {"input": N, "hidden": M / N, "output": 1 / M},
    "8": ONE | {"input": N, "hidden": M / N, "output": M},
    "9": ONE | {"hidden": M / N},
}
ADAM_RATES = {
    "3": ONE | {"hidden": 1 / N, "output": 1 / M},
    "8": ONE | {"hidden": 1 / N},
    "9": ONE | {"input": N**-0.5, "hidden": 1 / N, "output": M**-0.5},
}
FROBENIUS_RATES = {rules: ONE | {"hidden": N**-0.5} for rules in ("3", "8", "9")}
# Gradients: 1/m behind a layer of width m, times what multiplies the weight.
EPSILONS = {
    "3": ONE | {"input": 1 / N, "hidden": 1 / M},
    "8": ONE | {"input": 1 / N, "hidden": 1 / M, "output": 1 / M},
    "9": ONE | {"input": N**-0.5, "hidden": 1 / M, "output": M**-0.5},
}
STDS = {
    "3": ONE | {"hidden": N**-0.5, "output": 1 / M},
    "8": ONE | {"hidden": N**-0.5},
    "9": ONE | {"input": N**-0.5, "hidden": N**-0.5, "output": M**-0.5},
}
OPTIMIZERS = {
    "SGD": (MuSGD, torch.optim.SGD, SGD_RATES),
    "ASGD": (MuSGD, torch.optim.ASGD, SGD_RATES),
    "Adam": (MuAdam, torch.optim.Adam, ADAM_RATES),
    "AdamW": (MuAdam, torch.optim.AdamW, ADAM_RATES),
    "Adagrad": (MuAdam, torch.optim.Adagrad, ADAM_RATES),
    "RMSprop": (MuAdam, torch.optim.RMSprop, ADAM_RATES),
    "NAdam": (MuAdam, torch.optim.NAdam, ADAM_RATES),
    "RAdam": (MuAdam, torch.optim.RAdam, ADAM_RATES),
    "Adamax": (MuAdam, torch.optim.Adamax, ADAM_RATES),
    "SparseAdam": (MuAdam, torch.optim.SparseAdam, ADAM_RATES),
    "Lion": (MuAdam, Lion, ADAM_RATES),
    "Adafactor": (MuFrobenius, torch.optim.Adafactor, FROBENIUS_RATES),
    "Muon": (MuMuon, torch.optim.Muon, None),
}
NO_RULE = {"Adadelta", "LBFGS", "Rprop"}
COUPLED = {"Adam", "Adagrad", "Adamax", "NAdam", "RAdam", "RMSprop"}
BY_RULES = pytest.mark.parametrize("rules", ["3", "8", "9"])
BY_NAME = pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n != "Muon"])


def make(name, model, **options):
    factory, impl, _ = OPTIMIZERS[name]
    if "weight_decay" in options and name == "SparseAdam":
        pytest.skip("it has none")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not transfer across width", UserWarning)
        return factory(model, impl=impl, lr=LR, **options)


def setting_of(model, optimizer, key):
    return {canonical(name): v for name, v in by_name(model, optimizer, key).items()}


def expected(by_role, factor=1.0):
    return pytest.approx({n: factor * by_role[role] for n, role in ROLES.items()}, rel=1e-12)


def test_every_optimizer_of_torch_is_classified():
    """A new one has to be thought about."""
    found = {
        name
        for name, c in vars(torch.optim).items()
        if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)
    }
    assert found == {*OPTIMIZERS, *NO_RULE, "Optimizer"} - {"Lion"}
    for name in NO_RULE:
        assert family_of(getattr(torch.optim, name)) is None
        for factory in (MuAdam, MuSGD, MuFrobenius):
            with pytest.raises(ValueError, match=rf"{name} has no rule in µP.*another impl"):
                factory(net(), impl=getattr(torch.optim, name), lr=LR)


@BY_RULES
@BY_NAME
def test_rates(name, rules):
    model = net(mupkit.RULES[rules])
    assert setting_of(model, make(name, model), "lr") == expected(OPTIMIZERS[name][2][rules], LR)


@BY_RULES
@BY_NAME
def test_rate_times_decay_is_constant_in_width_or_the_decay_is(name, rules):
    model = net(mupkit.RULES[rules])
    optimizer = make(name, model, weight_decay=DECAY)
    rates, decays = (setting_of(model, optimizer, key) for key in ("lr", "weight_decay"))
    assert {n: rates[n] * decays[n] for n in rates} == expected(ONE, LR * DECAY)
    optimizer = make(name, model, weight_decay=DECAY, weight_decay_mode="coupled")
    assert setting_of(model, optimizer, "weight_decay") == expected(ONE, DECAY)
    with pytest.raises(ValueError, match="weight_decay_mode is 'both', allowed are 'independent'"):
        make(name, model, weight_decay_mode="both")


@BY_RULES
@BY_NAME
def test_epsilon_follows_the_gradient(name, rules):
    model = net(mupkit.RULES[rules])
    if name == "Adafactor":
        for group in make(name, model, eps=(EPS, 0.01)).param_groups:
            (role, *_) = {
                ROLES[canonical(n)] for n, p in model.named_parameters() if any_is(p, group)
            }
            eps = (EPS * EPSILONS[rules][role], 0.01 * STDS[rules][role])
            assert group["eps"] == pytest.approx(eps)
    elif "eps" in inspect.signature(OPTIMIZERS[name][1]).parameters:
        found = setting_of(model, make(name, model, eps=EPS), "eps")
        assert found == expected(EPSILONS[rules], EPS)
        assert setting_of(model, make(name, model, eps=EPS, scale_eps=False), "eps") == expected(
            ONE, EPS
        )
        default = inspect.signature(OPTIMIZERS[name][1]).parameters["eps"].default
        assert setting_of(model, make(name, model), "eps") == expected(EPSILONS[rules], default)


def any_is(p, group):
    return any(p is q for q in group["params"])


@BY_RULES
def test_gradients_are_as_large_as_epsilon_supposes(rules):
    """What EPSILONS has by hand, measured where both widths grow alike."""
    sizes, factor = [], 16.0
    for width in (64, 1024):
        torch.manual_seed(0)
        model = mupkit.parametrize(
            Net(width, width), Net(64, 64), Net(65, 65), rules=mupkit.RULES[rules]
        )
        x = torch.randn(256, 3, generator=torch.Generator().manual_seed(1))
        (model(x) - x[:, :2]).square().mean().backward()
        sizes.append({canonical(n): p.grad.norm() / p.numel() ** 0.5 for n, p in named(model)})
    for name, role in ROLES.items():
        power = math.log(EPSILONS[rules][role], N if role == "input" else M)
        measured = math.log(sizes[1][name] / sizes[0][name], factor)
        assert measured == pytest.approx(power, abs=0.2), name


def named(model):
    return model.named_parameters()


def test_options_of_a_group_override():
    model = net()
    groups = [
        {"params": model.input.parameters(), "eps": 7 * EPS, "weight_decay": 2 * DECAY},
        {"params": [model.hidden.weight, *model.output.parameters()], "lr": 3 * LR},
    ]
    optimizer = MuAdamW(groups, lr=LR, eps=EPS, weight_decay=DECAY)
    lr, eps, decay = (setting_of(model, optimizer, k) for k in ("lr", "eps", "weight_decay"))
    assert lr["hidden.weight"] == pytest.approx(3 * LR / N)
    assert decay["hidden.weight"] == pytest.approx(DECAY * N)
    assert (eps["input.bias"], decay["input.bias"]) == pytest.approx((7 * EPS / N, 2 * DECAY))


WRONG = [
    (MuAdam, torch.optim.Muon, "MuMuon"),
    (MuAdam, torch.optim.SGD, "MuSGD"),
    (MuAdam, torch.optim.ASGD, "MuSGD"),
    (MuAdam, torch.optim.Adafactor, "MuFrobenius"),
    (MuSGD, torch.optim.Adam, "MuAdam"),
    (MuSGD, torch.optim.AdamW, "MuAdam"),
    (MuSGD, torch.optim.Muon, "MuMuon"),
    (MuFrobenius, torch.optim.RMSprop, "MuAdam"),
    (MuMuon, torch.optim.AdamW, "MuAdam"),
    (MuMuon, torch.optim.SGD, "MuSGD"),
    (MuAdam, type("Own", (torch.optim.SGD,), {}), "MuSGD"),
]


@pytest.mark.parametrize(("factory", "impl", "right"), WRONG)
def test_a_wrong_implementation_is_refused_with_the_right_one_named(factory, impl, right):
    message = rf"{impl.__name__} is for mupkit\.{right}, not {factory.__name__}"
    with pytest.raises(ValueError, match=message):
        factory(net(), impl=impl, lr=LR)


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if OPTIMIZERS[n][0] is MuAdam])
def test_coupled_decay_is_warned_of(name):
    _, impl, _ = OPTIMIZERS[name]
    model = net()
    by_group = [{"params": model.parameters(), "weight_decay": DECAY}]
    for params, options in ((model, {"weight_decay": DECAY}), (by_group, {})):
        if name in COUPLED:
            with pytest.warns(UserWarning, match=f"decay of {name} .* Use mupkit.MuAdamW") as seen:
                MuAdam(params, impl=impl, lr=LR, **options)
            assert seen[0].filename == __file__
        elif name != "SparseAdam":
            MuAdam(params, impl=impl, lr=LR, **options)
    MuAdam(net(), impl=impl, lr=LR)
    if "decoupled_weight_decay" in inspect.signature(impl).parameters:
        MuAdam(net(), impl=impl, lr=LR, weight_decay=DECAY, decoupled_weight_decay=True)


def test_the_decay_of_averaged_sgd_stands_to_the_rate_as_the_weight_decay():
    model = net()
    optimizer = MuSGD(model, impl=torch.optim.ASGD, lr=LR, lambd=0.02)
    rates, decays = (setting_of(model, optimizer, key) for key in ("lr", "lambd"))
    assert {n: rates[n] * decays[n] for n in rates} == expected(ONE, LR * 0.02)


BETAS = (0.9, 0.99)
SGD_STEPS = 5  # torch's RAdam is SGD while rho_t <= 5


@pytest.mark.parametrize("plain_first", [False, True], ids=["", "after a plain RAdam"])
@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_radam_has_the_rates_of_sgd_first_and_of_adam_then(plain_first, decay):
    """Against plain RAdam on each parameter alone, with the rate of the stage set by hand."""
    options = {"betas": BETAS, "eps": 1e-8, "decoupled_weight_decay": True}
    if plain_first:
        torch.optim.RAdam([torch.zeros(1)], lr=LR)  # its step now calls hooks, in subclasses too
    model = net()
    optimizer = MuAdam(
        model, impl=torch.optim.RAdam, lr=LR, scale_eps=False, weight_decay=decay, **options
    )
    twins = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    plain = {n: torch.optim.RAdam([p], weight_decay=0, **options) for n, p in twins.items()}
    generator = torch.Generator().manual_seed(0)
    for t in range(1, 2 * SGD_STEPS):
        stage = SGD_RATES if t <= SGD_STEPS else ADAM_RATES
        before = [dict(g) for g in optimizer.param_groups]
        for name, p in model.named_parameters():
            p.grad = torch.randn(p.shape, generator=generator)
            twins[name].grad = p.grad.clone()
            plain[name].param_groups[0]["lr"] = LR * stage["8"][ROLES[name]]
            with torch.no_grad():
                twins[name].mul_(1 - LR * decay)
            plain[name].step()
        optimizer.step()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p, twins[name], msg=f"{name}, step {t}")
        for group, old in zip(optimizer.param_groups, before, strict=True):
            assert {k: v for k, v in group.items() if k != "params"} == {
                k: v for k, v in old.items() if k != "params"
            }


def test_adafactors_cap_is_scaled_as_the_rates_are():
    """From step 1/rate**2 = 4 on, torch lowers the rate; all must be lowered alike."""
    model = net()
    optimizer = MuFrobenius(model, lr=0.5, weight_decay=DECAY)
    for t in range(1, 12):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        for name, p in model.named_parameters():
            start = before[name]
            decayed = start * (1 - 0.5 * DECAY)
            rate = FROBENIUS_RATES["8"][ROLES[name]] * min(0.5, t**-0.5)
            size = max(1e-3 * STDS["8"][ROLES[name]], start.square().mean().sqrt().item())
            torch.testing.assert_close(p, decayed - rate * size, rtol=1e-4, atol=1e-6, msg=name)


def orthogonal(rows, columns):
    q = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))[0]
    return q if rows >= columns else q.T.contiguous()


def muon_norms(widths, adjust_lr_fn, wrapper=True):
    """Spectral norm of one update of a hidden weight, with an exactly orthogonal direction."""
    model = net(widths=widths)
    (p,) = [p for n, p in model.named_parameters() if n == "hidden.weight"]
    torch.manual_seed(2)
    p.grad = orthogonal(*p.shape)
    make = MuMuon if wrapper else torch.optim.Muon
    before = p.detach().clone()
    exact = {"ns_coefficients": (1.5, -0.5, 0.0), "ns_steps": 30}  # converges, unlike the default
    make([p], lr=LR, adjust_lr_fn=adjust_lr_fn, weight_decay=0.0, **exact).step()
    return torch.linalg.matrix_norm(p.detach() - before, 2).item()


@pytest.mark.parametrize("adjust_lr_fn", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("widths", [(4, 6), (16, 24), (64, 6), (4, 96), (64, 24), (16, 96)])
def test_muons_update_has_the_spectral_norm_of_condition_1(widths, adjust_lr_fn):
    """sqrt(fan_out / fan_in) relative to base width, torch's own factor not counted twice."""
    columns, rows = (w / b for w, b in zip(widths, BASE, strict=True))
    ratio = muon_norms(widths, adjust_lr_fn) / muon_norms(BASE, adjust_lr_fn)
    assert ratio == pytest.approx(math.sqrt(rows / columns), rel=0.02)  # bfloat16
    assert muon_norms(BASE, adjust_lr_fn) == pytest.approx(
        muon_norms(BASE, adjust_lr_fn, wrapper=False)
    )


def test_muons_decay_is_that_of_its_unadjusted_rate():
    model = net()
    optimizer = MuMuon([("hidden.weight", model.hidden.weight)], lr=LR, weight_decay=DECAY)
    (group,) = optimizer.param_groups
    assert group["lr"] * group["weight_decay"] == pytest.approx(LR * DECAY)
    assert group["eps"] == 1e-7, "a floor of the norm of the whole gradient, constant in width"


@pytest.mark.parametrize("base", [None, Net(*BASE)], ids=["SP", "base width"])
def test_muon_at_base_width_is_torchs(base):
    model = mupkit.parametrize(Net(*BASE), base)
    (group,) = MuMuon([model.hidden.weight], lr=LR, weight_decay=DECAY).param_groups
    assert (group["lr"], group["weight_decay"]) == (LR, DECAY)


@pytest.mark.parametrize("name", [n for n in ROLES if n != "hidden.weight"])
def test_muon_takes_hidden_matrices_alone(name):
    model = net()
    message = rf"{name} is no hidden matrix .* give MuMuon only those, and the rest to MuAdamW"
    with pytest.raises(ValueError, match=message):
        MuMuon([(name, model.get_parameter(name))], lr=LR)
