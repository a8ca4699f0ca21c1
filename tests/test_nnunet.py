"""nnU-Net's two networks: counts of the authors' own, heads and their weights, which sides they take."""

import pytest
import torch
from torch import nn

from unet_cli.models.nnunet import NNUNet, NNUNetResEnc, Residual, stages_for

BOTH = pytest.mark.parametrize("network", [NNUNet, NNUNetResEnc])


def parameter_count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("network", "parameters"), [(NNUNet, 46_324_558), (NNUNetResEnc, 140_017_038)])
def test_parameter_count_for_one_channel_and_two_classes_at_512_with_all_heads(network, parameters):
    with torch.device("meta"):
        assert parameter_count(network(1, 2)) == parameters
        heads = sum(width * 2 + 2 for width in (64, 128, 256, 512, 512, 512))
        assert parameter_count(network(1, 2, deep_supervision=False)) == parameters - heads


@pytest.mark.parametrize(
    ("size", "depth"),
    [(512, 7), (256, 6), (64, 4), (8, 1), (2048, 9), (448, 6), (449, 7), (500, 7), (120, 5), (112, 4), (7, 1), (1, 1)],
)
def test_depth_is_as_many_halvings_as_leave_an_edge_of_at_least_four(size, depth):
    assert stages_for(size) == depth


def test_at_512_eight_stages_of_at_most_512_channels_and_sides_of_multiples_of_128():
    with torch.device("meta"):
        model = NNUNet(1, 2)
        assert [stage[0].out_channels for stage in model.encoder] == [32, 64, 128, 256, 512, 512, 512, 512]
        assert nn.Sequential(*model.encoder)(torch.empty(1, 1, 512, 512)).shape[-2:] == (4, 4)
    assert [model.geometry.side(wanted) for wanted in (100, 257, 512, 513)] == [256, 384, 512, 640]


def test_a_stage_is_two_convolutions_with_bias_the_first_of_them_strided():
    conv, norm, activation, second, *_ = NNUNet(1, 2, base_channels=2, depth=2).encoder[1]
    assert (conv.kernel_size, conv.stride, second.stride) == ((3, 3), (2, 2), (1, 1))
    assert conv.bias is not None
    assert second.bias is not None
    assert isinstance(norm, nn.InstanceNorm2d)
    assert (norm.affine, norm.eps) == (True, 1e-5)
    assert activation.negative_slope == 0.01


@pytest.mark.parametrize(("depth", "blocks"), [(2, [1, 3, 4]), (8, [1, 3, 4, 6, 6, 6, 6, 6, 6])])
def test_blocks_of_each_stage_of_the_residual_encoder(depth, blocks):
    model = NNUNetResEnc(3, 1, base_channels=1, depth=depth)
    assert [sum(isinstance(module, Residual) for module in stage.modules()) for stage in model.encoder] == blocks
    assert all(sum(isinstance(module, nn.Conv2d) for module in up.modules()) == 1 for up in model.decoder)


def test_a_residual_block_begins_as_its_shortcut_average_pooled_and_unprojected_where_the_channels_stay():
    image = torch.arange(32.0).reshape(1, 2, 4, 4)
    pooled = torch.tensor([[[2.5, 4.5], [10.5, 12.5]], [[18.5, 20.5], [26.5, 28.5]]])[None]
    torch.testing.assert_close(
        Residual(2, 2, (3, 3), (2, 2))(image - 20), torch.where(pooled < 20, 0.01, 1) * (pooled - 20)
    )
    projected = Residual(2, 3, (3, 3), (2, 2)).shortcut
    assert [type(layer) for layer in projected] == [nn.AvgPool2d, nn.Conv2d, nn.InstanceNorm2d]
    assert (projected[1].kernel_size, projected[1].bias) == ((1, 1), None)


@BOTH
def test_in_training_each_head_has_half_the_resolution_of_the_one_before_and_in_evaluation_there_is_the_finest(network):
    model = network(3, 2, base_channels=2, depth=3)
    image = torch.randn(2, 3, 32, 48)
    logits = model(image)
    assert [tuple(one.shape) for one in logits] == [(2, 2, 32, 48), (2, 2, 16, 24), (2, 2, 8, 12)]
    for head in model.heads[1:]:
        head.forward = None  # it isn't called
    torch.testing.assert_close(model.eval()(image), logits[0])


@BOTH
def test_without_deep_supervision_there_is_the_finest_head_alone(network):
    model = network(3, 1, base_channels=2, depth=3, deep_supervision=False)
    assert model.head_weights == (1.0,)
    assert len(model.heads) == 1
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 1, 16, 16)


def test_weights_of_the_heads_halve_end_with_zero_and_sum_to_one():
    assert NNUNet(1, 1, base_channels=1, depth=4).head_weights == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))
    assert NNUNet(1, 1, base_channels=1, depth=2).head_weights == (1, 0)
    assert NNUNet(1, 1, base_channels=1, depth=1).head_weights == (1,)


def test_with_one_head_training_gives_its_logits():
    assert NNUNet(1, 1, base_channels=1, depth=1)(torch.randn(1, 1, 4, 4)).shape == (1, 1, 4, 4)


@BOTH
def test_a_loss_of_the_weighted_heads_reaches_every_parameter_and_of_the_heads_all_but_the_coarsest(network):
    model = network(3, 1, base_channels=2, depth=3)
    logits = model(torch.randn(1, 3, 32, 32))
    sum(weight * one.square().mean() for weight, one in zip(model.head_weights, logits, strict=True)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert [bool(head.weight.grad.any()) for head in model.heads] == [True, True, False]


@BOTH
def test_the_smallest_valid_side_leaves_instance_norm_more_than_a_pixel(network):
    model = network(1, 1, base_channels=2, depth=2)
    assert model.geometry.side(1) == 8
    assert model.eval()(torch.randn(1, 1, 8, 8)).std() > 0


@pytest.mark.parametrize("size", [(8, 10), (4, 8)])
def test_other_sides_are_refused_with_the_valid_ones(size):
    with pytest.raises(ValueError, match=rf"{size[1]}x{size[0]} pixels.*a multiple of 4, and at least 8"):
        NNUNet(1, 1, base_channels=1, depth=2)(torch.randn(1, 1, *size))


@BOTH
def test_gradient_checkpointing_keeps_gradients(network):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = network(3, 1, base_channels=2, depth=2)
        model.gradient_checkpointing = checkpointing
        for parameter in model.parameters():
            parameter.data += 0.1  # residual branches begin at zero
        sum(one.square().mean() for one in model(torch.randn(2, 3, 16, 16))).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_initial_weights_are_normal_with_the_variance_of_he_for_the_slope_and_no_bias():
    conv = NNUNet(3, 1, base_channels=32, depth=2).encoder[2][3]
    assert conv.weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / (9 * 128)) ** 0.5, rel=0.02)
    assert not conv.bias.any()
