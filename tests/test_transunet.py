"""TransUNet: the published parameter count, and each of its pieces against a plain form of what it is to compute."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unet_cli.models import parameter_count
from unet_cli.models.fitted import Fitted
from unet_cli.models.transunet import (
    GRID,
    Attention,
    Embedding,
    Residual,
    StdConv2d,
    TransformerLayer,
    TransUNet,
    encoder_norm,
    transunet_light,
)


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return TransUNet(3, 9)


@pytest.fixture
def light():
    torch.manual_seed(0)
    return transunet_light(3, 2, base_channels=8).eval()


def test_parameter_count_for_three_channels_and_nine_classes(published):
    assert parameter_count(published) == 105_277_081


def test_the_encoder_halves_the_picture_four_times_in_3_4_and_9_blocks(published):
    assert [len(stage) for stage in published.stages] == [3, 4, 9]
    x = published.root(torch.empty(1, 3, 224, 224, device="meta"))
    shapes = [x.shape[1:]]
    x = F.max_pool2d(x, 3, stride=2)
    for stage in published.stages:
        x = stage(x)
        shapes.append(x.shape[1:])
    assert shapes == [(64, 112, 112), (256, 55, 55), (512, 28, 28), (1024, 14, 14)]


def test_the_decoder_narrows_to_16_channels_and_joins_three_skips(published):
    convolutions = [level.convs[0][0] for level in published.decoder]
    joined = [(conv.in_channels, conv.out_channels) for conv in convolutions]
    assert joined == [(512 + 512, 256), (256 + 256, 128), (128 + 64, 64), (64, 16)]
    assert published.head.kernel_size == (3, 3)


def test_the_encoder_has_32_groups_where_it_is_as_wide_as_the_paper(published):
    groups = {norm.num_groups for norm in published.stages[2][1].modules() if isinstance(norm, nn.GroupNorm)}
    assert groups == {32}
    assert encoder_norm(16).num_groups == 8


def test_filters_are_brought_to_mean_0_and_variance_1():
    conv = StdConv2d(1, 1, 3)
    nn.init.zeros_(conv.weight)
    conv.weight.data[0, 0, 1, 1] = 9.0  # mean 1, variance 8
    image = torch.zeros(1, 1, 5, 5)
    image[..., 2, 2] = 1.0
    expected = torch.full((3, 3), -1 / math.sqrt(8))
    expected[1, 1] = 8 / math.sqrt(8)
    torch.testing.assert_close(conv(image)[0, 0, 1:4, 1:4], expected)


def test_filters_that_are_all_equal_give_zeros_and_finite_gradients():
    conv = StdConv2d(2, 3, 3)
    nn.init.ones_(conv.weight)
    answer = conv(torch.randn(1, 2, 6, 6))
    answer.square().sum().backward()
    assert not answer.any()
    assert conv.weight.grad.isfinite().all()


def test_a_block_keeps_what_it_gets_unless_the_shape_changes():
    assert isinstance(Residual(16, 16, 1, bottleneck=False).shortcut, nn.Identity)
    assert isinstance(Residual(64, 16, 1, bottleneck=True).shortcut, nn.Identity)
    assert Residual(16, 16, 1, bottleneck=True)(torch.randn(1, 16, 8, 8)).shape == (1, 64, 8, 8)
    assert Residual(16, 32, 2, bottleneck=False)(torch.randn(1, 16, 7, 8)).shape == (1, 32, 4, 4)


def test_attention_is_the_softmax_of_scaled_products_a_head():
    torch.manual_seed(0)
    attention, tokens = Attention(12, heads=3), torch.randn(2, 5, 12)
    query, key, value = attention.query_key_value(tokens).split(12, dim=2)
    heads = []
    for head in range(3):
        own = slice(4 * head, 4 * head + 4)
        weights = (query[..., own] @ key[..., own].transpose(1, 2) / math.sqrt(4)).softmax(-1)
        heads.append(weights @ value[..., own])
    torch.testing.assert_close(attention(tokens), attention.out(torch.cat(heads, dim=2)))


def test_a_transformer_layer_normalises_before_and_adds_after():
    layer, tokens = TransformerLayer(8, heads=2, mlp=16, dropout=0.0), torch.randn(1, 4, 8)
    for last in (layer.attention[1].out, layer.mlp[4]):
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    assert torch.equal(layer(tokens), tokens)
    assert isinstance(layer.attention[0], nn.LayerNorm)
    assert isinstance(layer.mlp[0], nn.LayerNorm)


def positions_for(height, width):
    embedding = Embedding(1, 1, dropout=0.0)
    nn.init.zeros_(embedding.project.weight)
    nn.init.zeros_(embedding.project.bias)
    embedding.positions.data[0, 0] = torch.arange(GRID).float()  # each is the number of its column
    return embedding(torch.randn(1, 1, height, width)).reshape(height, width)


def test_positions_are_added_as_learned_at_the_size_of_the_paper():
    assert torch.equal(positions_for(14, 14), torch.arange(14.0).expand(14, 14))


def test_positions_are_interpolated_for_other_sizes():
    torch.testing.assert_close(positions_for(3, 27), torch.linspace(0, 13, 27).expand(3, 27))


@pytest.mark.parametrize(("height", "width"), [(16, 32), (32, 40), (33, 48)])
def test_sides_that_are_no_multiple_of_16_are_refused_by_their_size(light, height, width):
    with pytest.raises(ValueError, match=f"{width}x{height} pixels.*a multiple of 16, and at least 32"):
        light(torch.randn(1, 3, height, width))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 50), (33, 32)])
def test_an_image_of_any_size_is_padded_for_it(light, height, width):
    assert Fitted(light)(torch.randn(1, 3, height, width)).shape == (1, 2, height, width)


def test_dropout_acts_in_training_only_and_can_be_left_out(light):
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(light(image), light(image))
    assert not torch.equal(light.train()(image), light(image))
    steady = transunet_light(3, 2, base_channels=8, dropout=0.0)
    assert torch.equal(steady(image), steady(image))


def test_the_light_one_answers_an_image_alike_in_any_batch_and_in_training():
    model = transunet_light(3, 2, base_channels=8, dropout=0.0).train()
    images = torch.randn(3, 3, 32, 48)
    torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model(images), model.eval()(images), rtol=1e-3, atol=1e-4)


def test_the_light_one_has_4_layers_of_256_channels_at_any_width():
    model = transunet_light(1, 1, base_channels=5)
    assert len(model.layers) == 4
    assert model.norm.normalized_shape == (256,)
    assert model(torch.randn(1, 1, 32, 32)).shape == (1, 1, 32, 32)


def test_a_pass_back_through_the_published_one_reaches_every_parameter(published):
    published(torch.empty(2, 3, 64, 96, device="meta")).sum().backward()
    assert all(parameter.grad is not None for parameter in published.parameters())
