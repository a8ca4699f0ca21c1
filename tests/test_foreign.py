"""Weights of other tools compute as checkpoints of ours what they computed there.

The networks of the other tools are stated here anew, small, with the names of their tensors; weights and running
statistics are drawn at random.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, assert_failed, json_lines
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli import foreign
from unet_cli.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_cli.data.labels import LabelMap
from unet_cli.errors import UserError


def recognised(content: dict) -> Checkpoint | None:
    found = foreign.recognised(content)
    return None if found is None else Checkpoint(**vars(found))


class DoubleConv(nn.Module):
    def __init__(self, ins: int, outs: int, bias: bool, middle: int | None = None) -> None:
        super().__init__()
        middle = middle or outs
        self.double_conv = nn.Sequential(
            nn.Conv2d(ins, middle, 3, padding=1, bias=bias), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, outs, 3, padding=1, bias=bias), nn.BatchNorm2d(outs), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, ins: int, outs: int, bias: bool) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(ins, outs, bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """ins: channels of the concatenation. old: of 2019, when what comes from below had half of them in both modes."""

    def __init__(self, ins: int, outs: int, bilinear: bool, bias: bool, old: bool) -> None:
        super().__init__()
        below = ins // 2 if old else ins
        if bilinear:
            self.up: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        else:
            self.up = nn.ConvTranspose2d(below, ins // 2, 2, stride=2)
        self.conv = DoubleConv(ins, outs, bias, ins // 2 if bilinear and not old else None)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skip, x], dim=1))


class OutConv(nn.Module):
    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ins, outs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Milesial(nn.Module):
    """milesial/Pytorch-UNet with `w` channels at the first level in place of 64."""

    def __init__(self, channels=3, classes=2, bilinear=False, bias=False, old=False, w=4) -> None:
        super().__init__()
        factor = 2 if bilinear or old else 1
        self.inc = DoubleConv(channels, w, bias)
        self.down1 = Down(w, 2 * w, bias)
        self.down2 = Down(2 * w, 4 * w, bias)
        self.down3 = Down(4 * w, 8 * w, bias)
        self.down4 = Down(8 * w, 16 * w // factor, bias)
        self.up1 = Up(16 * w, 8 * w // factor, bilinear, bias, old)
        self.up2 = Up(8 * w, 4 * w // factor, bilinear, bias, old)
        self.up3 = Up(4 * w, 2 * w // factor, bilinear, bias, old)
        self.up4 = Up(2 * w, w, bilinear, bias, old)
        self.outc = OutConv(w, classes)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        return self.outc(self.up4(self.up3(self.up2(x, x3), x2), x1))


class SmpBlock(nn.Module):
    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(outs, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv2(self.conv1(torch.cat([x, *skips], dim=1)))


class Smp(nn.Module):
    """segmentation_models_pytorch.Unet."""

    def __init__(self, encoder="resnet18", channels=3, classes=2) -> None:
        from torchvision.models import get_model

        super().__init__()
        self.encoder = get_model(encoder, weights=None)
        del self.encoder.fc
        self.encoder.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        ins = (768, 384, 192, 128, 32) if encoder != "resnet50" else (3072, 768, 384, 128, 32)
        self.decoder = nn.Module()
        self.decoder.blocks = nn.ModuleList(map(SmpBlock, ins, (256, 128, 64, 32, 16)))
        self.segmentation_head = nn.Sequential(nn.Conv2d(16, classes, 3, padding=1), nn.Identity(), nn.Identity())

    def forward(self, image: Tensor) -> Tensor:
        encoder = self.encoder
        features = [encoder.relu(encoder.bn1(encoder.conv1(image)))]
        x = encoder.maxpool(features[0])
        for layer in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
            features.append(x := layer(x))
        features.pop()
        for block in self.decoder.blocks:
            x = block(x, [features.pop()] if features else [])
        return self.segmentation_head(x)


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    """With norms as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.running_var, 0.2, 2.0, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
            nn.init.normal_(module.running_mean, 0.0, 0.3, generator=generator)
    return network.eval()


def assert_same_function(theirs: nn.Module, size: tuple[int, int], channels: int = 3) -> None:
    """To float32 rounding: the logits, and of two classes the difference, whose sigmoid is the softmax."""
    checkpoint = recognised(theirs.state_dict())
    assert checkpoint is not None
    image = torch.rand(2, channels, *size)
    with torch.no_grad():
        wanted, logits = theirs(image), checkpoint.build().eval()(image)
    assert wanted.std() > 1e-3  # something to compare
    if wanted.shape[1] == 2:
        torch.testing.assert_close(logits.sigmoid()[:, 0], wanted.softmax(dim=1)[:, 1], rtol=0, atol=1e-5)
        wanted = wanted[:, 1:] - wanted[:, :1]
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max().clamp(min=1)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("classes", [1, 3])
def test_a_network_of_milesial_computes_the_same(classes, bilinear, old, bias):
    torch.manual_seed(classes)
    theirs = drawn(Milesial(classes=classes, bilinear=bilinear, old=old, bias=bias))
    assert_same_function(theirs, (37, 50))
    assert_same_function(theirs, (32, 16))


def test_channels_that_an_old_network_lacks_stay_zero():
    weights = recognised(Milesial(bilinear=True, old=True).state_dict()).weights
    assert weights["decoder.0.convs.0.weight"].shape == (32, 64, 3, 3)  # the old one has 16 rows
    assert not weights["decoder.0.convs.0.weight"][16:].any()
    assert not weights["decoder.0.convs.3.weight"][:, 16:].any()
    norm = {name: weights[f"decoder.0.convs.1.{name}"][16:].unique().tolist() for name in ("weight", "bias")}
    assert norm == {"weight": [1], "bias": [0]}
    assert weights["decoder.0.convs.1.running_var"][16:].unique().tolist() == [1]
    assert weights["decoder.0.convs.1.running_mean"][16:].unique().tolist() == [0]


def test_what_is_found_in_a_file_of_milesial():
    checkpoint = recognised(Milesial(channels=1, classes=3, bilinear=True, w=6).state_dict())
    model, preprocessing = checkpoint.model, checkpoint.preprocessing
    assert (model.name, model.in_channels, model.num_classes) == ("unet", 1, 3)
    assert (model.base_channels, model.depth, model.upsampling, model.norm) == (6, 4, "bilinear", "batch")
    assert (preprocessing.scale, preprocessing.dtype, preprocessing.intensity) == (0.5, "uint8", "dataset")
    assert (preprocessing.mean, preprocessing.std) == ((0.0,), (255.0,))
    assert recognised(Milesial(channels=4).state_dict()).preprocessing.keep_alpha  # RGBA, as Pillow reads it


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_a_network_of_smp_computes_the_same(encoder):
    torch.manual_seed(1)
    assert_same_function(drawn(Smp(encoder)), (64, 96))


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (5, 4)])
def test_a_network_of_smp_has_any_channels_and_classes(channels, classes):
    torch.manual_seed(2)
    assert_same_function(drawn(Smp("resnet18", channels, classes)), (64, 64), channels)


def test_what_is_found_in_a_file_of_smp():
    checkpoint = recognised(Smp("resnet34", classes=3).state_dict())
    assert (checkpoint.model.name, checkpoint.model.in_channels) == ("resnet34-unet", 3)
    assert checkpoint.labels.values == (0, 1, 2)
    assert checkpoint.preprocessing.scale == 1
    assert checkpoint.preprocessing.mean == pytest.approx((123.675, 116.28, 103.53))
    assert checkpoint.preprocessing.std == pytest.approx((58.395, 57.12, 57.375))


@pytest.mark.parametrize(
    ("classes", "mask_values", "labels"),
    [
        (1, None, LabelMap((0, 255), ("background", "foreground"))),
        (1, [0, 1], LabelMap((0, 1), ("background", "foreground"))),
        (1, [0, 255], LabelMap((0, 255), ("background", "foreground"))),
        (2, None, LabelMap((0, 1), ("background", "foreground"))),
        (2, [False, True], LabelMap((0, 1), ("background", "foreground"))),
        (2, [0, 200], LabelMap((0, 200), ("background", "foreground"))),
        (3, [0, 7, 300.0], LabelMap((0, 7, 300), ("0", "7", "300"))),
        (2, [[0, 0, 0], [255, 0, 1]], LabelMap((0, 0xFF0001), ("background", "foreground"), "colours")),
        (
            3,
            [[0, 0, 0, 255], [0, 0, 9, 255], [255, 255, 255, 255]],
            LabelMap((0, 9, 0xFFFFFF), ("#000000", "#000009", "#ffffff"), "colours"),
        ),
    ],
)
def test_mask_values_are_the_values_of_masks(classes, mask_values, labels):
    state = Milesial(classes=classes).state_dict()
    state |= {} if mask_values is None else {"mask_values": mask_values}
    checkpoint = recognised(state)
    assert checkpoint.labels == labels
    assert len(checkpoint.data) == 1


@pytest.mark.parametrize(
    "mask_values", [[0, 1], [0, 1, 1], [0, 1, 0.5], [0, 1, -1], [[0], [1], [2]], [[0, 0, 0], 1, 2]]
)
def test_mask_values_that_do_not_fit_the_classes_are_told(mask_values):
    checkpoint = recognised(Milesial(classes=3).state_dict() | {"mask_values": mask_values})
    assert checkpoint.labels == LabelMap((0, 1, 2), ("0", "1", "2"))
    assert "its mask_values don't match its 3 classes" in checkpoint.data[1]


@pytest.mark.parametrize("wrapped", ["module", "state_dict", "model_state_dict", "both"])
def test_wrapped_state_dicts_are_found(wrapped):
    state = Milesial(classes=1).state_dict()
    plain = recognised(state | {"mask_values": [0, 9]})
    if wrapped in ("module", "both"):
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    state["mask_values"] = [0, 9]
    if wrapped != "module":
        state = {"epoch": 3, "model_state_dict" if wrapped == "model_state_dict" else "state_dict": state}
    found = recognised(state)
    assert found.labels == plain.labels
    assert found.labels.values == (0, 9)
    assert found.weights.keys() == plain.weights.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in plain.weights.items())


def test_weights_of_half_precision_become_float32():
    checkpoint = recognised(Milesial().half().state_dict())
    assert {tensor.dtype for tensor in checkpoint.weights.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("content", [{}, {"state_dict": 3}, {"a": torch.ones(1)}, {"encoder.a": torch.ones(1)}, {3: 4}])
def test_what_is_not_known_is_none(content):
    assert recognised(content) is None


def test_an_encoder_alone_is_not_known():
    from torchvision.models import resnet18

    assert recognised(resnet18().state_dict()) is None


@pytest.fixture(scope="module")
def smp_state() -> dict:
    return dict(Smp().state_dict())


def without(state: dict, name: str) -> dict:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "inc.double_conv.0.weight"), "inc.double_conv.0.weight is missing"),
        (lambda s: without(s, "up2.conv.double_conv.3.weight"), "up2.conv.double_conv.3.weight is missing"),
        (lambda s: without(s, "down1.maxpool_conv.1.double_conv.4.bias"), r"down1\S+4.bias is missing"),
        (lambda s: without(s, "up1.up.weight"), "up1.up.bias.* is not part"),
        (lambda s: without(s, "up2.up.weight"), "up2.up.weight is missing"),
        (lambda s: s | {"up1.attention.psi.weight": torch.ones(1)}, "up1.attention.psi.weight is not part of that"),
        (lambda s: s | {"outc.conv.bias": torch.ones(3)}, "outc.conv.bias is 3 and not 2"),
        (lambda s: s | {"down1.maxpool_conv.1.double_conv.0.weight": torch.ones(9, 4, 3, 3)}, "is 9x4x3x3 and not 8x4"),
        (lambda s: s | {"inc.double_conv.0.weight": torch.ones(4, 3, 1)}, "has 3 dimensions and not 4"),
        (lambda s: {n: t for n, t in s.items() if not n.startswith("down")}, "down1.* is missing"),
    ],
)
def test_what_is_nearly_of_milesial_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=f"milesial/Pytorch-UNet, but .*({message})"):
        recognised(change(Milesial().state_dict()))


def test_decoders_that_are_wider_or_add_their_skips_are_refused():
    wide = Milesial()
    wide.up4.conv = DoubleConv(8, 4, False, 6)
    with pytest.raises(UserError, match="up4.conv.double_conv.0.weight is 6x8x3x3 and not 4x8x3x3"):
        recognised(wide.state_dict())
    added = Milesial()
    added.up4.conv = DoubleConv(4, 4, False)
    with pytest.raises(UserError, match="up4.conv.double_conv.0.weight is 4x4x3x3 and not 4x8x3x3"):
        recognised(added.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "encoder.layer3.1.bn2.weight"), "encoder.layer3.1.bn2.weight is missing"),
        (
            lambda s: s | {"decoder.blocks.0.attention1.attention.cSE.1.weight": torch.ones(1)},
            r"its decoder has attention \(decoder_attention_type",
        ),
        (lambda s: s | {"decoder.p5.weight": torch.ones(1)}, r"another architecture \(decoder.p5.weight"),
        (lambda s: {n: t for n, t in s.items() if "blocks.4" not in n}, "its decoder has 4 blocks and not 5"),
        (lambda s: {n: t for n, t in s.items() if "decoder" not in n}, "another architecture"),
        (lambda s: s | {"encoder.layer3.2.conv1.weight": torch.ones(1)}, "a ResNet of 2-2-3-2 blocks: resnet18"),
        (lambda s: {n: t for n, t in s.items() if n != "encoder.conv1.weight"}, "its encoder is not a ResNet"),
        (lambda s: s | {"classification_head.3.weight": torch.ones(1)}, "classification_head.3.weight is not part"),
        (lambda s: s | {"encoder.layer1.0.conv1.weight": torch.ones(128, 64, 1, 1)}, "is 128x64x1x1 and not 64x64x3x3"),
        (lambda s: s | {"segmentation_head.0.bias": torch.ones(3)}, "segmentation_head.0.bias is 3 and not 2"),
    ],
)  # fmt: skip
def test_what_is_nearly_of_smp_is_refused_by_name(change, message, smp_state):
    with pytest.raises(UserError, match=f"segmentation_models_pytorch.Unet, but .*{message}"):
        recognised(change(smp_state))


def test_a_checkpoint_that_was_saved_computes_the_same(tmp_path):
    torch.save(Milesial(classes=1, bias=True, old=True).state_dict() | {"mask_values": [0, 255]}, tmp_path / "m.pth")
    found = load_checkpoint(tmp_path / "m.pth")
    save_checkpoint(tmp_path / "ours.pth", found)
    image = torch.rand(1, 3, 33, 47)
    with torch.no_grad():
        first, second = (
            load_checkpoint(tmp_path / name).build().eval()(image) for name in ("m.pth", "ours.pth")
        )  # fmt: skip
    assert torch.equal(first, second)
    assert load_checkpoint(tmp_path / "ours.pth").preprocessing == found.preprocessing


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_file_that_holds_code_is_not_opened(tmp_path, capfd):
    torch.save(Milesial().state_dict() | {"mask_values": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="evil.pth"):
        load_checkpoint(tmp_path / "evil.pth")
    assert "this must never run" not in capfd.readouterr().out


def test_a_refusal_names_the_file(tmp_path):
    torch.save(without(Milesial().state_dict(), "up1.up.bias"), tmp_path / "near.pth")
    with pytest.raises(UserError, match=r"near.pth.* looks? like those of milesial.*up1.up.bias is missing"):
        load_checkpoint(tmp_path / "near.pth")


def test_import_says_what_it_found_and_predict_uses_it(unet: Run, tmp_path: Path):
    torch.save(drawn(Milesial(classes=3, bilinear=True)).state_dict() | {"mask_values": [0, 5, 9]}, tmp_path / "m.pth")
    done = unet("import", "m.pth", "--output", "ours.pth")
    assert done.returncode == 0, done.stderr
    for part in (
        "milesial/Pytorch-UNet",
        "unet, width 4, depth 4, bilinear upsampling",
        "3 classes (0, 5, 9)",
        "channels       3",
        "0.5 times their size",
        "Written: ours.pth",
        "unet predict --weights ours.pth --input DIR",
    ):
        assert part in done.stdout
    (tmp_path / "imgs").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 53, 3), np.uint8)).save(tmp_path / "imgs/a.png")
    for weights in ("ours.pth", "m.pth"):
        done = unet("predict", "--weights", weights, "--input", "imgs", "--output", weights[0], "--device", "cpu")
        assert done.returncode == 0, done.stderr
    ours, raw = (np.asarray(Image.open(tmp_path / folder / "a.png")) for folder in "om")
    assert ours.shape == (70, 53)
    assert np.isin(ours, [0, 5, 9]).all()
    assert (ours == raw).all()


def test_import_takes_the_scale_and_overwrites_nothing(unet: Run, tmp_path: Path):
    torch.save(Milesial().state_dict(), tmp_path / "m.pth")
    done = unet("import", "m.pth", "--output", "ours.pth", "--scale", 0.25, "--json")
    assert done.returncode == 0, done.stderr
    assert json_lines(done.stdout)[0]["preprocessing"]["scale"] == 0.25
    assert load_checkpoint(tmp_path / "ours.pth").preprocessing.scale == 0.25
    assert_failed(unet("import", "m.pth", "--output", "ours.pth"), 1, "ours.pth exists already")


def test_import_refuses_our_own(unet: Run, tmp_path: Path):
    found = recognised(Milesial().state_dict())
    save_checkpoint(tmp_path / "a.pth", replace(found, preprocessing=replace(found.preprocessing, scale=None)))
    assert_failed(unet("import", "a.pth", "--output", "x.pth"), 1, "a.pth is a checkpoint of unet already")
    assert not (tmp_path / "x.pth").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda weight: torch.tensor(1.0), "outc.conv.weight has 0 dimensions and not 4"),
        (lambda weight: weight.to_sparse(), "outc.conv.weight is a tensor of torch.float32, torch.sparse_coo"),
        (lambda weight: weight.to("meta"), "on meta"),
        (lambda weight: weight.to(torch.complex64), "torch.complex64"),
        (lambda weight: weight.long(), "torch.int64"),
        (lambda weight: weight * float("nan"), "outc.conv.weight holds values that are not finite"),
        (lambda weight: weight[:0], "outc.conv.weight holds nothing"),
    ],
)
def test_tensors_that_no_trained_network_has_are_refused(spoil, message):
    state = Milesial().state_dict()
    state["outc.conv.weight"] = spoil(state["outc.conv.weight"])
    with pytest.raises(UserError, match=message):
        recognised(state)
