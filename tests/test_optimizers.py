"""Optimizers against torch's own ones and against updates worked by hand."""

import pytest
import torch
from torch import nn

from unet_cli.config.training import LRS
from unet_cli.training.optimizers import OPTIMIZERS, make_optimizer

CPU = torch.device("cpu")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))


def trained(model, optimizer, steps=5):
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    return list(model.state_dict().values())


def by_hand(name, weight, gradient=1.0, decay=0.0, steps=1):
    """A weight after `steps` updates with lr 0.1 from the same gradient each time."""
    parameter = nn.Parameter(torch.full((1, 1), weight))
    optimizer = make_optimizer(name, [parameter], 0.1, decay, CPU)
    for _ in range(steps):
        parameter.grad = torch.full((1, 1), gradient)
        optimizer.step()
    return parameter.item()


def test_there_is_an_optimizer_for_each_default_learning_rate():
    assert OPTIMIZERS.keys() == LRS.keys()


def test_adam_without_decay_is_torchs_adam_bit_for_bit():
    ours, theirs = network(), network()
    expected = trained(theirs, torch.optim.Adam(theirs.parameters(), lr=2e-3, fused=True))
    found = trained(ours, make_optimizer("adam", ours.parameters(), 2e-3, 0.0, CPU))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_weights_with_several_dimensions_decay(name):
    model = network()
    before = [value.detach().clone() for value in model.parameters()]
    optimizer = make_optimizer(name, model.parameters(), 0.1, 0.5, CPU)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, start in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, start) == (parameter.ndim == 1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_in_one_group(name):
    model = network()
    groups = make_optimizer(name, model.parameters(), 0.1, 0.1, CPU).param_groups
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert all(group["lr"] == 0.1 for group in groups)


def test_adamw_takes_decay_from_the_weight_and_adam_adds_it_to_the_gradient():
    # The first step of Adam is lr times the sign of the gradient, whatever was added to it.
    assert by_hand("adam", 2.0, decay=0.5) == pytest.approx(2.0 - 0.1)
    assert by_hand("adamw", 2.0, decay=0.5) == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1)
    assert by_hand("adam", 2.0, gradient=-1.0, decay=1.0) == pytest.approx(2.0 - 0.1)  # -1 + 1.0 * 2 = 1


def test_sgd_has_nesterov_momentum():
    # Velocity 1, then 1.9; each step goes gradient + 0.9 * velocity: 1.9, then 2.71.
    assert by_hand("sgd", 2.0, steps=1) == pytest.approx(2.0 - 0.19)
    assert by_hand("sgd", 2.0, steps=2) == pytest.approx(2.0 - 0.19 - 0.271)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_kernel_where_the_device_has_it(name):
    assert make_optimizer(name, network().parameters(), 0.1, 0.0, CPU).defaults["fused"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_survives_saving(name):
    straight, halted = network(), network()
    optimizer = make_optimizer(name, straight.parameters(), 0.01, 0.1, CPU)
    trained(straight, optimizer)
    expected = trained(straight, optimizer)

    first = make_optimizer(name, halted.parameters(), 0.01, 0.1, CPU)
    trained(halted, first)
    second = make_optimizer(name, halted.parameters(), 0.01, 0.1, CPU)
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(trained(halted, second), expected, strict=True))
