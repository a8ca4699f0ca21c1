"""What holds for every network for volumes, at a small width: volumes of any size, axes of longer voxels, equivariance,
learning, folding, tracing; and what distinguishes them, counted by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn
from volumes import with_statistics

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Inference
from unet_cli.config.training import TrainConfig
from unet_cli.data.labels import LabelMap
from unet_cli.inference.member import WithAttentionMaps, make_member
from unet_cli.models import MODELS, Fitted, Network, build_model, defaults_of, parameter_count, resolved
from unet_cli.models.attention import attention3d
from unet_cli.models.cost import multiply_adds
from unet_cli.models.fold import fold_batch_norm
from unet_cli.models.nnunet import nnunet3d, nnunet_resenc3d
from unet_cli.models.resunet import resunet3d
from unet_cli.system.console import Console
from unet_cli.system.device import Compute
from unet_cli.system.distributed import World
from unet_cli.training.batch_size import activation_bytes
from unet_cli.training.losses.loss import loss_for
from unet_cli.training.step import Learner

VOLUMETRIC = [name for name in MODELS if name.endswith("3d")]
ALL = pytest.mark.parametrize("name", VOLUMETRIC)
FLAT = pytest.mark.parametrize("flat", [(0, 0, 0), (1, 0, 0), (2, 0, 1)])


def small(name: str, flat: tuple[int, ...] = (0, 0, 0), **settings: object) -> ModelConfig:
    settings = {"in_channels": 1, "base_channels": 2, "depth": 2} | settings
    return resolved(ModelConfig(name=name, flat=flat, **settings), 64)


def built(config: ModelConfig) -> Network:
    torch.manual_seed(0)
    return build_model(config)


def test_a_network_for_volumes_is_named_so():
    with torch.device("meta"):
        dims = {name: build_model(ModelConfig(name=name)).spatial_dims for name in MODELS}
    assert {name for name, count in dims.items() if count == 3} == set(VOLUMETRIC)
    assert all(defaults_of(name)["flat"] == (0, 0, 0) for name in VOLUMETRIC)


@ALL
@FLAT
@pytest.mark.parametrize("size", [(1, 9, 17), (7, 5, 12), (10, 16, 3)])
def test_logits_have_the_size_of_the_volume(name, flat, size):
    network = Fitted(built(small(name, flat, num_classes=4))).eval()
    with torch.inference_mode():
        logits = network(torch.randn(2, 1, *size))
    assert logits.shape == (2, 4, *size)
    assert logits.isfinite().all()


@ALL
def test_the_smallest_volume_of_each_axis_is_taken_and_a_smaller_one_refused(name):
    network = built(small(name, (1, 0, 0))).eval()
    sides = [network.geometry.along(axis).side(1) for axis in range(3)]
    assert sides[0] < sides[1]
    network(torch.randn(1, 1, *sides))
    with pytest.raises(ValueError, match="its depth has to be a multiple of 2"):
        network(torch.randn(1, 1, sides[0] - 1, *sides[1:]))


@ALL
@pytest.mark.parametrize("dim", [2, 3, 4])
def test_moved_by_the_stride_along_an_axis_the_answer_moves_with_the_volume(name, dim):
    model = with_statistics(built(small(name, (1, 0, 0))))
    axis = model.geometry.along(dim - 2)
    if name.startswith("nnunet"):  # instance norm sees the whole volume
        assert axis.reach is None
        return
    assert axis.stride == (2 if dim == 2 else 4)
    sides = [8, 8, 8]
    sides[dim - 2] = 80
    volume = torch.randn(1, 1, *sides, dtype=torch.float64)
    length = 80 - axis.stride  # of both parts, a stride apart
    with torch.no_grad():
        start = model(volume.narrow(dim, 0, length)).narrow(dim, axis.stride, length - axis.stride)
        moved = model(volume.narrow(dim, axis.stride, length)).narrow(dim, 0, length - axis.stride)
    inside = slice(axis.reach, length - axis.stride - axis.reach)
    start, moved = start.movedim(dim, -1), moved.movedim(dim, -1)
    assert torch.allclose(start[..., inside], moved[..., inside], atol=1e-12)
    assert not torch.allclose(start, moved, atol=1e-12)  # at the border, padding is felt


@ALL
@pytest.mark.parametrize("flat", [(0, 0, 0), (1, 0, 0)])
def test_a_step_lowers_the_loss_and_reaches_every_parameter(name, flat):
    network = Fitted(built(small(name, flat, base_channels=4)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    volume, loss = torch.randn(2, 1, 5, 16, 18), loss_for("bce+dice", 2)
    mask = (volume[:, 0] > 0).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        answer = network(volume)
        heads = answer if isinstance(answer, list) else [answer]
        optimizer.zero_grad()
        losses.append(loss.deep(heads, network.network.head_weights, mask, loss.denominators(mask)))
        losses[-1].backward()
        optimizer.step()
    assert losses[1] < losses[0]
    silent = [name for name, one in network.named_parameters() if not one.grad.any()]
    assert len(silent) <= 2 * network.network.head_weights.count(0)


@ALL
def test_checkpointing_keeps_the_gradients(name):
    gradients = []
    for checkpointing in (False, True):
        network = built(small(name))
        network.gradient_checkpointing = checkpointing
        answer = Fitted(network)(torch.randn(1, 1, 8, 8, 12, generator=torch.Generator().manual_seed(2)))
        sum(one.square().mean() for one in (answer if isinstance(answer, list) else [answer])).backward()
        gradients.append([one.grad for one in network.parameters()])
    assert all(torch.allclose(*pair, atol=1e-6, rtol=1e-4) for pair in zip(*gradients, strict=True))


@ALL
def test_batch_norm_is_folded_exported_and_traced(name):
    network = with_statistics(built(small(name, (1, 0, 0))))
    folded = Fitted(fold_batch_norm(network))
    volume = torch.randn(1, 1, 5, 8, 9, dtype=torch.float64)
    torch._dynamo.reset()
    with torch.no_grad():
        wanted = Fitted(network)(volume)
        assert torch.allclose(folded(volume), wanted)
        assert torch.allclose(torch.export.export(folded, (volume,)).module()(volume), wanted)
        assert torch.allclose(torch.compile(folded, backend="eager", fullgraph=True)(volume), wanted)
    # In a residual unit a convolution follows its norm: only the second norm of each can be folded.
    left = sum(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
    assert left == (4 if name == "resunet3d" else 0)


@ALL
def test_cost_and_memory_are_known_before_anything_is_computed(name):
    config = small(name, (1, 0, 0))
    with torch.device("meta"):
        network = build_model(config)
    cube, slab = (multiply_adds(network, 1, (depth, 32, 32)) for depth in (32, 16))
    assert cube == 2 * slab
    assert activation_bytes(config, (1, 16, 32, 32)) == pytest.approx(
        activation_bytes(config, (1, 32, 32, 32)) / 2, rel=0.01
    )


@ALL
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_it_is_trained_in_either_layout(name, precision, channels_last):
    compute = Compute(torch.device("cpu"), precision, channels_last)
    network, config = built(small(name, (1, 0, 0))), TrainConfig(data=Path("data"), model=name)
    learner = Learner(network, loss_for("bce+dice", 2), config, compute, World(), Console(quiet=True), micro_batch=1)
    volume = torch.randn(2, 1, 6, 9, 8)
    loss = learner.train_step(volume, (volume[:, 0] > 0).long(), 2, lr=1e-3)
    assert 0 < loss < 10
    assert learner.logits(volume).shape == (2, 1, 6, 9, 8)
    kernel = max((one for one in network.parameters()), key=torch.Tensor.numel)
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d) is channels_last


@ALL
@pytest.mark.parametrize("channels_last", [True, False])
def test_prepared_for_prediction_it_answers_the_same_in_either_layout(name, channels_last):
    config = small(name, (1, 0, 0), in_channels=3)
    network = built(config).eval()
    preprocessing = Preprocessing(
        size=16, in_channels=3, dtype="uint8", mean=(0.0,) * 3, std=(1.0,) * 3, pages="slices", patch=(4, 16, 16)
    )
    labels = LabelMap((0, 255), ("background", "foreground"))
    checkpoint = Checkpoint(config, preprocessing, labels, network.state_dict())
    compute = Compute(torch.device("cpu"), "float32", channels_last)
    settings = Inference(attention_maps=name == "attention3d")
    member = make_member(checkpoint, compute, settings, "tile")
    volume = torch.randn(1, 3, 4, 16, 16)
    with torch.inference_mode():
        answer = member.model(volume.contiguous(memory_format=compute.memory_format(3)))
        assert torch.allclose(answer[:, :1], Fitted(network)(volume), atol=1e-5)
    assert member.gates == answer.shape[1] - 1 == (2 if name == "attention3d" else 0)


def test_parameters_of_the_residual_network_for_volumes():
    with torch.device("meta"):
        model = resunet3d(1, 1)
    convs = (1 + 32) * 32 + (32 + 64) * 64 + (64 + 128) * 128 + (128 + 256) * 256
    convs += (256 + 128 + 128) * 128 + (128 + 64 + 64) * 64 + (64 + 32 + 32) * 32
    shortcuts = 1 * 32 + 32 * 64 + 64 * 128 + 128 * 256 + (256 + 128) * 128 + (128 + 64) * 64 + (64 + 32) * 32
    norms = 32 + (32 + 64) + (64 + 128) + (128 + 256) + (256 + 128 + 128) + (128 + 64 + 64) + (64 + 32 + 32)
    assert parameter_count(model) == 27 * convs + shortcuts + 2 * norms + 32 + 1


def test_flat_levels_have_kernels_and_strides_of_one_in_every_network():
    resunet = resunet3d(1, 1, base_channels=2, depth=2, flat=(1, 0, 0))
    assert [unit.residual[-1].kernel_size for unit in (resunet.stem, *resunet.encoder)] == [(1, 3, 3), *[(3, 3, 3)] * 2]
    assert [unit.stride for unit in resunet.encoder] == [(1, 2, 2), (2, 2, 2)]
    attention = attention3d(1, 1, base_channels=2, depth=2, flat=(1, 0, 0))
    assert [level[0].kernel_size for level in attention.encoder] == [(1, 3, 3), *[(3, 3, 3)] * 2]
    assert attention.strides == [(1, 2, 2), (2, 2, 2)]
    plan = nnunet3d(1, 2, depth=4, flat=(2, 0, 0))
    assert [stage[0].kernel_size for stage in plan.encoder] == [*[(1, 3, 3)] * 2, *[(3, 3, 3)] * 3]
    assert [stage[0].stride for stage in plan.encoder] == [(1, 1, 1), *[(1, 2, 2)] * 2, *[(2, 2, 2)] * 2]
    assert [stage[0].out_channels for stage in plan.encoder] == [32, 64, 128, 256, 320]
    residual = nnunet_resenc3d(1, 2, base_channels=2, depth=2, flat=(1, 0, 0))
    blocks = [stage[-1] for stage in residual.encoder]
    assert [block.convs[0].kernel_size for block in blocks] == [(1, 3, 3), *[(3, 3, 3)] * 2]
    assert [stage[0].shortcut[0].kernel_size for stage in residual.encoder[1:]] == [(1, 2, 2), (2, 2, 2)]
    assert [len(stage) for stage in residual.encoder] == [2, 3, 4]  # with the first convolution


def test_the_heads_of_the_plan_keep_an_axis_that_its_levels_keep():
    model = nnunet3d(1, 2, base_channels=2, depth=3, flat=(1, 0, 0))
    logits = Fitted(model)(torch.randn(1, 1, 6, 15, 16))
    assert [tuple(one.shape[2:]) for one in logits] == [(6, 15, 16), (6, 8, 8), (3, 4, 4)]


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_attention_for_volumes_has_a_map_for_each_gate(norm):
    network = built(small("attention3d", (1, 0, 0), norm=norm)).eval()
    volume = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        logits, maps = network.with_attention(volume)
        answer = WithAttentionMaps(network)(volume)
    assert [tuple(one.shape) for one in maps] == [(1, 1, 8, 16, 16), (1, 1, 8, 8, 8)]
    assert answer.shape == (1, 3, 8, 16, 16)
    assert torch.equal(answer[:, :2], torch.cat([logits, maps[0]], dim=1))
