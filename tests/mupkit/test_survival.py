"""What a parametrized model must survive: outputs and rates stay as they were."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

import mupkit
from mupkit import checkpoint
from mupkit.base_shapes import canonical
from mupkit.multipliers import multiply_input
from tests.mupkit.kinds import BASE, KINDS, TOKENS, WIDE, loss_of, make, rates, step
from tests.mupkit.models import MLP, PLAIN, Tied, by_name

pytestmark = pytest.mark.parametrize("kind", KINDS)


def same(model, other):
    assert rates(model) == rates(other)
    torch.testing.assert_close(model(TOKENS), other(TOKENS), rtol=0, atol=0)


def test_the_kinds_have_what_can_be_lost(kind):
    """Without multipliers and rates that differ, nothing below would show anything."""
    model = make(kind)
    assert len(set(rates(model).values())) > 2
    if kind == "table 3":
        return
    plain = KINDS[kind].build(WIDE)
    with torch.no_grad():
        for name, p in model.named_parameters():
            plain.get_parameter(canonical(name)).copy_(p)
    if type(plain.readout) is not nn.Linear:
        mupkit.set_base_shapes(plain, None)
    assert not torch.allclose(plain(TOKENS), model(TOKENS), rtol=1e-2)


def test_deep_copy(kind):
    model = make(kind)
    copied = copy.deepcopy(model)
    same(copied, model)
    step(copied)
    step(model)
    same(copied, model)


def test_a_deep_copy_is_independent(kind):
    model, copied = make(kind), None
    copied = copy.deepcopy(model)
    step(copied)
    same(model, make(kind))
    KINDS[kind].parametrize(copied, None, rescale_params=False)
    same(model, make(kind))


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict(kind, assign):
    model, other = make(kind), make(kind, seed=1)
    step(model)
    assert not any(other.load_state_dict(copy.deepcopy(model.state_dict()), assign=assign))
    if assign and isinstance(other, Tied):  # torch unties
        with pytest.raises(ValueError, match=r"without base shapes: readout\.weight"):
            rates(other)
        other.readout.weight = other.word.weight
    same(other, model)


def saved(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_checkpoint_in_a_file(kind):
    model, other = make(kind), make(kind, seed=1)
    step(model)
    checkpoint = saved(model)
    shapes, names = mupkit.get_base_shapes(model), [mupkit.get_rules(model).name]
    assert checkpoint._metadata[""]["mup"] == {"base_shapes": shapes, "rules": names}
    other.load_state_dict(checkpoint)
    same(other, model)


def test_a_checkpoint_with_another_base_is_refused(kind):
    build, parametrize = KINDS[kind]
    other = parametrize(build(WIDE), build(BASE // 2))
    with pytest.raises(RuntimeError, match=r"other µP: its base shapes of .*word\.weight"):
        make(kind).load_state_dict(saved(other))
    whole = nn.ModuleDict({"model": make(kind)})
    with pytest.raises(RuntimeError, match="parametrize the model with the base it was trained"):
        whole.load_state_dict(saved(nn.ModuleDict({"model": other})))


def test_a_checkpoint_by_other_rules_is_refused(kind):
    build, _ = KINDS[kind]
    rules = mupkit.TABLE_8 if kind == "table 3" else mupkit.TABLE_3
    model = mupkit.parametrize(build(WIDE), build(BASE), rules=rules)
    here = make(kind)
    if model.state_dict().keys() == here.state_dict().keys():
        with pytest.raises(RuntimeError, match=r"its scaling rules differ from"):
            here.load_state_dict(saved(model))


def metadata_in_a_file(model, folder, **given):
    path = folder / "model.safetensors"
    save_model(model, path, **given)
    with safe_open(path, "pt") as file:
        return path, file.metadata()


def test_safetensors_keep_the_record(kind, tmp_path):
    model, other = make(kind), make(kind, seed=1)
    step(model)
    path, found = metadata_in_a_file(model, tmp_path, metadata=checkpoint.metadata(model))
    checkpoint.check_metadata(other, found)
    load_model(other, path)
    same(other, model)


def test_the_record_in_safetensors_refuses_what_is_not_in_the_same_mup(kind, tmp_path):
    build, parametrize = KINDS[kind]
    model, plain = make(kind), build(WIDE)
    _, found = metadata_in_a_file(model, tmp_path, metadata=checkpoint.metadata(model))
    with pytest.raises(ValueError, match="the model is not parametrized: parametrize it before"):
        checkpoint.check_metadata(plain, found)
    with pytest.raises(ValueError, match=r"other µP: its base shapes of .*word\.weight"):
        checkpoint.check_metadata(parametrize(build(WIDE), build(BASE // 2)), found)
    whole = nn.ModuleDict({"part": model})
    checkpoint.check_metadata(whole, checkpoint.metadata(whole))
    with pytest.raises(ValueError, match="and part is not parametrized"):
        checkpoint.check_metadata(nn.ModuleDict({"part": plain}), checkpoint.metadata(whole))


def test_a_checkpoint_without_a_record_is_no_checkpoint_in_mup(kind, tmp_path):
    model = make(kind)
    with pytest.raises(ValueError, match="the checkpoint has no record of that"):
        checkpoint.check_metadata(model, metadata_in_a_file(model, tmp_path)[1])
    plain = KINDS[kind][0](WIDE)
    checkpoint.check_metadata(plain, metadata_in_a_file(plain, tmp_path)[1])
    with pytest.raises(ValueError, match="was not parametrized"):
        checkpoint.metadata(plain)


@pytest.mark.parametrize(
    "record",
    [
        [],
        "mup",
        {},
        {"base_shapes": None, "rules": []},
        {"base_shapes": {1: [2]}, "rules": []},
        {"base_shapes": {"a": [torch.zeros(2)]}, "rules": []},
        {"base_shapes": {}, "rules": None},
    ],
)
def test_a_damaged_record_is_an_error_of_one_line(kind, record):
    model = make(kind)
    state = model.state_dict()
    state._metadata[""]["mup"] = record
    with pytest.raises(RuntimeError, match="record of µP is damaged"):
        model.load_state_dict(state)


@pytest.mark.parametrize("text", ["", "null", "[]", '{"": null}', "[" * 100_000])
def test_damaged_metadata_of_a_file_are_refused(kind, text):
    with pytest.raises(ValueError, match="record of µP is damaged"):
        checkpoint.check_metadata(make(kind), {"mup": text})


def test_a_checkpoint_without_metadata_loads(kind):
    model, other = make(kind), make(kind, seed=1)
    other.load_state_dict(dict(model.state_dict()))
    same(other, model)


def test_a_part_of_a_larger_model(kind):
    model, other = make(kind), make(kind, seed=1)
    whole = nn.ModuleDict({"part": other, "rest": mupkit.set_base_shapes(nn.Linear(2, 2), None)})
    state = nn.ModuleDict({"part": model, "rest": nn.Linear(2, 2)}).state_dict()
    whole.load_state_dict(state)
    same(whole["part"], model)
    inside = {n.removeprefix("part."): r for n, r in rates(whole).items() if "rest" not in n}
    assert inside == rates(model)


def test_pickle(kind):
    model = make(kind)
    if kind == "table 9":
        with pytest.raises(RuntimeError, match="only supported through state_dict"):
            pickle.dumps(model)  # torch's parametrize does not allow it
        return
    same(pickle.loads(pickle.dumps(model)), model)


def test_compile(kind):
    torch.compiler.reset()
    model = make(kind)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(TOKENS), model(TOKENS))
    names = {f"_orig_mod.{name}": rate for name, rate in rates(model).items()}
    assert rates(compiled) == names
    for m in (compiled, model):
        step(m)
    gradients = [[p.grad for p in m.parameters()] for m in (compiled, model)]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(compiled(TOKENS), model(TOKENS))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_part(kind):
    """It has `_orig_mod` inside its names."""
    torch.compiler.reset()
    model = make(kind)
    expected = rates(model)
    part = "hidden" if hasattr(model, "hidden") else "ffn_in"
    setattr(model, part, torch.compile(getattr(model, part), backend="eager"))
    found = {name.replace("_orig_mod.", ""): rate for name, rate in rates(model).items()}
    assert found == expected
    KINDS[kind].parametrize(model, KINDS[kind].build(BASE))
    assert torch.equal(model(TOKENS), make(kind)(TOKENS))


def test_functional_call(kind):
    model, other = make(kind), make(kind, seed=1)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert torch.equal(torch.func.functional_call(other, parameters, (TOKENS,)), model(TOKENS))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_export(kind):
    model = make(kind)
    exported = torch.export.export(model, (TOKENS,)).module()
    assert torch.equal(exported(TOKENS), model(TOKENS))


def hooks(model):
    """How many hooks and parametrizations each module has."""
    return {
        name: (
            len(m._forward_pre_hooks),
            len(m._state_dict_hooks),
            len(m._load_state_dict_pre_hooks),
            {k: len(v) for k, v in getattr(m, "parametrizations", {}).items()},
        )
        for name, m in model.named_modules()
    }


def test_parametrizing_twice_is_harmless(kind):
    model, once = make(kind), make(kind)
    for _ in range(2):
        KINDS[kind].parametrize(model, KINDS[kind].build(BASE))
    same(model, once)
    assert hooks(model) == hooks(once)
    copied = copy.deepcopy(model)
    KINDS[kind].parametrize(copied, KINDS[kind].build(BASE))
    same(copied, once)
    assert hooks(copied) == hooks(once)


def test_parameters_in_every_form(kind):
    model = make(kind)
    expected = {n: r for n, r in rates(model).items() if n.endswith("adam")}
    forms = [
        model.parameters(),
        model.named_parameters(),
        ({"params": p} for p in model.parameters()),
        [{"params": list(model.named_parameters()), "betas": (0.8, 0.9)}],
    ]
    for form in forms:
        found = by_name(model, mupkit.MuAdam(form, lr=0.1), "lr")
        assert {f"{name} adam": rate for name, rate in found.items()} == expected


def test_group_dictionaries_and_tensor_rates_are_left_unchanged(kind):
    model, lr = make(kind), torch.tensor(0.1)
    groups = [
        {"params": list(model.parameters())[:2], "lr": lr, "eps": 1e-6},
        {"params": list(model.parameters())[2:], "weight_decay": 0.3},
    ]
    before = [dict(group, params=list(group["params"])) for group in groups]
    optimizer = mupkit.MuAdamW(groups, lr=lr, fused=True)
    step(model, optimizer, 2)
    assert lr.item() == torch.tensor(0.1).item()
    for group, old in zip(groups, before, strict=True):
        assert group.keys() == old.keys()
        assert all(a is b for a, b in zip(group.pop("params"), old.pop("params"), strict=True))
        assert group == old
    expected = {n[:-5]: r for n, r in rates(model).items() if n.endswith("adam")}
    assert by_name(model, optimizer, "lr") == pytest.approx(expected, rel=1e-6)
    twin = make(kind)
    split = [list(twin.parameters())[:2], list(twin.parameters())[2:]]
    plain = [{"params": split[0], "eps": 1e-6}, {"params": split[1], "weight_decay": 0.3}]
    step(twin, mupkit.MuAdamW(plain, lr=0.1, fused=True), 2)
    torch.testing.assert_close(model(TOKENS), twin(TOKENS))


def test_hooks_are_found_where_they_are_meant(kind):
    model = make(kind)
    hooked = {
        n for n, m in model.named_modules() if multiply_input in m._forward_pre_hooks.values()
    }
    expected = {"table 8": {"readout"}, "table 8 tied": {"readout"}}
    if kind != "table 9":
        assert hooked == expected.get(kind, set())
    else:
        assert "readout" in hooked
        assert "parametrizations" in dict(model.word.named_children())
    assert bool(loss_of(model).isfinite())


class Attentive(nn.Module):
    """Modules that draw their weights in reset_parameters and in _reset_parameters."""

    def __init__(self, width, lib):
        super().__init__()
        self.mlp = MLP(lib, width, width)
        self.attention = nn.MultiheadAttention(width, 1, kdim=5, vdim=width)
        self.own = nn.MultiheadAttention(width, 2, add_bias_kv=True)
        self.lstm = nn.LSTMCell(width, width)


def test_meta_then_to_empty_then_reset(kind):
    _, parametrize = KINDS[kind]
    lib = mupkit if parametrize is mupkit.set_base_shapes else PLAIN
    with torch.device("meta"):
        model = parametrize(Attentive(32, lib), Attentive(8, lib))
    model.to_empty(device="cpu")
    if kind == "table 9":
        error = r"mlp\.input\.bias has a multiplier; build a new model"
        with pytest.raises(ValueError, match=error):
            mupkit.reset_parameters(model)
        return
    for p in model.parameters():
        nn.init.constant_(p, float("nan"))  # memory holds anything
    torch.manual_seed(3)
    mupkit.reset_parameters(model)
    torch.manual_seed(3)
    expected = parametrize(Attentive(32, lib), Attentive(8, lib))
    assert rates(model) == rates(expected)
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert bool(p.isfinite().all()), name
        assert p.std().item() == pytest.approx(q.std().item(), rel=0.5), name
    torch.manual_seed(3)
    mupkit.reset_parameters(model)  # once more: not rescaled twice
    torch.manual_seed(3)
    mupkit.reset_parameters(expected)
    for (name, p), q in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("width", [16, 256])
def test_reset_leaves_a_tied_weight_to_its_embedding(kind, width):
    if KINDS[kind].build(BASE).word.weight.std() > 0.5 and kind != "table 9":
        model = make(kind, width=width)
        mupkit.reset_parameters(model)
        assert model.word.weight.std().item() == pytest.approx(1, rel=0.15)
