"""Images made to suit a network: worked by hand with networks that do as little as possible."""

import pytest
import torch

from unet_cli.models import Fitted, Geometry, Network


class Cropping(Network):
    """Eats its margin and leaves the rest as it is."""

    geometry = Geometry(multiple=4, remainder=2, least=10, margin=2)

    def forward(self, image):
        self.geometry.check(image)
        return image[..., 2:-2, 2:-2]


class Coarser(Network):
    """A head at full resolution, and one of every fourth pixel."""

    geometry = Geometry(multiple=8, least=8)
    head_weights = (0.5, 0.5)

    def forward(self, image):
        self.geometry.check(image)
        return [image, image[..., ::4, ::4]] if self.training else image


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (1, 9), (20, 3)])
@pytest.mark.parametrize("context", [0, 2, 3])
def test_every_pixel_of_the_answer_lies_over_its_pixel(size, context):
    image = torch.rand(2, 3, size[0] + 2 * context, size[1] + 2 * context)
    wanted = image[..., context : context + size[0], context : context + size[1]]
    assert torch.equal(Fitted(Cropping(), context)(image), wanted)


class Reading(Cropping):
    """As its base, but keeps what it was given."""

    def forward(self, image):
        self.seen = image
        return super().forward(image)


def test_beyond_the_border_lies_the_mirrored_image_and_within_the_context_the_true_one():
    row = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 6, 6)
    network = Reading()
    Fitted(network)(row)
    assert network.seen[0, 0, 0].tolist() == [2, 1, 0, 1, 2, 3, 4, 5, 4, 3]
    Fitted(network, context=2)(torch.arange(10.0).view(1, 1, 1, 10).expand(1, 1, 10, 10))
    assert network.seen[0, 0, 0].tolist() == list(range(10))


def test_a_coarser_head_answers_for_the_cells_that_begin_in_the_image():
    network = Fitted(Coarser())
    image = torch.rand(1, 1, 9, 16)
    fine, coarse = network(image)
    assert torch.equal(fine, image)
    assert torch.equal(coarse, image[..., ::4, ::4])
    assert coarse.shape[2:] == (3, 4)
    assert torch.equal(network.eval()(image), image)


def test_a_side_that_does_not_suit_is_named():
    with pytest.raises(ValueError, match="12x11 pixels.*2 more than a multiple of 4, and at least 10"):
        Cropping()(torch.zeros(1, 1, 11, 12))
