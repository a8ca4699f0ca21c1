"""UNet++: published sizes whole and pruned, which heads answer when, and that pruning changes no answer."""

import pytest
import torch
from torch import nn

from unet_cli.errors import UserError
from unet_cli.models.unet_plus_plus import UNetPlusPlus


def parameters_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_count_for_one_channel_one_output_and_four_heads():
    with torch.device("meta"):
        model = UNetPlusPlus(1, 1)
    assert parameters_of(model) == 9_041_700


@pytest.mark.parametrize(("heads", "left"), [(4, 9_041_700 - 3 * 33), (3, 2_204_961), (2, 511_105), (1, 100_961)])
def test_parameter_count_of_what_pruning_leaves(heads, left):
    with torch.device("meta"):
        model = UNetPlusPlus(1, 1)
        model.prune(heads)
    assert parameters_of(model) == left


def test_a_node_gets_all_nodes_before_it_and_the_one_below():
    """Channels of X(i, j)'s first convolution: j skips and the upsampled, each of the level's width."""
    model = UNetPlusPlus(1, 1, base_channels=4, depth=3)
    assert {name: (node.convs[0].in_channels, node.upsample.in_channels) for name, node in model.nodes.items()} == {
        "0_1": (8, 8), "1_1": (16, 16), "2_1": (32, 32), "0_2": (12, 8), "1_2": (24, 16), "0_3": (16, 8),
    }  # fmt: skip


def test_training_has_every_head_the_deepest_first_and_prediction_their_mean():
    torch.manual_seed(0)
    model = UNetPlusPlus(1, 2, base_channels=2)
    for column, head in model.heads.items():
        nn.init.zeros_(head.weight)
        nn.init.constant_(head.bias, float(column))
    image = torch.randn(1, 1, 16, 32)
    logits = model.train()(image)
    assert [head.shape for head in logits] == [(1, 2, 16, 32)] * 4
    assert [head.mean().item() for head in logits] == [4, 3, 2, 1]
    assert model.head_weights == (0.25,) * 4
    assert torch.equal(model.eval()(image), torch.full((1, 2, 16, 32), 2.5))


def test_without_deep_supervision_there_is_one_head_in_training_too():
    model = UNetPlusPlus(1, 1, base_channels=2, deep_supervision=False)
    assert list(model.heads) == ["4"]
    assert model.head_weights == (1.0,)
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(model(image), model.eval()(image))


@pytest.mark.parametrize(("heads", "norm"), [(1, "batch"), (2, "none"), (3, "batch"), (4, "none")])
def test_a_pruned_network_answers_as_that_head_does_in_the_whole_one(heads, norm):
    torch.manual_seed(0)
    model = UNetPlusPlus(1, 1, base_channels=4, norm=norm).eval()
    image, answers = torch.randn(1, 1, 32, 48), []
    model.heads[str(heads)].register_forward_hook(lambda _module, _inputs, logits: answers.append(logits))
    model(image)
    model.prune(heads)
    assert torch.equal(model(image), answers[0])
    assert torch.equal(model.train()(image), answers[0]) or norm == "batch"
    assert model.head_weights == (1.0,)


@pytest.mark.parametrize("heads", [1, 2, 3, 4])
def test_what_is_cut_is_not_computed(heads):
    """X(0, heads) needs the nodes of a triangle: heads + 1 in the encoder, and heads * (heads + 1) / 2 beyond."""
    model = UNetPlusPlus(1, 1, base_channels=2).eval()
    run = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_call, name=name: run.append(name))
    model.prune(heads)
    model(torch.randn(1, 1, 16, 16))
    assert len(run) == 2 * (heads + 1) + heads * (heads + 1) + 1
    assert set(run) == {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def test_pruning_keeps_the_sides_and_shortens_the_reach():
    model = UNetPlusPlus(1, 1, base_channels=2)
    before = model.geometry
    model.prune(1)
    assert (model.geometry.multiple, model.geometry.stride) == (before.multiple, before.stride) == (16, 16)
    assert (before.reach, model.geometry.reach) == (107, 9)


@pytest.mark.parametrize(("depth", "heads"), [(2, None), (4, 2)])
def test_padding_is_felt_no_further_than_the_reach(depth, heads):
    torch.manual_seed(0)
    model = UNetPlusPlus(1, 1, base_channels=2, depth=depth).double().eval()
    if heads:
        model.prune(heads)
    geometry = model.geometry
    cut, side = geometry.stride, geometry.side(3 * geometry.reach)
    image = torch.randn(1, 1, side + 2 * cut, side + 2 * cut, dtype=torch.float64)
    with torch.no_grad():
        whole = model(image)[..., cut:-cut, cut:-cut]
        differs = (model(image[..., cut:-cut, cut:-cut]) - whole).abs() > 1e-12
    inner = differs[..., geometry.reach : -geometry.reach, geometry.reach : -geometry.reach]
    assert inner.numel()
    assert not inner.any()
    assert differs.any()


def test_pruning_a_network_trained_without_deep_supervision_is_refused():
    model = UNetPlusPlus(1, 1, base_channels=2, deep_supervision=False)
    with pytest.raises(UserError, match="--prune needs deep supervision"):
        model.prune(4)


@pytest.mark.parametrize("heads", [0, 5, -1])
def test_pruning_to_a_head_that_is_not_there_is_refused(heads):
    with pytest.raises(UserError, match=rf"--prune {heads}: .*1, 2, 3, 4"):
        UNetPlusPlus(1, 1, base_channels=2).prune(heads)


def test_a_pruned_network_has_no_other_head_to_be_pruned_to():
    model = UNetPlusPlus(1, 1, base_channels=2)
    model.prune(3)
    with pytest.raises(UserError, match=r"--prune 2: .* it has 3"):
        model.prune(2)


@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
def test_a_norm_replaces_the_bias(norm):
    convs = UNetPlusPlus(1, 1, base_channels=2, norm=norm).nodes["0_1"].convs
    assert convs[0].bias is None
    assert UNetPlusPlus(1, 1, base_channels=2).nodes["0_1"].convs[0].bias is not None


def test_the_initial_weights_keep_the_signal_through_all_nodes():
    torch.manual_seed(0)
    model = UNetPlusPlus(3, 1, base_channels=32)
    squares = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _module, _inputs, output: squares.append(output.square().mean().item()))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert len(squares) == 30
    assert all(0.1 < square < 10 for square in squares)


def test_sides_that_are_no_multiples_of_the_poolings_are_refused():
    with pytest.raises(ValueError, match="40x32 pixels.*a multiple of 16"):
        UNetPlusPlus(1, 1, base_channels=2)(torch.randn(1, 1, 32, 40))
