"""U-Nets with the encoder of an image classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.errors import UserError
from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network
from unet_cli.system.console import few, sides

DECODER_WIDTHS = (256, 128, 64, 32, 16)


@dataclass(frozen=True)
class Encoder:
    """The feature extractor of a torchvision classifier.

    taps: name and channels of the last module at each stride, finest first: 2 (where there is one), 4, 8, 16 and 32.
    prefix: of its modules' names in the classifier. head: prefixes of the names that only classify. draw: initialiser
    of its convolutions.
    """

    taps: dict[str, int]
    prefix: str
    head: tuple[str, ...]
    draw: Callable[[Tensor], Tensor]


def _resnet(*widths: int) -> Encoder:
    taps = dict(zip(("relu", "layer1", "layer2", "layer3", "layer4"), widths, strict=True))
    return Encoder(taps, "", ("fc.",), partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"))


ENCODERS: dict[str, Encoder] = {
    "resnet18": _resnet(64, 64, 128, 256, 512),
    "resnet34": _resnet(64, 64, 128, 256, 512),
    "resnet50": _resnet(64, 256, 512, 1024, 2048),
    "convnext_tiny": Encoder(
        {"1": 96, "3": 192, "5": 384, "7": 768},
        "features.",
        ("classifier.",),
        partial(nn.init.trunc_normal_, std=0.02),
    ),
    "efficientnet_b0": Encoder(
        {"1": 16, "2": 24, "3": 40, "5": 112, "7": 320},
        "features.",
        ("features.8.", "classifier."),
        partial(nn.init.kaiming_normal_, mode="fan_out"),
    ),
}


class UpBlock(nn.Module):
    """Double the resolution, concatenate the skip if there is one, convolve twice.

    (N, in, h, w) and skip (N, skip, 2h, 2w) or None -> (N, out, 2h, 2w).
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm_relu(in_channels + skip_channels, out_channels)
        self.conv2 = _conv_norm_relu(out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.conv2(self.conv1(x))


class EncoderUNet(Network):
    """The encoder of a classifier, optionally with pretrained weights, and a light U-Net decoder.

    (N, in_channels, H, W) float -> (N, out_channels, H, W) logits, for H and W multiples of 32 and at least 64: with a
    single pixel at the bottom, batch norm can't train on one image. encoder: name in ENCODERS, which is torchvision's
    name of the classifier.

    Source of the encoders: torchvision's resnet18, resnet34 and resnet50 (He, Zhang, Ren, Sun, "Deep Residual Learning
    for Image Recognition", CVPR 2016, table 1), convnext_tiny (Liu et al., "A ConvNet for the 2020s", CVPR 2022,
    section 3) and efficientnet_b0 (Tan, Le, "EfficientNet", ICML 2019, table 1), with torchvision's initialisation.
    They differ in that the classifier's head is left out, including the last 1x1 convolution of EfficientNet, and in
    that there is no stochastic depth, which torchvision's training on ImageNet uses for the last two.

    Source of the decoder: `Unet` of segmentation_models_pytorch, with its five blocks; with a ResNet encoder the two
    networks are the same except for the names of their weights. Skips are the last features at each stride. ConvNeXt,
    whose first convolution has a stride of 4, has none at stride 2, so its last two decoder blocks have no skip; for
    the others that is the last block. dropout: probability that a value of the encoder's last features is set to zero.

    The batch norms inside ResNet's blocks are not in an nn.Sequential, so models/fold.py leaves them as they are.
    """

    encoder_parts = ("encoder",)

    def __init__(self, encoder: str, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.geometry = Geometry(multiple=32, least=64, stride=32)
        self.name, self.plan = encoder, ENCODERS[encoder]
        self.taps = tuple(self.plan.taps)
        widths = list(self.plan.taps.values())
        # Finest first: 0 for the image's resolution, and for stride 2 where the encoder has no features of it.
        skip_widths = [0] * (len(DECODER_WIDTHS) + 1 - len(widths)) + widths[:-1]

        self.encoder = _fresh_encoder(encoder, in_channels)
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.ModuleList(
            UpBlock(*channels)
            for channels in zip([widths[-1], *DECODER_WIDTHS], reversed(skip_widths), DECODER_WIDTHS, strict=False)
        )
        self.head = nn.Conv2d(DECODER_WIDTHS[-1], out_channels, 3, padding=1)
        nn.init.kaiming_uniform_(self.head.weight, nonlinearity="linear")
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        x, features = image, []
        for name, part in self.encoder.named_children():
            # Checkpointing stores a block's input, which the in-place ReLU of ResNet's stem would overwrite.
            x = self.run(part, x) if isinstance(part, nn.Sequential) else part(x)
            if name in self.taps:
                features.append(x)
        x = self.dropout(features.pop())  # (N, channels, H / 32, W / 32)
        for block in self.decoder:
            x = self.run(block, x, features.pop() if features else None)
        return self.head(x)

    def load_encoder(self, state: dict[str, Tensor]) -> None:
        """Load pretrained weights. state: state dict of torchvision's classifier, whose head is ignored; batch counters
        may be missing, as in old files.

        Where the network doesn't have 3 input channels, the first kernel is adapted, see adapted_kernel. Raises
        UserError where names or shapes are not those of the classifier.
        """
        own = {self.plan.prefix + name: tensor for name, tensor in self.encoder.state_dict().items()}
        first = next(iter(own))
        pretrained = {name: tensor for name, tensor in state.items() if not name.startswith(self.plan.head)}
        if first in pretrained and pretrained[first].shape[1:2] == (3,):
            pretrained[first] = adapted_kernel(pretrained[first], own[first].shape[1])
        problems = _differences(pretrained, own)
        if problems:
            raise UserError(
                f"these are not the weights of torchvision's {self.name}: {'; '.join(problems)}: "
                f"give --encoder-weights the state dict of torchvision's {self.name}, or imagenet"
            )
        loaded = own | pretrained
        self.encoder.load_state_dict({name.removeprefix(self.plan.prefix): loaded[name] for name in own})


def adapted_kernel(kernel: Tensor, in_channels: int) -> Tensor:
    """(out, 3, h, w) -> (out, in_channels, h, w), a kernel with the same response to a gray image, equal in all
    channels.

    For one channel it is the sum over the channels. Otherwise channels get the kernels of red, green and blue in turn,
    times 3 / in_channels; the response is then exactly the same where in_channels is a multiple of 3.
    """
    if in_channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    turns = torch.arange(in_channels, device=kernel.device) % 3
    return kernel[:, turns] * (3 / in_channels)


def _fresh_encoder(encoder: str, in_channels: int) -> nn.Sequential:
    """The modules of torchvision's classifier up to the last tap, under the same names, with random weights."""
    from torchvision.models import get_model

    plan = ENCODERS[encoder]
    settings = {} if encoder.startswith("resnet") else {"stochastic_depth_prob": 0.0}
    classifier = get_model(encoder, weights=None, num_classes=1, **settings)
    parts = nn.Sequential()
    for name, part in classifier.get_submodule(plan.prefix.rstrip(".")).named_children():
        parts.add_module(name, part)
        if name == next(reversed(plan.taps)):
            break
    if in_channels != 3:  # replace the first kernel, drawn from the same distribution as the others
        conv = next(module for module in parts.modules() if isinstance(module, nn.Conv2d))
        out_channels, _, *kernel = conv.weight.shape
        conv.in_channels = in_channels
        conv.weight = nn.Parameter(plan.draw(conv.weight.detach().new_empty(out_channels, in_channels, *kernel)))
    return parts


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _differences(state: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Descriptions of the differences between the tensors of a file and those of the network."""
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    misshapen = [
        f"{name} ({sides(tensor.shape)} for {sides(own[name].shape)})"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    ]
    problems = {"missing": missing, "not known": unknown, "of another shape": misshapen}
    return [f"{what}: {few(names)}" for what, names in problems.items() if names]
