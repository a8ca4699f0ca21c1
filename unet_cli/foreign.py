"""Weights of other tools, as checkpoints of ours: tensors get other names, and the function stays as it is.

Known are the networks of milesial/Pytorch-UNet, and `Unet` of segmentation_models_pytorch with a ResNet encoder.
Channels, classes and upsampling are found from the tensors. Images are resized bilinearly, where
Pytorch-UNet's way is bicubic.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.config.data import Preprocessing
from unet_cli.config.model import DEFAULT_SIZE, ModelConfig
from unet_cli.data.labels import LabelMap
from unet_cli.errors import UserError
from unet_cli.models import resolved, weightless
from unet_cli.models.blocks import DoubleConv
from unet_cli.system.console import few, sides

MILESIAL, SMP = "milesial/Pytorch-UNet", "segmentation_models_pytorch.Unet"
MILESIAL_SCALE = 0.5  # of its train.py and predict.py unless told otherwise
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels from 0 to 1, red first
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {  # blocks of each stage, and whether they are bottlenecks
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
}


@dataclass(frozen=True)
class Foreign:
    """What a checkpoint needs, as Checkpoint has it."""

    model: ModelConfig
    preprocessing: Preprocessing
    labels: LabelMap
    weights: dict[str, Tensor]
    data: list[str]


def recognised(content: dict[Any, Any]) -> Foreign | None:
    """What a checkpoint needs, from a state dict or what holds one under 'state_dict' or 'model_state_dict'; None if it
    is unknown.

    All keys may begin with 'module.'. What the file doesn't hold, the factor that images were resized by, is what is
    usual with the tool. Raises UserError, without the file's name, where it is nearly a network that is known.
    """
    state = next((content[key] for key in ("state_dict", "model_state_dict") if key in content), content)
    if not isinstance(state, dict):
        return None
    mask_values = state.get("mask_values", content.get("mask_values"))
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if "outc.conv.weight" in tensors and any(name.startswith("inc.") for name in tensors):
        return _from_milesial(_plain(tensors, "outc.conv.weight", MILESIAL), mask_values)
    if any(name.startswith("encoder.") for name in tensors) and "segmentation_head.0.weight" in tensors:
        return _from_smp(_plain(tensors, "segmentation_head.0.weight", SMP))
    return None


def _plain(state: dict[str, Tensor], head: str, tool: str) -> dict[str, Tensor]:
    """The same in float32. Raises UserError at tensors that no trained network has."""
    for name, tensor in state.items():
        counts = name.endswith("num_batches_tracked")
        if tensor.layout != torch.strided or tensor.is_meta or not (tensor.is_floating_point() or counts):
            raise _unlike(tool, f"{name} is a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}")
        if not tensor.numel() or not bool(torch.isfinite(tensor).all()):
            raise _unlike(tool, f"{name} holds {'values that are not finite' if tensor.numel() else 'nothing'}")
    _tensor(state, head, 4, tool)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _from_milesial(state: dict[str, Tensor], mask_values: object) -> Foreign:
    """Source: unet/unet_model.py and unet_parts.py of that repository, in its forms since the end of 2019.

    Its older networks are narrower in places: convolutions of bilinear decoders had no middle width of their own, and
    the bottoms of transposed ones 512 channels. Ours has more channels there, which are filled so that they stay zero.
    """
    config = _milesial_config(state)
    weights = _taken(_without_biases(state), _milesial_shapes(state, config), _milesial_name, MILESIAL)
    labels, note = _labels(len(state["outc.conv.weight"]), mask_values)
    return Foreign(
        model=config,
        preprocessing=_preprocessing(config, (0.0,), (1.0,), MILESIAL_SCALE),
        labels=labels,
        weights=_widened(_with_one_logit(weights), _shapes(config)),
        data=[f"not known: imported from {MILESIAL}", *note],
    )


def _milesial_config(state: dict[str, Tensor]) -> ModelConfig:
    first = _tensor(state, "inc.double_conv.0.weight", 4, MILESIAL)
    if not _downs(state):
        raise _unlike(MILESIAL, "down1.maxpool_conv.1.double_conv.0.weight is missing")
    config = ModelConfig(
        name="unet",
        in_channels=first.shape[1],
        num_classes=max(2, len(state["outc.conv.weight"])),
        base_channels=first.shape[0],
        depth=len(_downs(state)),
        upsampling="transposed" if "up1.up.weight" in state else "bilinear",
        norm="batch",
    )
    return resolved(config, DEFAULT_SIZE)


def _downs(state: dict[str, Tensor]) -> list[str]:
    """The first convolution of each level below the first."""
    return [name for name in state if re.fullmatch(r"down\d+\.maxpool_conv\.1\.double_conv\.0\.weight", name)]


def _milesial_shapes(state: dict[str, Tensor], config: ModelConfig) -> dict[str, torch.Size]:
    """Of its tensors, by our names: skips are as wide as ours, and the rest is as wide as its first tensors say."""
    base_channels, depth = len(state["inc.double_conv.0.weight"]), len(_downs(state))

    def width(name: str, dim: int = 0) -> int:
        return _tensor(state, _milesial_name(name), 4, MILESIAL).shape[dim]

    skips = [base_channels * 2**level for level in range(depth)]
    below = width(f"encoder.{depth - 1}.3.weight")
    ins, outs = [config.in_channels, *skips], [*skips, below]
    with torch.device("meta"):
        blocks: dict[str, nn.Module] = {
            f"encoder.{level - 1}" if level else "stem": DoubleConv(ins[level], outs[level], "batch")
            for level in range(depth + 1)
        }
        for index, skip in enumerate(reversed(skips)):
            raised = below
            if config.upsampling == "transposed":
                raised = width(f"decoder.{index}.upsample.weight", 1)
                blocks[f"decoder.{index}.upsample"] = nn.ConvTranspose2d(below, raised, 2, stride=2)
            middle, out = (width(f"decoder.{index}.convs.{conv}.weight") for conv in (0, 3))
            blocks[f"decoder.{index}.convs"] = DoubleConv(skip + raised, out, "batch", middle)
            below = out
        blocks["head"] = nn.Conv2d(below, len(state["outc.conv.weight"]), 1)
    return {
        f"{name}.{key}": tensor.shape for name, block in blocks.items() for key, tensor in block.state_dict().items()
    }


def _milesial_name(ours: str) -> str:
    for pattern, theirs in (
        (r"stem\.", "inc.double_conv."),
        (r"encoder\.(\d+)\.", "down{}.maxpool_conv.1.double_conv."),
        (r"decoder\.(\d+)\.upsample\.", "up{}.up."),
        (r"decoder\.(\d+)\.convs\.", "up{}.conv.double_conv."),
        (r"head\.", "outc.conv."),
    ):
        if found := re.match(pattern, ours):
            return theirs.format(*(int(number) + 1 for number in found.groups())) + ours[found.end() :]
    raise AssertionError(ours)


def _without_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With the biases of convolutions, which its networks have, folded into the batch norms behind them.

    In evaluation a batch norm subtracts its running mean; what a bias adds can as well be subtracted from that.
    """
    state = dict(state)
    for found in [re.fullmatch(r"(.+\.double_conv)\.([03])\.bias", name) for name in state]:
        mean = f"{found[1]}.{int(found[2]) + 1}.running_mean" if found else ""
        if found and mean in state and state[mean].shape == state[found[0]].shape:
            state[mean] = state[mean] - state.pop(found[0])
    return state


def _widened(weights: dict[str, Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """With further channels that are zero behind every convolution and norm, and that nothing reads.

    Only what follows the bottom may be narrower: in a concatenation the skip comes first, and then has its full width.
    """
    widened = {}
    for name, tensor in weights.items():
        missing = [want - have for have, want in zip(tensor.shape, shapes[name], strict=True)]
        if min(missing, default=0) < 0:
            raise _unlike(MILESIAL, f"{_milesial_name(name)} is {sides(tensor.shape)} and not {sides(shapes[name])}")
        after = [part for count in reversed(missing) for part in (0, count)]
        is_divisor_or_factor = tensor.ndim == 1 and name.endswith(("running_var", "weight"))
        widened[name] = F.pad(tensor, after, value=float(is_divisor_or_factor)) if any(after) else tensor
    return widened


def _from_smp(state: dict[str, Tensor]) -> Foreign:
    """Source: segmentation_models_pytorch 0.3 to 0.5, decoders/unet, with its usual decoder_channels."""
    _refuse_other_decoders(state)
    classes = len(state["segmentation_head.0.weight"])
    config = ModelConfig(
        name=f"{_smp_encoder(state)}-unet",
        in_channels=_tensor(state, "encoder.conv1.weight", 4, SMP).shape[1],
        num_classes=max(2, classes),
    )
    config = resolved(config, DEFAULT_SIZE)
    shapes = _shapes(config)
    for name in ("head.weight", "head.bias"):
        shapes[name] = torch.Size([classes, *shapes[name][1:]])
    weights = _with_one_logit(_taken(state, shapes, _smp_name, SMP))
    # Of channels that aren't red, green and blue, ImageNet knows nothing: they are taken as gray.
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if config.in_channels == 3 else ((0.449,), (0.226,))
    return Foreign(
        model=config,
        preprocessing=_preprocessing(config, mean, std, 1.0),
        labels=_labels(classes, None)[0],
        weights=weights,
        data=[f"not known: imported from {SMP}"],
    )


def _smp_encoder(state: dict[str, Tensor]) -> str:
    """The ResNet's name. Raises UserError at another encoder."""
    stages = [re.compile(rf"encoder\.layer{stage}\.\d+\.conv1\.weight") for stage in range(1, 5)]
    blocks = tuple(sum(stage.fullmatch(name) is not None for name in state) for stage in stages)
    name = RESNETS.get((blocks, "encoder.layer1.0.conv3.weight" in state))
    if name is None or "encoder.conv1.weight" not in state:
        is_resnet = "encoder.conv1.weight" in state and all(blocks)
        found = f"a ResNet of {'-'.join(map(str, blocks))} blocks" if is_resnet else "not a ResNet"
        raise _unlike(SMP, f"its encoder is {found}", f"{', '.join(RESNETS.values())} can be imported")
    return name


def _refuse_other_decoders(state: dict[str, Tensor]) -> None:
    """Raises UserError that names the first that isn't in the decoder of smp.Unet as it is built unless told else."""
    parts = [name for name in state if name.startswith("decoder.")]
    attention = [name for name in parts if ".attention" in name]
    other = [name for name in parts if not re.match(r"decoder\.blocks\.\d+\.(conv[12]|attention[12])\.", name)]
    numbers = {name.split(".")[2] for name in parts if name not in other}
    if other or not parts:
        raise _unlike(SMP, f"its decoder is of another architecture ({few(other) or 'none'})")
    if attention:
        raise _unlike(SMP, f"its decoder has attention (decoder_attention_type, {attention[0]})")
    if len(numbers) != 5:
        raise _unlike(SMP, f"its decoder has {len(numbers)} blocks and not 5 (encoder_depth)")


def _smp_name(ours: str) -> str:
    return re.sub(r"^decoder\.", "decoder.blocks.", re.sub(r"^head\.", "segmentation_head.0.", ours))


def _taken(
    state: dict[str, Tensor], shapes: dict[str, torch.Size], their_name: Callable[[str], str], tool: str
) -> dict[str, Tensor]:
    """The tensors by our names. Raises UserError unless these are all that there should be, and of these shapes."""
    theirs = {name: their_name(name) for name in shapes}
    missing = [name for name in theirs.values() if name not in state]
    others = sorted(set(state) - set(theirs.values()))
    if missing:
        raise _unlike(tool, f"{few(missing)} is missing")
    if others:
        raise _unlike(tool, f"{few(others)} is not part of that")
    for ours, name in theirs.items():
        if state[name].shape != shapes[ours]:
            raise _unlike(tool, f"{name} is {sides(state[name].shape)} and not {sides(shapes[ours])}")
    return {ours: state[name] for ours, name in theirs.items()}


def _with_one_logit(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of two classes keep the difference of their logits, whose sigmoid is the second one's softmax."""
    pairs = {name: weights[name] for name in ("head.weight", "head.bias") if len(weights[name]) == 2}
    return weights | {name: tensor[1:] - tensor[:1] for name, tensor in pairs.items()}


def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weightless(config).state_dict().items()}


def _preprocessing(config: ModelConfig, mean: tuple[float, ...], std: tuple[float, ...], scale: float) -> Preprocessing:
    """mean, std: of pixels from 0 to 1, one for each channel or for all."""
    mean, std = (tuple(255 * value for value in part * (config.in_channels // len(part))) for part in (mean, std))
    return Preprocessing(
        size=DEFAULT_SIZE,
        in_channels=config.in_channels,
        dtype="uint8",
        mean=mean,
        std=std,
        keep_alpha=config.in_channels in (2, 4),
        scale=scale,
    )


def _labels(logits: int, mask_values: object) -> tuple[LabelMap, list[str]]:
    """What the values of masks are, and a note where the file says it in a way that doesn't fit its classes."""
    classes = max(2, logits)
    usual = (0, 255) if logits == 1 else tuple(range(classes))
    given = mask_values if isinstance(mask_values, list) else []
    is_colour = any(isinstance(value, list) for value in given)
    values = tuple(_colour(value) if is_colour else _number(value) for value in given)
    known = tuple(value for value in values if value is not None)
    note = []
    if len(set(known)) != classes or len(known) != len(values):
        note = [f"its mask_values don't name its {classes} classes: they are numbered"] if given else []
        known, is_colour = usual, False
    names = [f"#{value:06x}" if is_colour else str(value) for value in known]
    names = names if classes > 2 else ["background", "foreground"]
    return LabelMap(known, tuple(names), "colours" if is_colour else "values"), note


def _number(value: object) -> int | None:
    """A mask value as a whole number that masks can be written with."""
    return int(value) if isinstance(value, (int, float)) and value in range(2**16) else None


def _colour(value: object) -> int | None:
    """[r, g, b] or [r, g, b, alpha] as 0xRRGGBB."""
    parts = [_number(part) for part in value] if isinstance(value, list) and len(value) in (3, 4) else []
    colour = bytes(part for part in parts[:3] if part is not None and part < 256)
    return int.from_bytes(colour) if len(colour) == 3 else None


def _tensor(state: dict[str, Tensor], name: str, dims: int, tool: str) -> Tensor:
    if name not in state:
        raise _unlike(tool, f"{name} is missing")
    if state[name].ndim != dims:
        raise _unlike(tool, f"{name} has {state[name].ndim} dimensions and not {dims}")
    return state[name]


def _unlike(
    tool: str, why: str, advice: str = "only what its own code builds, unchanged, can be imported"
) -> UserError:
    return UserError(f"holds weights that look like those of {tool}, but {why}: {advice}")
