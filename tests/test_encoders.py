"""Encoders of classifiers: sizes as in segmentation_models_pytorch, features of each stride, weights from elsewhere."""

import re
import socket
import urllib.request
from urllib.error import URLError

import pytest
import torch
from torch import nn

from unet_cli.errors import UserError
from unet_cli.foreign.torchvision import TIMEOUT, encoder_state
from unet_cli.models import encoders
from unet_cli.models.encoders import ENCODERS, EncoderUNet, adapted_kernel
from unet_cli.models.fold import fold_batch_norm

PARAMETERS = {  # of the resnets: segmentation_models_pytorch.Unet's, for one output
    "resnet18": 14_328_209,
    "resnet34": 24_436_369,
    "resnet50": 32_521_105,
    "convnext_tiny": 31_928_753,
    "efficientnet_b0": 5_834_701,
}


def on_meta(encoder, in_channels=3, out_channels=1):
    with torch.device("meta"):
        return EncoderUNet(encoder, in_channels, out_channels)


def filled(model):
    """In memory, with values that depend on their place alone; drawing fresh weights takes longer."""
    model = model.to_empty(device="cpu").eval()
    for tensor in model.state_dict().values():
        values = torch.arange(tensor.numel(), dtype=torch.float32).mul_(0.7).sin_().reshape(tensor.shape)
        tensor.copy_(values / tensor[0].numel() ** 0.5 if tensor.ndim > 1 else values.abs() + 0.5)
    return model


def classifier(encoder):
    from torchvision.models import get_model

    with torch.device("meta"):
        return get_model(encoder, weights=None, num_classes=2)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder, empty, and a network that is down."""

    def down(*args, **kwargs):
        raise URLError("name resolution failed")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(urllib.request, "urlopen", down)
    monkeypatch.setattr(torch.hub, "urlopen", down)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("encoder", ENCODERS)
def test_parameter_count_for_three_channels_and_one_output(encoder):
    assert sum(parameter.numel() for parameter in on_meta(encoder).parameters()) == PARAMETERS[encoder]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_taps_are_the_last_features_of_each_stride(encoder):
    model, last = on_meta(encoder), {}
    x = torch.empty(1, 3, 64, 64, device="meta")
    for name, part in model.encoder.named_children():
        x = part(x)
        last[64 // x.shape[-1]] = (name, x.shape[1])
    assert list(last) == ([4, 8, 16, 32] if encoder == "convnext_tiny" else [2, 4, 8, 16, 32])
    assert list(last.values()) == list(ENCODERS[encoder].taps.items())


def test_weights_have_the_names_of_segmentation_models_pytorch_but_for_two_prefixes():
    theirs = {
        name.replace("decoder.", "decoder.blocks.").replace("head.", "segmentation_head.0.")
        for name in on_meta("resnet18").state_dict()
    }
    layers = ["encoder.conv1", "encoder.layer4.1.conv2", "encoder.layer2.0.downsample.0", "segmentation_head.0"]
    layers += [f"decoder.blocks.{block}.conv{number}.0" for block in range(5) for number in (1, 2)]
    assert {f"{layer}.weight" for layer in layers} <= theirs
    assert {"encoder.bn1.running_mean", "decoder.blocks.4.conv2.1.running_var", "segmentation_head.0.bias"} <= theirs
    assert "decoder.blocks.0.conv1.0.bias" not in theirs


def test_a_decoder_block_puts_the_upsampled_features_before_the_skip():
    block = encoders.UpBlock(1, 1, 1).eval()
    kernel = torch.zeros(1, 2, 3, 3)
    kernel[0, 0, 1, 1], kernel[0, 1, 1, 1] = 10, 1
    with torch.no_grad():
        block.conv1[0].weight.copy_(kernel)
        block.conv2[0].weight.copy_(kernel[:, 1:])
    deep, skip = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 2, 3, 4], [5, 6, 7, 8]]]])
    expected = torch.tensor([[[[11.0, 12, 23, 24], [15, 16, 27, 28]]]])
    assert torch.allclose(block(deep, skip), expected, rtol=1e-4)


def test_convnext_decodes_its_two_finest_levels_without_a_skip():
    inputs = [block.conv1[0].in_channels for block in on_meta("convnext_tiny").decoder]
    assert inputs == [768 + 384, 256 + 192, 128 + 96, 64, 32]
    inputs = [block.conv1[0].in_channels for block in on_meta("efficientnet_b0").decoder]
    assert inputs == [320 + 112, 256 + 40, 128 + 24, 64 + 16, 32]


@pytest.mark.parametrize("side", [32, 70])
def test_a_side_that_the_encoder_cannot_halve_is_refused_by_its_size(side):
    model = on_meta("resnet18")
    with pytest.raises(ValueError, match=f"{side}x64 pixels.*a multiple of 32, and at least 64"):
        model(torch.empty(1, 3, 64, side, device="meta"))
    assert model.geometry.side(side) == (64 if side == 32 else 96)


def test_a_single_picture_of_the_least_size_can_be_learned_from():
    filled(on_meta("efficientnet_b0", 1)).train()(torch.randn(1, 1, 64, 64)).mean().backward()


def test_dropout_is_the_only_thing_that_is_random_in_training():
    from torchvision.ops import StochasticDepth

    depths = [m.p for m in on_meta("convnext_tiny").modules() if isinstance(m, StochasticDepth)]
    assert depths == [0.0] * 18
    image, model = torch.randn(2, 3, 64, 64), filled(on_meta("efficientnet_b0")).train()
    with torch.no_grad():
        assert torch.equal(model(image), model(image))
        model.dropout.p = 0.5
        assert not torch.equal(model(image), model(image))
        assert torch.equal(model.eval()(image), model(image))


def test_dropout_is_none_unless_asked_for():
    assert on_meta("resnet18").dropout.p == 0
    with torch.device("meta"):
        assert EncoderUNet("resnet18", 3, 1, dropout=0.2).dropout.p == 0.2


@pytest.mark.parametrize(("encoder", "std"), [("efficientnet_b0", (2 / (32 * 9)) ** 0.5), ("convnext_tiny", 0.02)])
def test_a_first_convolution_for_other_channels_follows_the_law_of_torchvision(encoder, std):
    if encoder == "convnext_tiny":
        kernel = ENCODERS[encoder].draw(torch.empty(96, 5, 4, 4))
    else:
        conv = EncoderUNet(encoder, 5, 1).encoder[0][0]
        kernel = conv.weight.detach()
        assert kernel.shape[1] == conv.in_channels == 5
    assert float(kernel.std()) == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet_b0"])
def test_gradient_checkpointing_keeps_gradients_and_running_statistics(encoder):
    results, image = [], torch.randn(2, 3, 64, 64)
    for checkpointing in (False, True):
        model = filled(on_meta(encoder)).train()
        model.gradient_checkpointing = checkpointing
        model(image).square().mean().backward()
        results.append([*model.buffers(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(usual, repeated) for usual, repeated in zip(*results, strict=True))


def test_the_fold_takes_batch_norms_of_stem_downsampling_and_decoder_but_not_of_the_blocks():
    model = filled(on_meta("resnet18", 1))
    folded, image = fold_batch_norm(model), torch.randn(1, 1, 64, 64)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(left) == 16
    assert all(re.fullmatch(r"encoder\.layer\d\.\d\.bn\d", name) for name in left)
    with torch.no_grad():
        logits = model(image)
        assert torch.allclose(folded(image), logits, atol=1e-5 * float(logits.abs().max()))


@pytest.mark.parametrize("encoder", ["resnet18", "convnext_tiny", "efficientnet_b0"])
def test_loaded_weights_make_the_features_of_the_classifier(encoder):
    theirs, ours = filled(classifier(encoder)), on_meta(encoder).to_empty(device="cpu").eval()
    ours.load_encoder(theirs.state_dict())
    image, tap, seen = torch.randn(1, 3, 64, 64), next(reversed(ENCODERS[encoder].taps)), {}
    theirs.get_submodule(ENCODERS[encoder].prefix + tap).register_forward_hook(
        lambda module, inputs, result: seen.update(bottom=result)
    )
    with torch.no_grad():
        theirs(image)
        assert seen["bottom"].std() > 0
        torch.testing.assert_close(ours.encoder(image), seen["bottom"], rtol=1e-4, atol=1e-5)


def test_kernels_for_other_channels_worked_by_hand():
    kernel = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    assert adapted_kernel(kernel, 1).flatten().tolist() == [7]
    assert adapted_kernel(kernel, 2).flatten().tolist() == [1.5, 3]
    assert adapted_kernel(kernel, 3).flatten().tolist() == [1, 2, 4]
    assert adapted_kernel(kernel, 6).flatten().tolist() == [0.5, 1, 2, 0.5, 1, 2]


def test_one_channel_makes_the_features_of_a_grey_image():
    state = filled(classifier("efficientnet_b0")).state_dict()
    colour, grey = (on_meta("efficientnet_b0", channels).to_empty(device="cpu").eval() for channels in (3, 1))
    colour.load_encoder(state)
    grey.load_encoder(state)
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        features = colour.encoder(image.expand(-1, 3, -1, -1))
        assert torch.allclose(grey.encoder(image), features, atol=1e-4 * float(features.abs().max()))


def test_old_files_without_counters_are_taken():
    state = filled(classifier("resnet18")).state_dict()
    model = filled(on_meta("resnet18"))
    model.encoder.bn1.running_mean.zero_()
    model.load_encoder({name: tensor for name, tensor in state.items() if "num_batches" not in name})
    assert torch.equal(model.encoder.bn1.running_mean, state["bn1.running_mean"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda state: [state.pop(name) for name in list(state)[:6]],
            "missing: conv1.weight, bn1.weight, bn1.bias and 2",
        ),
        (lambda state: state.update(extra=torch.zeros(1)), "not known: extra"),
        (
            lambda state: state.update({"conv1.weight": torch.zeros(64, 4, 7, 7)}),
            "of another shape: conv1.weight (64x4x7x7 for 64x3x7x7)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name_and_change_nothing(change, said):
    state = dict(classifier("resnet18").state_dict())
    change(state)
    model = filled(on_meta("resnet18"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=re.escape(said) + ".*torchvision's resnet18"):
        model.load_encoder(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_of_another_classifier_are_refused():
    with pytest.raises(UserError, match="not the weights of torchvision's resnet18: not known: layer1.2.conv1.weight"):
        on_meta("resnet18").load_encoder(classifier("resnet34").state_dict())


def test_weights_come_from_a_local_file(tmp_path):
    state = {"conv1.weight": torch.randn(4)}
    torch.save(state, tmp_path / "weights.pth")
    assert torch.equal(encoder_state("resnet18", str(tmp_path / "weights.pth"))["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"PK\x03\x04 not quite", "is damaged"),
        (nn.Linear(1, 1), "is damaged, or holds more than tensors"),
        ({"model": {}, "optimizer": {}, "epoch": 1, "args": 2}, "holds model, optimizer, epoch and 1 more"),
        ([torch.zeros(1)], "is a list"),
    ],
)
def test_a_file_that_is_no_state_dict_is_refused_with_what_to_give(tmp_path, content, said):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=f"weights.pth .*{said}.*torchvision's resnet18, or imagenet"):
        encoder_state("resnet18", str(path))


def url_of(encoder):
    """Of the weights that torchvision has for it."""
    from torchvision.models import get_model_weights

    return get_model_weights(encoder).DEFAULT.url


def test_imagenet_takes_the_file_in_the_folder_of_torch_hub(hub, capsys):
    name = url_of("resnet18").rpartition("/")[2]
    torch.save({"conv1.weight": torch.ones(2)}, hub / name)
    assert encoder_state("resnet18", "imagenet")["conv1.weight"].tolist() == [1, 1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_imagenet_without_a_network_says_which_file_goes_where(hub, encoder, capsys):
    with pytest.raises(UserError) as caught:
        encoder_state(encoder, "imagenet")
    message = str(caught.value)
    assert url_of(encoder) in message
    assert str(hub) in message
    assert "name resolution failed" in message
    assert "--encoder-weights FILE" in message
    assert capsys.readouterr().out == ""


def test_a_damaged_file_in_the_folder_of_torch_hub_is_named(hub):
    cached = hub / url_of("resnet18").rpartition("/")[2]
    cached.write_bytes(b"half a file")
    with pytest.raises(UserError, match=f"{re.escape(str(cached))} is damaged: delete it, or fetch http"):
        encoder_state("resnet18", "imagenet")


def test_a_download_with_a_wrong_hash_is_refused(hub, monkeypatch):
    def wrong(url, path, hash_prefix, progress):
        raise RuntimeError(f'invalid hash value (expected "{hash_prefix}", got "0")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", wrong)
    with pytest.raises(UserError, match='the download was damaged .*expected "[0-9a-f]{8}".*try again, or fetch http'):
        encoder_state("resnet18", "imagenet")


def test_a_download_waits_for_a_silent_server_for_a_limited_time_only(hub, monkeypatch):
    waits = []

    def silent(*args, **kwargs):
        waits.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(torch.hub, "urlopen", silent)
    with pytest.raises(UserError, match="timed out"):
        encoder_state("resnet18", "imagenet")
    assert waits == [TIMEOUT]
    assert socket.getdefaulttimeout() is None
