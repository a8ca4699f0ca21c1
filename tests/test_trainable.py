"""Which samples a network can be trained on: images and volumes, thin ones too, worked by hand."""

import pytest

from unet_cli.config.model import ModelConfig
from unet_cli.errors import UserError
from unet_cli.models import Geometry, resolved
from unet_cli.models.trainable import check_trainable, is_trainable

HALVED = Geometry(multiple=8, least=8, stride=8)


def unet3d(**settings):
    return resolved(ModelConfig(name="unet3d", **settings), 64)


@pytest.mark.parametrize(
    ("sides", "trainable"),
    [
        ((8, 8), False),  # a single pixel at the bottom
        ((16, 16), True),
        ((8, 16), True),  # two are enough, along either axis
        ((8, 8, 8), False),
        ((8, 8, 9), True),  # padded to 16
        ((4, 16, 16), True),  # half of the padded side is reflection
        ((3, 16, 16), False),
    ],
)
def test_a_second_pixel_at_the_bottom_and_no_more_reflection_than_image(sides, trainable):
    assert is_trainable(HALVED, sides) is trainable


def test_each_axis_has_its_own_rule():
    thin = Geometry.of_axes([Geometry(multiple=2, least=2, stride=2), HALVED, HALVED])
    assert is_trainable(thin, (1, 16, 8))
    assert not is_trainable(thin, (16, 3, 16))
    assert is_trainable(thin, (4, 8, 8))  # two pixels along the first axis


def test_a_margin_counts_as_reflection():
    geometry = Geometry(multiple=4, remainder=2, least=10, margin=2, stride=4)
    assert is_trainable(geometry, (6, 6))
    assert not is_trainable(geometry, (2, 6))


def test_a_network_for_volumes_is_not_for_images():
    with pytest.raises(UserError, match="unet3d is for volumes, and these are images: choose another --model"):
        check_trainable(unet3d(), (512, 512), "resize")


def test_a_network_for_images_is_trained_on_the_sections_of_volumes():
    config = resolved(ModelConfig(name="unet"), 64)
    check_trainable(config, (1, 64, 64), "tile")
    with pytest.raises(UserError, match="--size 16 is too small for the depth.*at least --size 32, or a smaller"):
        check_trainable(config, (64, 16, 16), "tile")


def test_of_volumes_that_are_too_small_the_sides_that_suffice_are_told():
    with pytest.raises(UserError, match="samples of 32x32x3 voxels are.*needs 32x32x9: give a smaller --depth, or a"):
        check_trainable(unet3d(), (3, 32, 32), "tile")
    check_trainable(unet3d(), (9, 32, 32), "tile")
    check_trainable(unet3d(depth=1), (3, 32, 32), "tile")
    check_trainable(unet3d(flat=(2, 0, 0)), (3, 32, 32), "tile")
