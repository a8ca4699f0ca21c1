"""The network of the paper: its sizes, where it drops values, how it starts, and that its tiles are seamless."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unet_cli.data.mirror import mirrored
from unet_cli.data.tiles import Canvas, lay_tiles
from unet_cli.models.fitted import Fitted
from unet_cli.models.geometry import Geometry
from unet_cli.models.unet_paper import UNetPaper, UnpaddedConvs


def small(seed=0, **settings):
    torch.manual_seed(seed)
    return UNetPaper(3, 1, **({"base_channels": 2} | settings))


@pytest.mark.parametrize(("channels", "outputs", "parameters"), [(3, 1, 31_031_745), (1, 2, 31_030_658)])
def test_parameter_count(channels, outputs, parameters):
    with torch.device("meta"):
        model = UNetPaper(channels, outputs)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_sizes_on_the_way_are_those_of_figure_1():
    with torch.device("meta"):
        model, image = UNetPaper(1, 2), torch.empty(1, 1, 572, 572)
    shapes = []
    for module in model.modules():
        if isinstance(module, UnpaddedConvs):
            module.register_forward_hook(lambda _, __, result: shapes.append(tuple(result.shape[1:])))
    assert model(image).shape == (1, 2, 388, 388)
    encoder = [(64, 568, 568), (128, 280, 280), (256, 136, 136), (512, 64, 64)]
    decoder = [(512, 52, 52), (256, 100, 100), (128, 196, 196), (64, 388, 388)]
    assert shapes == [*encoder, (1024, 28, 28), *decoder]


def test_valid_sides_are_12_more_than_a_multiple_of_16_and_at_least_188():
    model, image = UNetPaper(1, 1, base_channels=1).to("meta"), torch.empty(1, 1, 300, 300, device="meta")
    assert model.geometry == Geometry(multiple=16, remainder=12, least=188, margin=92, stride=16, reach=0)
    valid = []
    for side in range(140, 300):
        try:
            assert model(image[..., :side, :204]).shape == (1, 1, side - 184, 20)
            valid.append(side)
        except ValueError:
            with pytest.raises(ValueError, match=f"204x{side} pixels.*at least 188"):
                model(image[..., :side, :204])
    assert valid == [188, 204, 220, 236, 252, 268, 284]


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_the_smallest_valid_side_of_other_depths_leaves_less_than_one_more_step(depth):
    model = UNetPaper(1, 1, base_channels=1, depth=depth).to("meta")
    geometry = model.geometry
    sides = (geometry.least, geometry.least + geometry.multiple)
    logits = model(torch.empty(1, 1, *sides, device="meta"))
    assert logits.shape[2:] == tuple(side - 2 * geometry.margin for side in sides)
    assert 0 < logits.shape[2] <= geometry.multiple


def test_initial_weights_have_variance_2_over_the_number_of_incoming_nodes():
    model = small(base_channels=16)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            taps = 1 if isinstance(module, nn.ConvTranspose2d) else module.kernel_size[0] ** 2
            expected, count = 2 / (taps * module.in_channels), module.weight.numel()
            # The standard deviation of the mean square of so many normal numbers is sqrt(2 / count) times itself.
            assert abs(module.weight.square().mean() / expected - 1) < 4 * (2 / count) ** 0.5, name
            assert module.bias.abs().max() == 0


def test_dropout_is_at_the_end_of_level_four_before_its_pooling_and_its_skip_and_of_the_bottom():
    model = small(base_channels=4)
    seen = {}
    for module in model.children():
        for block in module if isinstance(module, nn.ModuleList) else [module]:
            block.register_forward_hook(lambda block, inputs, result: seen.update({block: (inputs, result)}))
    model(torch.randn(1, 3, 188, 188))
    dropping, calls = [], dict(seen)
    for block, (inputs, result) in calls.items():
        kept = block.eval()(*inputs)
        if not torch.equal(result, kept):
            dropping.append(block)
            assert torch.all((result == 0) | torch.isclose(result, 2 * kept, rtol=1e-4, atol=1e-6))
            assert 0.4 < (result[kept > 0] == 0).float().mean() < 0.6
    assert dropping == [model.encoder[3], model.bottom]
    fourth = calls[model.encoder[3]][1]
    assert torch.equal(calls[model.bottom][0][0], F.max_pool2d(fourth, 2))
    assert torch.equal(calls[model.decoder[0]][0][1], fourth)


def test_a_relu_follows_each_up_convolution():
    ups = [level.upsample for level in small().decoder]
    assert [[type(layer) for layer in up] for up in ups] == [[nn.ConvTranspose2d, nn.ReLU]] * 4


def test_without_dropout_training_and_prediction_give_the_same():
    model, image = small(dropout=0.0), torch.randn(1, 3, 188, 188)
    assert torch.equal(model.train()(image), model.eval()(image))


def test_the_influence_on_an_output_is_centred_on_it(monkeypatch):
    # With equal positive weights and means for maxima everything is linear, and the pixels of an output that share a
    # pixel of the bottom depend on their surroundings alike to all sides.
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    model = small(base_channels=1).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.1)
    image = torch.rand(1, 3, 220, 220, dtype=torch.float64, requires_grad=True)
    model(image)[..., 16:32, 16:32].sum().backward()  # on the grid of the bottom, which begins at pixel 28
    for weights in (image.grad[0, 0].sum(0), image.grad[0, 0].sum(1)):
        assert (weights * torch.arange(220)).sum() / weights.sum() == pytest.approx(92 + 16 + 7.5)


def in_tiles(model, image, side, overlap):
    """The overlap-tile strategy: (C, H, W) -> the starts of rows of tiles, and (K, H, W)."""
    geometry = model.geometry
    rows, columns = (lay_tiles(length, side, overlap, geometry.stride, geometry.reach) for length in image.shape[1:])
    canvas, parts = Canvas(rows, columns), []
    for i, y in enumerate(rows.starts):
        for j, x in enumerate(columns.starts):
            ys = mirrored(y - geometry.margin, y + side + geometry.margin, rows.length)
            xs = mirrored(x - geometry.margin, x + side + geometry.margin, columns.length)
            done = canvas.add(i, j, model(image[:, ys][:, :, xs][None])[0])
            parts += [done[1]] if done else []
    return rows.starts, torch.cat(parts, dim=1)


@torch.inference_mode()
def test_tiles_of_388_pixels_384_apart_give_the_answer_of_the_whole_image():
    model = small().eval()
    image = torch.randn(3, 810, 405)
    starts, tiled = in_tiles(model, image, side=388, overlap=0)
    assert starts == (0, 384, 432)
    whole = Fitted(model)(image[None])[0]
    assert tiled.shape == whole.shape == (1, 810, 405)
    difference = (tiled - whole).abs() / whole.abs().max()
    assert difference[:, 92:-92, 92:-92].max() < 1e-5  # away from the border
    difference[:, 92:-92, 92:-92] = 0
    assert difference.max() < 1e-5  # at the border, where the image is mirrored


@torch.inference_mode()
def test_tiles_that_lie_side_by_side_and_so_off_the_grid_of_the_poolings_would_not():
    model = small().eval()
    image = torch.randn(1, 3, 188, 204 + 388 - 4)
    whole = model(image)
    for start, seamless in ((384, True), (388, False)):
        logits = model(image[..., start : start + 188])
        difference = (logits - whole[..., start : start + 4]).abs().max() / whole.abs().max()
        assert difference < 1e-5 if seamless else difference > 1e-2
