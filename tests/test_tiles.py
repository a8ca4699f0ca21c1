"""Where tiles lie, and that what they are put together to is the network's answer to the whole image."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from unet_cli.config.model import ModelConfig
from unet_cli.data.mirror import mirrored
from unet_cli.data.tiles import Canvas, lay_tiles
from unet_cli.models import build_model
from unet_cli.models.fold import fold_batch_norm
from unet_cli.models.geometry import Geometry


@pytest.mark.parametrize(
    ("start", "stop", "length", "expected"),
    [
        (0, 4, 4, [0, 1, 2, 3]),
        (-2, 6, 4, [2, 1, 0, 1, 2, 3, 2, 1]),
        (-5, 0, 3, [1, 0, 1, 2, 1]),
        (-2, 3, 1, [0, 0, 0, 0, 0]),
        (-1, 3, 2, [1, 0, 1, 0]),
    ],
)
def test_mirroring_does_not_repeat_the_last_pixel(start, stop, length, expected):
    assert mirrored(start, stop, length).tolist() == expected


@pytest.mark.parametrize(
    ("length", "side", "overlap", "multiple", "reach", "starts"),
    [
        (512, 512, 0.25, 16, None, (0,)),  # one tile suffices
        (300, 512, 0.25, 16, 107, (-96,)),  # in its middle
        (513, 512, 0.25, 16, None, (-32, 48)),  # a quarter of the overlap of 128 counts nothing
        (1000, 512, 0.4375, 16, 107, (-112, 176, 464, 608)),  # 224 cover the reach of 107 twice
        (1000, 512, 0.25, 16, 107, (-32, 352, 528)),  # 128 don't
        (1024, 512, 0.0, 16, None, (0, 512)),
        (1000, 96, 0.25, 64, 0, (*range(0, 897, 64), 960)),
    ],
)
def test_where_tiles_lie(length, side, overlap, multiple, reach, starts):
    assert lay_tiles(length, side, overlap, multiple, reach).starts == starts


def test_weights_sum_to_one_everywhere_and_vanish_within_the_reach():
    rng = np.random.default_rng(0)
    for _ in range(300):
        multiple = int(rng.choice([1, 4, 16]))
        side = multiple * int(rng.integers(2, 12))
        length, overlap = int(rng.integers(1, 400)), float(rng.choice([0, 0.1, 0.25, 0.5, 0.75]))
        reach = None if rng.random() < 0.5 else int(rng.integers(0, 20))
        axis = lay_tiles(length, side, overlap, multiple, reach)
        total = torch.zeros(length)
        for tile, start in enumerate(axis.starts):
            target, source = axis.inside(tile)
            total[target] += axis.weights[tile, source]
            shared = side - max(multiple, int(side * (1 - overlap)) // multiple * multiple)
            if reach and shared > 2 * reach and len(axis.starts) > 1:
                assert axis.weights[tile, :reach].max() == 0
                assert axis.weights[tile, -reach:].max() == 0
            assert (start - axis.starts[0]) % multiple == 0
        assert torch.allclose(total, torch.ones(length), atol=1e-6), (length, side, overlap, multiple, reach)


def in_tiles(network, image, side, overlap, geometry):
    """The whole walk: (C, *spatial) -> (K, *spatial)."""
    axes = [lay_tiles(n, side, overlap, geometry.stride, geometry.reach) for n in image.shape[1:]]
    canvas, parts, expected_top = Canvas(axes), [], 0
    for place in product(*(range(len(axis.starts)) for axis in axes)):
        tile = image
        for axis, (number, along) in enumerate(zip(place, axes, strict=True), 1):
            start = along.starts[number] - geometry.margin
            seen = mirrored(start, start + side + 2 * geometry.margin, along.length)
            tile = tile.index_select(axis, torch.from_numpy(seen))
        done = canvas.add(place, network(tile[None])[0])
        if done:
            assert done[0] == expected_top
            expected_top += done[1].shape[1]
            parts.append(done[1])
    assert expected_top == image.shape[1]
    return torch.cat(parts, 1)


def whole(network, image, border, geometry):
    """The network's answer to the image in one piece, mirrored by `border` and up to a valid side."""
    sides = image.shape[1:]
    for axis, n in enumerate(sides, 1):
        side = geometry.side(n + 2 * border + 2 * geometry.margin)
        seen = mirrored(-border - geometry.margin, side - border - geometry.margin, n)
        image = image.index_select(axis, torch.from_numpy(seen))
    answer = network(image[None])[0]
    return answer[(slice(None), *(slice(border, border + n) for n in sides))]


def plain_network(depth, seed=0, **settings):
    torch.manual_seed(seed)
    model = build_model(ModelConfig(base_channels=4, depth=depth, **settings))
    for module in model.modules():  # statistics that are not those of a fresh network
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.3, 1)
    return model.eval()


@torch.inference_mode()
def test_the_plain_network_reaches_no_further_than_107_pixels():
    model = plain_network(4)
    assert model.geometry.reach == 107
    model.double()
    image = torch.randn(1, 3, 512, 512, dtype=torch.float64)
    changed = image.clone()
    changed[..., :, :256] += 1  # everything left of the middle
    # The grid of the poolings lies so that a change at 255 reaches furthest to the right, one at 256 to the left.
    touched = (model(image) != model(changed)).any(1)[0].any(0).nonzero().max().item()
    assert 256 <= touched <= 255 + 107


@torch.inference_mode()
@pytest.mark.parametrize("size", [(700, 530), (512, 1100)])
def test_tiles_whose_overlap_covers_the_reach_give_the_answer_of_the_whole_image(size):
    model = plain_network(4)
    image = torch.randn(3, *size)
    tiled = in_tiles(model, image, 512, 224 / 512, model.geometry)
    single = whole(model, image, 112, model.geometry)
    assert (tiled - single).abs().max() < 1e-5 * single.abs().max()
    poor = in_tiles(model, image, 512, 0.0, model.geometry)
    assert (poor - single).abs().max() > 1e-3 * single.abs().max()


@torch.inference_mode()
@pytest.mark.parametrize("size", [(40, 31, 29), (5, 50, 7)])
def test_tiles_of_a_volume_give_the_answer_of_the_whole_volume(size):
    model = plain_network(1, name="unet3d")
    volume = torch.randn(3, *size)
    tiled = in_tiles(model, volume, 32, 0.75, model.geometry)  # the overlap of 24 covers the reach of 10 twice
    single = whole(model, volume, 12, model.geometry)
    assert (tiled - single).abs().max() < 1e-5 * single.abs().max()
    poor = in_tiles(model, volume, 16, 0.0, model.geometry)
    assert (poor - single).abs().max() > 1e-3 * single.abs().max()


def test_a_canvas_holds_one_layer_of_tiles_whatever_the_number_of_layers():
    for slices in (64, 256):
        axes = [lay_tiles(n, 16, 0.25) for n in (slices, 40, 50)]
        canvas, held = Canvas(axes), set()
        for place in product(*(range(len(axis.starts)) for axis in axes)):
            done = canvas.add(place, torch.ones(2, 16, 16, 16))
            held.add(canvas._sums.numel())
            assert done is None or torch.allclose(done[1], torch.ones(()), atol=1e-6)
            assert done is None or done[1].shape[1] <= 16
        assert held == {2 * 16 * 40 * 50}


class Unpadded(nn.Module):
    """Valid convolutions and one pooling: sides of 4 (mod 2), 6 pixels lost at each end; exact by its own margin."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1, 1, 3) for _ in range(4))
        self.up = nn.ConvTranspose2d(1, 1, 2, stride=2)
        self.geometry = Geometry(multiple=2, least=14, margin=6, stride=2, reach=0)

    def forward(self, x):
        x = self.convs[1](self.convs[0](x))  # 2 lost at each end
        x = self.convs[2](nn.functional.max_pool2d(x, 2))  # 2 more
        return self.convs[3](self.up(x))[..., 1:-1, 1:-1]  # 1 more, and 1 cropped


@torch.inference_mode()
def test_an_unpadded_network_uses_its_own_margin():
    torch.manual_seed(0)
    model = Unpadded().eval()
    assert model(torch.zeros(1, 1, 30, 30)).shape[-1] == 30 - 2 * 6
    image = torch.randn(1, 77, 101)
    tiled = in_tiles(model, image, 32, 0.0, model.geometry)
    assert torch.allclose(tiled, whole(model, image, 0, model.geometry), atol=1e-6)


@torch.inference_mode()
def test_seams_of_networks_without_a_bounded_reach_do_not_show():
    model = plain_network(3, upsampling="bilinear")
    assert model.geometry.reach is None
    ys, xs = np.mgrid[:260, :300]
    smooth = torch.from_numpy(np.sin(ys / 23) + np.cos(xs / 31)).float()[None].repeat(3, 1, 1)
    tiled = in_tiles(model, smooth, 96, 0.25, model.geometry)[0]
    jumps = tiled.diff(dim=1).abs()
    at_borders = torch.zeros(jumps.shape[1], dtype=bool)
    for start in lay_tiles(300, 96, 0.25, 8).starts:
        for border in (start, start + 96):
            at_borders[max(border - 2, 0) : max(border + 1, 0)] = True
    assert jumps[:, at_borders].max() <= jumps[:, ~at_borders].max()


@torch.inference_mode()
@pytest.mark.parametrize(("name", "dims", "norm"), [("unet", 2, nn.BatchNorm2d), ("unet3d", 3, nn.BatchNorm3d)])
def test_folding_batch_norm_changes_nothing_but_the_number_of_layers(name, dims, norm):
    model = plain_network(2, name=name)
    folded = fold_batch_norm(model)
    image = torch.randn(1, 3, *[32] * dims)
    assert torch.allclose(model(image), folded(image), atol=1e-5)
    assert not any(isinstance(module, norm) for module in folded.modules())
    assert any(isinstance(module, norm) for module in model.modules())
