"""The dilated U-Nets: what is published stretches its answer, ours keeps every pixel in its place."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unet_cli.data.mirror import mirrored
from unet_cli.data.tiles import Canvas, lay_tiles
from unet_cli.models.fitted import Fitted
from unet_cli.models.geometry import Geometry
from unet_cli.models.unet_dilated import UNetDilated, UNetDilatedPublished

BOTH = [UNetDilated, UNetDilatedPublished]


def small(network, base_channels=2):
    torch.manual_seed(0)
    return network(3, 1, base_channels=base_channels).double().eval()


def on_meta(network):
    with torch.device("meta"):
        return network(1, 1, base_channels=1)


@pytest.mark.parametrize("network", BOTH)
def test_parameter_count(network):
    with torch.device("meta"):
        model = network(3, 1)
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_031_745


@pytest.mark.parametrize("network", BOTH)
def test_only_the_encoder_is_dilated_and_nothing_is_padded(network):
    dilations = [
        (name.split(".")[0], module.dilation[0], module.padding[0])
        for name, module in on_meta(network).named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert dilations == [("encoder", 2, 0)] * 8 + [("middle", 1, 0)] * 2 + [("decoder", 1, 0)] * 8


@pytest.mark.parametrize("network", BOTH)
def test_dropout_is_in_the_deepest_block_of_the_encoder_and_the_middle(network):
    names = [name for name, module in on_meta(network).named_modules() if isinstance(module, nn.Dropout)]
    assert names == ["encoder.3.4", "middle.0.4"]
    assert not any(isinstance(module, nn.Dropout) for module in network(1, 1, base_channels=1, dropout=0.0).modules())


def test_the_published_one_answers_any_image_of_at_least_233_pixels_in_its_own_size():
    model = on_meta(UNetDilatedPublished)
    assert model.only_whole
    assert model.geometry == Geometry(least=233)
    for side in range(233, 250):
        assert model(torch.empty(1, 1, side, 240, device="meta")).shape == (1, 1, side, 240)
    with pytest.raises(ValueError, match="240x232 pixels.*at least 233"):
        model(torch.empty(1, 1, 232, 240, device="meta"))


def test_ours_answers_sides_of_8_more_than_a_multiple_of_16_less_the_margin():
    model = on_meta(UNetDilated)
    assert not model.only_whole
    assert model.geometry == Geometry(multiple=16, remainder=8, least=248, margin=122, stride=16, reach=0)
    for side in (248, 264, 520):
        assert model(torch.empty(1, 1, side, 280, device="meta")).shape == (1, 1, side - 244, 36)
    for side in (232, 247, 249, 256):
        with pytest.raises(ValueError, match=f"280x{side} pixels.*at least 248"):
            model(torch.empty(1, 1, side, 280, device="meta"))


@torch.no_grad()
def passing_on(network, path):
    """The network with weights that hand on one channel, unchanged but for pooling and resizing, along one path:
    through the middle (path 5), or by the skip of a level of the encoder (1 to 4)."""
    model = network(1, 1, base_channels=1).double().eval()
    for parameter in model.parameters():
        parameter.zero_()
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            module.weight[0, 0] = 1
        elif isinstance(module, nn.Conv2d):
            centre = module.kernel_size[0] // 2
            module.weight[0, 0, centre, centre] = 1
    if path < 5:
        block = model.decoder[4 - path]
        first = next(module for module in block.modules() if isinstance(module, nn.Conv2d))
        first.weight[0] = first.weight[0].roll(first.in_channels // 2, dims=0)  # the skip's first channel
    return model


def ramp(height, width):
    """The number of its column, at each pixel."""
    return torch.arange(width, dtype=torch.float64).expand(1, 1, height, width)


@torch.inference_mode()
@pytest.mark.parametrize("path", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("across", [False, True])
def test_along_every_path_an_output_pixel_lies_over_its_input_pixel(path, across):
    model = passing_on(UNetDilated, path)
    image = ramp(248, 280)
    pooled = 2 ** min(path, 4)  # side of a pixel of the skip; a maximum is this much above the mean of its pixels:
    above = (pooled - 1) / 2
    for way in (image, image.flip(-1)):  # rising and falling: a shift would show with different signs
        logits = model(way.mT).mT if across else model(way)
        differences = (logits - way[..., 122:-122, 122:-122])[..., 2:-2]  # from the grid of the poolings on
        assert differences.unflatten(-1, (-1, 16)).mean(-1).flatten().tolist() == pytest.approx([above] * 8)


@torch.inference_mode()
def test_the_published_one_lays_the_whole_image_over_its_middle():
    middle = passing_on(UNetDilatedPublished, 5)(ramp(240, 512))[0, 0, 100]
    assert 122 <= middle[0] < 122 + 16  # the maximum of 16 pixels
    assert 397 <= middle[-1] < 397 + 16
    skip = passing_on(UNetDilatedPublished, 1)(ramp(240, 512))[0, 0, 100]
    assert skip[0] < 10
    assert skip[-1] > 500


def test_the_influence_on_an_output_is_centred_on_it(monkeypatch):
    # With equal positive weights and means for maxima everything is linear, and the pixels of an output that share a
    # pixel of the middle depend on their surroundings alike to all sides.
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    model = small(UNetDilated, base_channels=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    image = torch.rand(1, 3, 280, 280, dtype=torch.float64, requires_grad=True)
    model(image)[..., 2:18, 2:18].sum().backward()  # on the grid of the middle, which begins at pixel 60
    for weights in (image.grad[0, 0].sum(0), image.grad[0, 0].sum(1)):
        assert (weights * torch.arange(280)).sum() / weights.sum() == pytest.approx(122 + 2 + 7.5)


@torch.inference_mode()
def test_the_answer_to_an_image_shifted_by_the_stride_is_shifted_and_else_it_is_another():
    model, image = small(UNetDilated), torch.randn(1, 3, 264, 312, dtype=torch.float64)
    whole = model(image)
    assert torch.allclose(model(image[..., 16:, 32:]), whole[..., 16:, 32:], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(model(image[..., 8:-24])[..., :24], whole[..., 8:32], rtol=1e-2)


@torch.inference_mode()
def test_tiles_of_ours_give_the_answer_of_the_whole_image():
    model, image = small(UNetDilated), torch.randn(3, 130, 70, dtype=torch.float64)
    margin, side = model.geometry.margin, 68
    rows, columns = (lay_tiles(length, side, 0, 16, model.geometry.reach) for length in image.shape[1:])
    assert rows.starts == (0, 64)
    canvas, parts = Canvas(rows, columns), []
    for i, y in enumerate(rows.starts):
        for j, x in enumerate(columns.starts):
            ys = mirrored(y - margin, y + side + margin, rows.length)
            xs = mirrored(x - margin, x + side + margin, columns.length)
            done = canvas.add(i, j, model(image[:, ys][:, :, xs][None])[0].float())
            parts += [done[1]] if done else []
    whole = Fitted(model)(image[None])[0].float()
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 1e-6 * whole.abs().max()
