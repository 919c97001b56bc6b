"""Exponents of gradients: of every entry but zeros, by layer, with the model left as it is."""

import pytest
import torch
from torch import nn

from experiments.families.gpt_proxy.task import layer_of
from experiments.models.gradients import gradient_exponents


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4, bias=False), nn.ReLU())


def loss(net: nn.Module) -> torch.Tensor:
    return net(torch.tensor([0, 2, 2])).pow(2).sum() * 2.0**-60


def test_counts_are_of_all_entries_but_zeros() -> None:
    net = model()
    found = gradient_exponents(net, loss, lambda name: name.split(".")[0])
    loss(double := model().double()).backward()
    for name, layer in (("0.weight", "0"), ("1.weight", "1")):
        gradient = double.get_parameter(name).grad
        expected = torch.log2(gradient[gradient != 0].abs()).floor().long().tolist()
        assert found["weights"][layer] == {e: expected.count(e) for e in expected}
    assert sum(found["weights"]["0"].values()) == 2 * 3  # ids 0 and 2
    assert set(found["activations"]) == {"0", "1", "2"}
    assert sum(found["activations"]["0"].values()) == 9


def test_it_works_without_gradients_and_leaves_the_model() -> None:
    net = model()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        gradient_exponents(net, loss, str)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]) and tensor.dtype == torch.float32
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("word.weight", "embedding"),
        ("blocks.0.attention.query.weight", "block 1, attention"),
        ("blocks.1.attention_norm", "block 2, attention"),
        ("blocks.1.feed_forward_norm.bias", "block 2, feed-forward"),
        ("blocks.1.down", "block 2, feed-forward"),
        ("final_norm.weight", "readout"),
        ("readout", "readout"),
    ],
)
def test_layers_of_the_gpt_proxy(name, layer) -> None:
    assert layer_of(name) == layer
