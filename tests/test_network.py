"""What every network of the family does."""

import re

import pytest
import torch

from unet_cli.config.model import ModelConfig
from unet_cli.models import MODELS, build_model, defaults_of, resolved

HEAVY = ("transunet", "nnunet-resenc", "resnet50-unet")
SHARES = [0.9, 0.09, 0.01]
FLAT = [name for name in MODELS if not name.endswith("3d") and name not in HEAVY]


@pytest.mark.parametrize("name", [name for name in FLAT if name != "attention-oktay"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_fresh_heads_answer_with_the_shares_of_the_classes(name, num_classes):
    narrow = {"base_channels": 4} if "base_channels" in defaults_of(name) else {}
    model = build_model(resolved(ModelConfig(name=name, num_classes=num_classes, **narrow), 512))
    model.start_at(SHARES[:num_classes])
    biases = [value for key, value in model.named_parameters() if re.match(r"heads?\b.*bias", key)]
    assert len(biases) == len(model.head_weights)
    for bias in biases:
        if num_classes == 2:
            assert torch.sigmoid(bias).item() == pytest.approx(0.09 / 0.99, rel=1e-4)
        else:
            assert torch.softmax(bias, 0).tolist() == pytest.approx(SHARES, rel=1e-4)


def test_a_class_that_is_hardly_there_is_not_given_up():
    model = build_model(ModelConfig(base_channels=4, depth=2))
    model.start_at([1.0, 0.0])
    assert torch.sigmoid(model.head.bias).item() == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_cores_of_rare_objects_start_rarer_than_the_objects(num_classes):
    model = build_model(ModelConfig(base_channels=4, depth=2, num_classes=num_classes, cores=True))
    model.start_at(SHARES[:num_classes], cores=True)
    *classes, core = model.head.bias.detach()
    shares = torch.stack(classes).softmax(0).tolist() if num_classes > 2 else [torch.sigmoid(classes[0]).item()]
    assert shares == pytest.approx(SHARES if num_classes > 2 else [0.09 / 0.99], rel=1e-4)
    assert torch.sigmoid(core).item() == pytest.approx(0.45 * sum(SHARES[1:num_classes]), rel=1e-4)


def test_heads_that_are_added_up_stay():
    model = build_model(resolved(ModelConfig(name="attention-oktay", base_channels=4), 512))
    before = [head.bias.clone() for head in model.heads]
    model.start_at([0.9, 0.1])
    assert all(torch.equal(head.bias, bias) for head, bias in zip(model.heads, before, strict=True))


def test_heads_stay_where_no_class_is_rare():
    model = build_model(ModelConfig(base_channels=4, depth=2))
    before = model.head.bias.clone()
    model.start_at([0.75, 0.25])
    assert torch.equal(model.head.bias, before)
