"""What holds for every network for images: images of any size and number of channels, gradients everywhere, learning,
saving, compiling and exporting; at a small width where it has one."""

from dataclasses import replace

import pytest
import torch
from counting import count_pixels

from unet_cli.config.model import ModelConfig
from unet_cli.errors import UserError
from unet_cli.metrics.overlap import summarize
from unet_cli.models import MODELS, Fitted, build_model, defaults_of, parameter_count, resolved
from unet_cli.models.classes import to_classes
from unet_cli.models.fold import fold_batch_norm
from unet_cli.training.losses.loss import loss_for

FLAT = [name for name in MODELS if not name.endswith("3d")]
COARSE = "unet-dilated-published"  # whose answer for the smallest image is 4 x 4 pixels, stretched
# To compute with, and so only by hand; resnet34-unet is resnet18-unet with more of the same blocks.
HEAVY = ("transunet", "nnunet-resenc", "resnet50-unet", "convnext-tiny-unet", "resnet34-unet")
TRACED = ("unet", "unet-paper", "attention-oktay", "nnunet")  # padding, a margin, gates, several heads
OVERFIT_BY_HAND = (COARSE, "efficientnet-b0-unet", "resnet18-unet", "transunet-light", "unet")  # test_models has unet


def by_hand(*heavy: str) -> list[object]:
    """All for images; the heavy ones are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in heavy else []) for name in FLAT]


ALL = by_hand(*HEAVY)


def small(name: str, in_channels: int = 3, num_classes: int = 2, width: int = 4, size: int = 64) -> ModelConfig:
    width_taken = {"base_channels": width} if "base_channels" in defaults_of(name) else {}
    return resolved(ModelConfig(name=name, in_channels=in_channels, num_classes=num_classes, **width_taken), size)


def built(config: ModelConfig, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model(config)


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize(("channels", "size"), [(1, (65, 3)), (5, (256, 129))])
def test_an_image_of_any_size_gives_logits_of_its_size(name, channels, size):
    with torch.device("meta"):
        network = Fitted(build_model(small(name, channels, num_classes=4))).eval()
        assert network(torch.empty(2, channels, *size)).shape == (2, 4, *size)


@pytest.mark.parametrize("name", ALL)
def test_an_odd_size_is_computed_too(name):
    network = Fitted(built(small(name, num_classes=4))).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 37, 50)).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_a_side_that_does_not_suit_the_network_itself_is_refused(name):
    with torch.device("meta"):
        network = build_model(small(name)).eval()
    geometry = network.geometry
    side = geometry.side(1)
    assert side >= geometry.least
    with torch.device("meta"):
        network(torch.empty(1, 3, *[side] * network.spatial_dims))
        with pytest.raises(ValueError, match=r"\d"):
            network(torch.empty(1, 3, *[side - 1] * network.spatial_dims))


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_every_parameter(name):
    network = Fitted(built(small(name, num_classes=3)))
    with torch.no_grad():  # fresh ones may begin with residuals of 0, which hide what is behind
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    answer = network(torch.randn(2, 3, 64, 64))
    heads = answer if isinstance(answer, list) else [answer]
    weights = network.network.head_weights
    assert len(heads) == len(weights)
    assert sum(weights) == pytest.approx(1)
    target = torch.randint(3, (2, 64, 64))
    loss = loss_for("bce+dice", 3)
    loss.deep(heads, weights, target, loss.denominators(target)).backward()
    unreached = [name for name, one in network.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert not unreached
    silent = [name for name, one in network.named_parameters() if not one.grad.any()]
    assert len(silent) <= 2 * weights.count(0)  # weight and bias of a head that counts nothing


@pytest.mark.parametrize("name", ALL)
def test_checkpointing_gives_the_same_gradients(name):
    gradients = []
    for checkpointing in (False, True):
        network = built(small(name))
        network.gradient_checkpointing = checkpointing
        torch.manual_seed(1)  # of dropout
        answer = Fitted(network)(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
        sum(one.square().mean() for one in (answer if isinstance(answer, list) else [answer])).backward()
        gradients.append([one.grad for one in network.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_saved_and_loaded_it_answers_the_same(name):
    config = small(name)
    network, other = (built(config, seed).eval() for seed in (0, 1))
    image = torch.randn(1, 3, 64, 64)
    other.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(Fitted(network)(image), Fitted(other)(image))


@pytest.mark.parametrize("name", ALL)
def test_with_folded_batch_norm_it_answers_the_same(name):
    network = built(small(name))
    with torch.no_grad():
        network(torch.randn(2, 3, *[network.geometry.side(64)] * 2))  # running statistics that aren't 0 and 1
        network.eval()
        image = torch.randn(1, 3, 64, 64)
        assert torch.allclose(Fitted(network)(image), Fitted(fold_batch_norm(network))(image), atol=1e-3, rtol=1e-3)


def shallow(name: str) -> torch.nn.Module:
    """Of two levels, where they can be chosen: further ones are computed in the same way."""
    depth = {"depth": 2} if "depth" in defaults_of(name) else {}
    return Fitted(built(replace(small(name), **depth)).eval())


@pytest.mark.parametrize("name", by_hand(*(name for name in FLAT if name not in TRACED)))
def test_it_can_be_traced_whole(name):
    network, image = shallow(name), torch.randn(1, 3, 64, 64)
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.allclose(torch.compile(network, backend="eager", fullgraph=True)(image), network(image), atol=1e-5)


@pytest.mark.parametrize("name", by_hand(*HEAVY, "efficientnet-b0-unet"))
def test_it_can_be_exported(name):
    network, image = shallow(name), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(torch.export.export(network, (image,)).module()(image), network(image), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAT)
def test_it_compiles(name):
    torch._dynamo.reset()
    network = Fitted(built(small(name)).eval())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(torch.compile(network, dynamic=False)(image), network(image), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", by_hand(*HEAVY, *OVERFIT_BY_HAND))
def test_it_overfits_four_small_pictures(name):
    side, lr = 384 if name == COARSE else 64, 2e-3 * MODELS[name].lr_factor
    config = small(name, in_channels=1, width=8, size=side)
    network = Fitted(built(config))
    optimizer = torch.optim.Adam(network.parameters(), lr=min(4 * lr, 2e-3))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    places = [(20, 20, 9), (40, 25, 14), (30, 44, 11), (18, 40, 12)]  # of discs, in 64ths of the side
    mask = torch.stack(
        [(torch.hypot(rows - y, columns - x) < r).long() for y, x, r in torch.tensor(places) * side / 64]
    )
    image = mask[:, None].float() * 2 - 1 + 0.5 * torch.randn(4, 1, side, side)
    loss = loss_for("bce+dice", 2)
    dice = 0.0
    for step in range(400):
        network.train()
        answer = network(image)
        optimizer.zero_grad()
        heads = answer if isinstance(answer, list) else [answer]
        loss.deep(heads, network.network.head_weights, mask, loss.denominators(mask)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 9:
            network.eval()
            with torch.inference_mode():
                dice = summarize(count_pixels(to_classes(network(image)), mask, 2))["dice"]
            if dice > 0.95:
                return
    pytest.fail(f"Dice {dice:.3f} after 400 steps")


def test_a_setting_that_a_network_does_not_take_is_refused_by_name():
    with pytest.raises(UserError, match="--norm doesn't apply to unet-paper, which takes --width, --depth, --dropout"):
        resolved(ModelConfig(name="unet-paper", norm="batch"), 512)
    with pytest.raises(UserError, match="--width doesn't apply to resnet18-unet, which takes --dropout"):
        resolved(ModelConfig(name="resnet18-unet", base_channels=8), 512)


def test_a_near_name_is_suggested():
    with pytest.raises(UserError, match=r"no network 'atention': did you mean attention\?"):
        build_model(ModelConfig(name="atention"))


def test_what_is_not_said_is_as_usual():
    config = resolved(ModelConfig(name="unet", depth=3), 512)
    assert (config.base_channels, config.depth, config.norm, config.deep_supervision) == (64, 3, "batch", None)
    assert resolved(ModelConfig(name="nnunet"), 512).depth == 7
    assert resolved(ModelConfig(name="nnunet"), 256).depth == 6
    assert resolved(ModelConfig(name="nnunet", depth=4), 256).depth == 4


@pytest.mark.parametrize("name", MODELS)
def test_a_resolved_network_is_the_usual_one(name):
    with torch.device("meta"):
        usual, spelled = build_model(ModelConfig(name=name)), build_model(resolved(ModelConfig(name=name), 512))
    assert parameter_count(usual) == parameter_count(spelled)
