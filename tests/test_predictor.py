"""The network in prediction: one shape of batch, whatever is in it, and probabilities at original size."""

import torch

from unet_cli.checkpoint import load_checkpoint
from unet_cli.device import Compute
from unet_cli.inference.predictor import Predictor, at_size, to_classes


def test_batches_are_filled_to_one_shape_so_that_no_mask_depends_on_its_neighbours(trained):
    predictor = Predictor(load_checkpoint(trained), Compute(torch.device("cpu"), "float32"))
    shapes = []
    predictor.model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    images = [torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8) for _ in range(3)]
    together, alone = predictor.probabilities(images, 3), predictor.probabilities(images[:1], 3)
    assert shapes == [(3, 3, 32, 32)] * 2
    assert torch.equal(together[:1], alone)


def test_probabilities_are_brought_to_any_size_and_stay_between_0_and_1():
    probs = torch.rand(2, 8, 8)
    for size in ((3, 5), (8, 8), (40, 17)):
        resized = at_size(probs, size)
        assert resized.shape == (2, *size)
        assert 0 <= resized.min() <= resized.max() <= 1


def test_classes_from_probabilities():
    assert to_classes(torch.tensor([[[0.3, 0.5, 0.7]]]), 0.5).tolist() == [[0, 1, 1]]
    assert to_classes(torch.tensor([[[0.2]], [[0.5]], [[0.3]]]), 0.5).tolist() == [[1]]
