"""The two U-Nets with attention gates: parameters, the gate's equation by hand, coefficients, reach."""

import pytest
import torch
from torch import nn

from unet_cli.models.attention import AttentionUNet, Gate
from unet_cli.models.attention_oktay import GridGate, OktayAttentionUNet

NETWORKS = [AttentionUNet, OktayAttentionUNet]


def constant(conv, weight, bias=None):
    nn.init.constant_(conv.weight, weight)
    if bias is not None:
        nn.init.constant_(conv.bias, bias)


def test_parameter_count_for_three_channels_and_one_output():
    with torch.device("meta"):
        model = AttentionUNet(3, 1)
    assert sum(parameter.numel() for parameter in model.parameters()) == 34_878_573


def test_a_gate_is_the_sigmoid_of_both_signals_at_each_pixel():
    """skip 1 and 3, signal 2 and -9: relu(1*1 + 0.5*2 + 1) = 3, relu(3 - 4.5 + 1) = 0; psi is 2q - 1."""
    gate = Gate(2, 2, "none")
    constant(gate.skip[0], 0.5, 1)
    constant(gate.signal[0], 0.25, 0)
    constant(gate.psi[0], 2, -1)
    skip = torch.tensor([1.0, 3.0]).expand(1, 2, 1, 2)
    signal = torch.tensor([2.0, -9.0]).expand(1, 2, 1, 2)
    assert torch.allclose(gate(skip, signal), torch.sigmoid(torch.tensor([[[[5.0, -1.0]]]])))


def test_the_common_gate_has_a_norm_after_each_of_three_one_by_one_convolutions():
    gate = Gate(8, 8, "batch")
    convolutions = [module for module in gate.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in gate.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [(conv.kernel_size, conv.out_channels) for conv in convolutions] == [((1, 1), 4), ((1, 1), 4), ((1, 1), 1)]
    assert [norm.num_features for norm in norms] == [4, 4, 1]


def test_the_gate_of_oktay_sees_the_skip_by_two_and_has_no_norm():
    """Skip pixels 0 to 3 in a row of both lines: cells sum to 2(0 + 1) = 2 and 2(2 + 3) = 10; signal 1 and -20 makes
    relu(2 + 1) = 3 and relu(10 - 20) = 0, psi is q - 1, and the coefficients between are resampled linearly."""
    gate = GridGate(1, 1)
    constant(gate.skip, 1)
    constant(gate.signal, 1, 0)
    constant(gate.psi, 1, -1)
    skip = torch.arange(4.0).expand(1, 1, 2, 4)
    left, right = torch.sigmoid(torch.tensor([2.0, -1.0]))
    expected = torch.stack([left, 0.75 * left + 0.25 * right, 0.25 * left + 0.75 * right, right])
    assert torch.allclose(gate(skip, torch.tensor([1.0, -20.0]).view(1, 1, 1, 2)), expected.expand(1, 1, 2, 4))
    assert gate.skip.bias is None
    assert not [module for module in gate.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(("network", "gated"), [(AttentionUNet, [1, 2, 4]), (OktayAttentionUNet, [2, 4])])
def test_each_gate_gives_its_coefficients_from_the_finest_level_on(network, gated):
    model = network(3, 2, base_channels=4, depth=3).eval()
    image = torch.randn(2, 3, 16, 24)
    logits, attention = model.with_attention(image)
    assert torch.equal(logits, model(image))
    assert [coefficients.shape for coefficients in attention] == [(2, 1, 16 // by, 24 // by) for by in gated]
    assert all(((coefficients >= 0) & (coefficients <= 1)).all() for coefficients in attention)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_skip_is_multiplied_by_its_coefficients(network):
    model = network(1, 1, base_channels=4, depth=2).eval()
    merged = []
    model.decoder[0].convs[0].register_forward_pre_hook(lambda _module, inputs: merged.append(inputs[0]))
    for value in (1.0, 0.25):
        model.decoder[0].gate.register_forward_hook(lambda *call, value=value: torch.full_like(call[-1], value))
        model(torch.ones(1, 1, 16, 16))
    (open_skip, open_below), (skip, below) = (x.tensor_split([8], dim=1) for x in merged)
    assert torch.allclose(skip, 0.25 * open_skip)
    assert torch.equal(below, open_below)
    assert open_skip.any()


def test_the_finest_skip_of_oktay_is_not_gated():
    gates = [level.gate is not None for level in OktayAttentionUNet(1, 1, base_channels=4).decoder]
    assert gates == [True, True, True, False]
    assert all(level.gate is not None for level in AttentionUNet(1, 1, base_channels=4).decoder)


def test_the_gates_of_oktay_begin_open():
    torch.manual_seed(0)
    _, attention = OktayAttentionUNet(1, 1, base_channels=16).with_attention(torch.randn(2, 1, 64, 64))
    assert len(attention) == 3
    assert all(coefficients.min() > 0.85 for coefficients in attention)


def test_the_answer_of_oktay_joins_the_logits_of_every_level():
    torch.manual_seed(0)
    model = OktayAttentionUNet(1, 2, base_channels=4, depth=3).eval()
    image = torch.randn(1, 1, 16, 16)
    before = model(image)
    assert [head.in_channels for head in model.heads] == [16, 8, 4]
    for head in model.heads:
        with torch.no_grad():
            head.bias += 1
        after = model(image)
        assert not torch.allclose(before, after)
        before = after


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("depth", [2, 3])
def test_padding_is_felt_no_further_than_the_reach(network, depth):
    torch.manual_seed(0)
    model = network(1, 1, base_channels=2, depth=depth, norm="none").double().eval()
    geometry = model.geometry
    cut, side = geometry.stride, geometry.side(3 * geometry.reach)
    image = torch.randn(1, 1, side + 2 * cut, side + 2 * cut, dtype=torch.float64)
    with torch.no_grad():
        whole = model(image)[..., cut:-cut, cut:-cut]
        differs = (model(image[..., cut:-cut, cut:-cut]) - whole).abs() > 1e-12
    inner = differs[..., geometry.reach : -geometry.reach, geometry.reach : -geometry.reach]
    assert inner.numel()
    assert not inner.any()
    assert differs.any()


@pytest.mark.parametrize("network", NETWORKS)
def test_sides_that_are_no_multiples_of_the_poolings_are_refused(network):
    model = network(1, 1, base_channels=2)
    assert (model.geometry.side(1), model.geometry.side(17)) == (16, 32)
    with pytest.raises(ValueError, match="40x32 pixels.*a multiple of 16"):
        model(torch.randn(1, 1, 32, 40))
    with pytest.raises(ValueError, match="at least 32"):
        network(1, 1, base_channels=2, norm="instance")(torch.randn(1, 1, 32, 16))
