"""Plain models of torch's layers: roles, measured initialization, multipliers, what is refused."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import mupkit
from mupkit import NTP, SP, TABLE_3, TABLE_8, TABLE_9, get_infshapes, parametrize
from mupkit.base_shapes import canonical
from mupkit.multipliers import multiplier
from mupkit.storage import own_parameters
from tests.mupkit.models import by_name

BASE, TARGET, DELTA = (32, 12), (128, 108), (36, 13)
N, M = 4.0, 9.0  # multipliers of the two widths
SEEDS = 12


class Zoo(nn.Module):
    """Torch's layers between two widths that scale differently, and parameters of one's own."""

    def __init__(self, width, width_2):
        super().__init__()
        self.word = nn.Embedding(50, width, padding_idx=0)
        self.bag = nn.EmbeddingBag(50, width_2)
        self.linear_in = nn.Linear(20, width)
        self.up = nn.Linear(width, width_2)
        self.readout = nn.Linear(width_2, 10)
        self.conv_in = nn.Conv2d(3, width, 3)
        self.conv = nn.Conv2d(width, width_2, 3)
        self.conv_1d = nn.Conv1d(width_2, width, 3)
        self.conv_out = nn.Conv2d(width_2, 10, 3)
        self.transposed_in = nn.ConvTranspose2d(3, width, 3)
        self.transposed = nn.ConvTranspose2d(width, width_2, 3)
        self.transposed_out = nn.ConvTranspose2d(width_2, 10, 3)
        self.attention = nn.MultiheadAttention(width, 4, add_bias_kv=True)
        self.cross = nn.MultiheadAttention(width, 4, kdim=width_2, vdim=20)
        self.norm = nn.LayerNorm(width)
        self.batch_norm = nn.BatchNorm2d(width_2)
        self.position = nn.Parameter(torch.randn(1, 7, width))
        self.class_token = nn.Parameter(torch.randn(1, 1, width_2))
        self.row = nn.Parameter(torch.randn(20, width))
        self.temperature = nn.Parameter(torch.ones(()))
        self.own = nn.Parameter(torch.randn(width_2, width) * width**-0.5)
        self.own_in_out = nn.Parameter(torch.randn(width, width_2) * width**-0.5)
        self.own_out = nn.Parameter(torch.randn(10, width_2) * width_2**-0.5)
        self.own_out_in_out = nn.Parameter(torch.randn(width_2, 10) * width_2**-0.5)


class Recurrent(nn.Module):
    """Recurrent layers, which allow no multipliers."""

    def __init__(self, width, width_2):
        super().__init__()
        self.lstm = nn.LSTM(width, width_2)
        self.lstm_in = nn.LSTM(20, width, bidirectional=True)
        self.lstm_proj = nn.LSTM(20, width_2, proj_size=width // 4)
        self.gru = nn.GRU(width_2, width, num_layers=2)
        self.rnn = nn.RNN(20, width_2)
        self.cell = nn.LSTMCell(width, width_2)


class Projected(nn.Module):
    """Torch's layers that map a width to a finite dimension inside."""

    def __init__(self, width, width_2):
        super().__init__()
        self.lstm = nn.LSTM(20, width_2, proj_size=6)
        self.cross = nn.MultiheadAttention(12, 4, kdim=width, vdim=width_2)


LAYOUT = {"own_in_out": "in_out", "own_out": "out_in", "own_out_in_out": "in_out"}
# Role, multiplier of fan-in, multiplier of fan-out.
INTO_1, INTO_2 = ("input", 1, N), ("input", 1, M)
UP, DOWN, SQUARE_1, SQUARE_2 = (("hidden", a, b) for a, b in ((N, M), (M, N), (N, N), (M, M)))
OUT_1, OUT_2, SCALAR = ("output", N, 1), ("output", M, 1), ("scalar", 1, 1)
EXPECTED = {
    "word.weight": INTO_1,
    "bag.weight": INTO_2,
    "linear_in.weight": INTO_1,
    "linear_in.bias": INTO_1,
    "up.weight": UP,
    "up.bias": INTO_2,
    "readout.weight": OUT_2,
    "readout.bias": SCALAR,
    "conv_in.weight": INTO_1,
    "conv_in.bias": INTO_1,
    "conv.weight": UP,
    "conv.bias": INTO_2,
    "conv_1d.weight": DOWN,
    "conv_1d.bias": INTO_1,
    "conv_out.weight": OUT_2,
    "conv_out.bias": SCALAR,
    "transposed_in.weight": INTO_1,
    "transposed_in.bias": INTO_1,
    "transposed.weight": UP,
    "transposed.bias": INTO_2,
    "transposed_out.weight": OUT_2,
    "transposed_out.bias": SCALAR,
    "attention.in_proj_weight": SQUARE_1,
    "attention.in_proj_bias": INTO_1,
    "attention.out_proj.weight": SQUARE_1,
    "attention.out_proj.bias": INTO_1,
    "attention.bias_k": INTO_1,
    "attention.bias_v": INTO_1,
    "cross.q_proj_weight": SQUARE_1,
    "cross.k_proj_weight": DOWN,
    "cross.v_proj_weight": INTO_1,
    "cross.in_proj_bias": INTO_1,
    "cross.out_proj.weight": SQUARE_1,
    "cross.out_proj.bias": INTO_1,
    "norm.weight": INTO_1,
    "norm.bias": INTO_1,
    "batch_norm.weight": INTO_2,
    "batch_norm.bias": INTO_2,
    "position": INTO_1,
    "class_token": INTO_2,
    "row": INTO_1,
    "temperature": SCALAR,
    "own": UP,
    "own_in_out": UP,
    "own_out": OUT_2,
    "own_out_in_out": OUT_2,
}
RECURRENT = {
    "lstm.weight_ih_l0": UP,
    "lstm.weight_hh_l0": SQUARE_2,
    "lstm.bias_ih_l0": INTO_2,
    "lstm_in.weight_ih_l0_reverse": INTO_1,
    "lstm_in.weight_hh_l0": SQUARE_1,
    "lstm_proj.weight_hh_l0": UP,
    "lstm_proj.weight_hr_l0": DOWN,
    "gru.weight_ih_l0": DOWN,
    "gru.weight_ih_l1": SQUARE_1,
    "gru.bias_hh_l1": INTO_1,
    "rnn.weight_ih_l0": INTO_2,
    "cell.weight_ih": UP,
    "cell.weight_hh": SQUARE_2,
    "cell.bias_hh": INTO_2,
}
PROJECTED = {
    "lstm.weight_ih_l0": INTO_2,
    "lstm.weight_hh_l0": INTO_2,
    "lstm.weight_hr_l0": OUT_2,
    "lstm.bias_hh_l0": INTO_2,
    "cross.k_proj_weight": OUT_1,
    "cross.v_proj_weight": OUT_2,
    "cross.q_proj_weight": SCALAR,
}
# By hand from the tables: init std and multiplier of n = fan-in and m = fan-out.
STD = {
    "sp": {"hidden": lambda n, m: n**-0.5, "output": lambda n, m: n**-0.5},
    "ntp": {},
    "3": {"hidden": lambda n, m: n**-0.5, "output": lambda n, m: 1 / n},
    "8": {"hidden": lambda n, m: n**-0.5},
    "9": {
        "input": lambda n, m: m**-0.5,
        "hidden": lambda n, m: n**-0.5,
        "output": lambda n, m: n**-0.5,
    },
}
MULTIPLIER = {
    "sp": {},
    "ntp": {"hidden": lambda n, m: n**-0.5, "output": lambda n, m: n**-0.5},
    "3": {},
    "8": {"output": lambda n, m: 1 / n},
    "9": {"input": lambda n, m: m**0.5, "output": lambda n, m: n**-0.5},
}
RULES = {"sp": SP, "ntp": NTP, "3": TABLE_3, "8": TABLE_8, "9": TABLE_9}
CASES = [(Zoo, EXPECTED, rules) for rules in RULES]
CASES += [(Recurrent, RECURRENT, rules) for rules in ("sp", "3", "8")]
CASES += [(Projected, PROJECTED, rules) for rules in ("sp", "3")]
IDS = [f"{build.__name__} {rules}" for build, _, rules in CASES]
BY_CASE = pytest.mark.parametrize(("build", "expected", "rules"), CASES, ids=IDS)


def by_hand(rules, kind):
    role, n, m = kind
    return rules.get(role, lambda n, m: 1)(n, m)


def constant(model):
    """One std for all, as initializer_range of transformers."""
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.02)
    return model


def make(build, widths, rules, init="torch", seed=0):
    torch.manual_seed(seed)
    model = build(*widths) if init == "torch" else constant(build(*widths))
    with torch.device("meta"):
        base, delta = build(*BASE), build(*DELTA)
    layout = LAYOUT if build is Zoo else {}
    return parametrize(model, base, delta, rules=RULES[rules], init=init, layout=layout)


@BY_CASE
def test_roles_and_fans(build, expected, rules):
    shapes = {canonical(n): s for n, s in get_infshapes(make(build, TARGET, rules)).items()}
    if build is Zoo:
        assert shapes.keys() == expected.keys()
    for name, (role, n, m) in expected.items():
        assert shapes[name].role() == role, name
        if role != "scalar":
            assert [d.width_mult() for d in shapes[name].fanin_fanout()] == [n, m], name


def spread(build, widths, rules, init):
    """Root mean square of each parameter over seeds, and of how many entries."""
    squares, entries = {}, {}
    for seed in range(SEEDS):
        for name, p in make(build, widths, rules, init, seed).named_parameters():
            name = canonical(name)
            squares[name] = squares.get(name, 0.0) + p.detach().square().sum().item()
            entries[name] = entries.get(name, 0) + p.numel()
    return {name: ((squares[name] / entries[name]) ** 0.5, entries[name]) for name in squares}


@pytest.mark.parametrize("init", ["torch", "constant"])
@BY_CASE
def test_measured_initialization(build, expected, rules, init):
    """From base to target the std goes as the rules say, whatever torch's default does."""
    base, target = (spread(build, widths, rules, init) for widths in (BASE, TARGET))
    measured = 0
    for name, kind in expected.items():
        (start, entries), (end, more) = base[name], target[name]
        if init == "constant" and name.rpartition(".")[2].startswith("bias") and "_k" not in name:
            continue  # drawn by torch, with another law
        if start in (0, 1):  # zeros and ones
            assert end == pytest.approx(start * by_hand(STD[rules], kind)), name
            continue
        noise = 4 * ((2 * entries) ** -0.5 + (2 * more) ** -0.5)
        assert noise < 0.6, name
        assert end / start == pytest.approx(by_hand(STD[rules], kind), rel=noise), name
        measured += 1
    assert measured >= len(expected) - (10 if init == "torch" else 20)


@BY_CASE
def test_multipliers(build, expected, rules):
    model = make(build, TARGET, rules)
    found = {n: multiplier(module, local) for n, module, local, _ in own_parameters(model)}
    for name, kind in expected.items():
        assert found[name] == pytest.approx(by_hand(MULTIPLIER[rules], kind)), name


def test_a_padding_row_stays_zero():
    assert make(Zoo, TARGET, "3").word.weight[0].count_nonzero() == 0


@pytest.mark.parametrize("name", ["own_in_out", "own", "own_out", "own_out_in_out", "row"])
def test_a_layout_decides_the_rates(name):
    """SGD's rates tell fan-in from fan-out: m / n for a hidden weight."""
    model = make(Zoo, TARGET, "8")
    rates = {"hidden": M / N, "output": M, "input": N}
    found = by_name(model, mupkit.MuSGD(model, lr=1.0), "lr")
    found = {canonical(n): rate for n, rate in found.items()}
    assert found[name] == pytest.approx(rates[EXPECTED[name][0]])


def test_without_a_layout_a_single_width_is_an_input_and_a_matrix_out_in():
    model = parametrize(Zoo(*TARGET), Zoo(*BASE), Zoo(*DELTA))
    shapes = get_infshapes(model)
    for name in ("own_out", "own_out_in_out", "position", "class_token", "row"):
        assert shapes[name].role() == "input", name
    fan_in, fan_out = shapes["own_in_out"].fanin_fanout()
    assert (fan_in.width_mult(), fan_out.width_mult()) == (M, N)


def test_a_layout_for_no_parameter_is_refused():
    with pytest.raises(ValueError, match=r"layout names no parameter of the model: own_2\.weight"):
        parametrize(Zoo(*TARGET), Zoo(*BASE), layout={"own_2.weight": "in_out"})


class Stack(nn.Module):
    """Raw weights of four experts, or of a convolution."""

    def __init__(self, *shape):
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))


STACKS = {
    (4, 24, "n"): {"out_in": (1 / 8, 1 / 8), "in_out": (1, 8)},  # the factors of Adam and SGD
    (4, "n", 24): {"out_in": (1, 8), "in_out": (1 / 8, 1 / 8)},
    (2, 4, "n", "2n"): {"out_in": (1 / 8, 1), "in_out": (1 / 8, 1)},
    (4, "n", "nn"): {"out_in": (1 / 64, 1 / 8), "in_out": (1 / 8, 8)},
    ("n", 3, 5, 5): {"out_in": (1, 8), "in_out": (1 / 8, 1 / 8)},  # no stack
    (3, "n", 5, 5): {"out_in": (1 / 8, 1 / 8), "in_out": (1, 8)},
    (None, "n"): {"out_in": (1 / 8, 1 / 8), "in_out": (1, 8)},  # a router
}


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize("shape", STACKS, ids=str)
def test_a_layout_is_that_of_the_matrices_of_a_stack(shape, layout):
    def build(n):
        sizes = {"n": n, "2n": 2 * n, "nn": n * n // 32, None: 4}
        return Stack(*(sizes.get(size, size) for size in shape))

    model = parametrize(build(256), build(32), build(64), layout={"w": layout})
    adam, sgd = (make(model, lr=1.0) for make in (mupkit.MuAdam, mupkit.MuSGD))
    found = tuple(optimizer.param_groups[0]["lr_mult"] for optimizer in (adam, sgd))
    assert found == STACKS[shape][layout]
    assert get_infshapes(copy.deepcopy(model)) == get_infshapes(model)


def test_a_width_that_was_forgotten_in_the_delta_is_warned_of():
    message = r"count as finite: up\.weight dimension 0 \(12 -> 108\), up\.bias dimension 0.*delta"
    models = [nn.ModuleDict({"up": nn.Linear(*w)}) for w in (TARGET, BASE, (DELTA[0], BASE[1]))]
    for call in (lambda t, b, d: parametrize(t, b, d), set_without_check):
        with pytest.warns(UserWarning, match=message) as seen:
            call(*models)
        assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parametrize(Zoo(*TARGET), Zoo(*BASE), Zoo(*DELTA))
        parametrize(Zoo(*BASE), Zoo(*BASE), Zoo(*DELTA))


def set_without_check(model, base, delta):
    return mupkit.set_base_shapes(model, base, delta=delta, do_assert=False)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("rules", "local"), [(TABLE_9, "weight_ih_l0"), (NTP, "weight_hh_l0")])
def test_a_recurrent_layer_takes_no_multipliers(layer, rules, local):
    message = rf"{layer.__name__}\.{local} .* use mupkit\.TABLE_3, which has none"
    with pytest.raises(ValueError, match=message):
        parametrize(layer(20, 64), layer(20, 16), rules=rules)


def effective(module):
    """The module with its multipliers multiplied in by hand."""
    found = {n: p * multiplier(m, local) for n, m, local, p in own_parameters(module)}
    return {name: p.detach() for name, p in found.items()}


@pytest.mark.parametrize("rules", ["ntp", "9"])
@pytest.mark.parametrize("training", [True, False])
def test_attention_sees_all_its_multipliers(rules, training):
    """Its out_proj is never called, only its weight is read."""
    torch.manual_seed(0)

    def build(width):
        return nn.MultiheadAttention(width, 4, add_bias_kv=True, batch_first=True)

    model = parametrize(build(64), build(16), rules=RULES[rules]).train(training)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    plain, x = build(64).train(training), torch.randn(3, 5, 64)
    plain.load_state_dict(effective(model))
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(model(x, x, x)[0], plain(x, x, x)[0])
    assert multiplier(model.out_proj, "weight") == (0.5 if rules == "ntp" else 1)
    assert multiplier(model.out_proj, "bias") == (1 if rules == "ntp" else 2)


@pytest.mark.parametrize("rules", ["3", "8", "9", "ntp"])
def test_the_fast_path_of_transformer_layers_sees_them_too(rules):
    torch.manual_seed(0)

    def build(width):
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    model, x = parametrize(build(64), build(16), rules=RULES[rules]), torch.randn(3, 5, 64)
    expected = model.train()(x)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rules", ["3", "8", "9"])
@pytest.mark.parametrize(
    "layer", [nn.Conv2d, nn.ConvTranspose2d, nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d]
)
def test_convolutional_readouts(layer, rules):
    """Logits shrink as 1/sqrt(width) from independent inputs, and 1/width in what they learn."""
    torch.manual_seed(0)
    model, base = layer(256, 3, 3, bias=False), layer(16, 3, 3, bias=False)
    parametrize(model, base, rules=RULES[rules])
    shape = [6] * int(layer.__name__[-2])
    ratio = model(torch.randn(64, 256, *shape)).std() / base(torch.randn(64, 16, *shape)).std()
    assert ratio.item() == pytest.approx(16**-0.5, rel=0.15)
    start = effective(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    mupkit.MuAdam(model, lr=0.1, eps=0).step()
    moved = effective(model)["weight"] - start["weight"]
    torch.testing.assert_close(moved, torch.full_like(moved, -0.1 / 16), rtol=1e-3, atol=1e-5)


def test_a_hooked_layer_called_by_keyword_says_what_to_do():
    model = parametrize(nn.Linear(64, 3), nn.Linear(16, 3), rules=TABLE_8)
    with pytest.raises(TypeError, match="Linear has a µP multiplier: pass its input by position"):
        model(input=torch.zeros(1, 64))


def test_an_infshape_takes_no_attributes_of_other_libraries():
    """mup's way to say (fan_in, fan_out); silently ignored it would do harm. Here: layout."""
    model = parametrize(Zoo(*TARGET), Zoo(*BASE))
    with pytest.raises(AttributeError):
        model.own.infshape.main_idx = 0
