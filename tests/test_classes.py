"""Which class a pixel is of, by hand."""

import torch

from unet_cli.models.classes import to_classes


def test_of_one_logit_foreground_is_from_0_on_as_it_is_from_0_5_on_of_the_probability():
    logits = torch.tensor([-0.1, 0.0, 0.1]).view(1, 1, 1, 3)
    assert to_classes(logits).tolist() == to_classes(logits.sigmoid(), 0.5).tolist() == [[[0, 1, 1]]]
    assert to_classes(logits.sigmoid(), 0.51).tolist() == [[[0, 0, 1]]]


def test_of_several_the_highest_is_the_class_and_of_equals_the_first():
    logits = torch.tensor([[3.0, 1.0, 4.0], [2.0, 5.0, 5.0]]).view(2, 3, 1, 1, 1)
    classes = to_classes(logits)
    assert classes.dtype == torch.uint8
    assert classes.tolist() == [[[[2]]], [[[1]]]]
