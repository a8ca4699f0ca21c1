"""A frozen encoder stays as it is, to the bit, whatever else happens in a run."""

import signal
import time

import pytest
import torch
from conftest import TINY, Run, assert_failed, split_foreground
from test_resume import assert_goes_on_alike

from unet_cli.checkpoint import load_checkpoint
from unet_cli.config.model import ModelConfig
from unet_cli.config.training import TrainConfig
from unet_cli.data.folder.layout import layout_of
from unet_cli.errors import UserError
from unet_cli.models import MODELS, build_model
from unet_cli.models.unet import UNet
from unet_cli.runs.train import train
from unet_cli.system.console import Console
from unet_cli.system.distributed import World
from unet_cli.training.optimizers import make_optimizer
from unet_cli.training.statistics import recompute_statistics


@pytest.mark.parametrize("name", MODELS)
def test_every_network_has_an_encoder_that_can_be_frozen(name):
    with torch.device("meta"):
        model = build_model(ModelConfig(name=name))
    model.freeze(model.encoder_parts)
    model.train()
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    first, *_, last = (name for name, _ in model.named_parameters())
    assert first in frozen
    assert last not in frozen
    for name, module in model.named_modules():
        is_frozen = name.startswith(model.encoder_parts)
        if name and not list(module.children()):
            assert module.training != is_frozen, name
    assert not any(name.startswith(("decoder", "head", "nodes")) for name in frozen)
    changing = {id(buffer) for buffer in model.trained_buffers()}
    for name, buffer in model.named_buffers():
        assert (id(buffer) in changing) != name.startswith(model.encoder_parts), name


def test_statistics_of_a_frozen_encoder_are_not_computed_again_and_the_others_are():
    torch.manual_seed(0)
    model = build_model(ModelConfig(base_channels=4, depth=2, dropout=0.5))
    model.freeze(model.encoder_parts)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randn(4, 3, 32, 32) + 5
    optimizer = make_optimizer("adamw", model.parameters(), 0.1, 0.5, torch.device("cpu"))
    model.train()(image).square().mean().backward()
    optimizer.step()
    recompute_statistics(model, model, [image], World())
    assert not model.training
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if name.startswith(("decoder", "head")) and "tracked" not in name} <= changed
    assert not any(name.startswith(("stem", "encoder")) for name in changed)


def test_a_frozen_run_goes_on_as_if_it_had_not_been_stopped_with_its_encoder_as_it_was(data, trained, tmp_path):
    split_foreground(data / "masks")
    frozen = ("--init", trained, "--freeze", "encoder", "--epochs", 8, "--dropout", 0.2)
    run, said = assert_goes_on_alike(tmp_path, signal.SIGKILL, *frozen)
    assert "parameters, of which " in said
    assert " are trained (--freeze encoder)" in said
    before = load_checkpoint(trained).weights
    for file in ("best.pth", "last.pth"):
        after = load_checkpoint(run / file)
        average = after.resume["learner"]["average"] if after.resume else after.weights
        for name, value in before.items():
            if name.startswith(("stem", "encoder")):
                assert torch.equal(after.weights[name], value), name
                assert torch.equal(average[name], value), name
        for name in ("decoder.0.convs.0.weight", "decoder.1.convs.1.running_mean"):
            assert not torch.equal(after.weights[name], before[name]), name


def test_what_cannot_be_frozen_is_refused_with_the_reason(unet: Run, data, trained, begun):
    with pytest.raises(UserError, match="--freeze encoder keeps trained weights as they are.*--init FILE"):
        TrainConfig(data=data, freeze="encoder")
    TrainConfig(data=data, freeze="encoder", encoder_weights="imagenet")
    done = unet("train", "--resume", begun, "--freeze", "encoder", "--epochs", 2)
    assert_failed(done, 1, "started without --freeze, and can't be resumed with encoder")
    other = unet("train", "--data", data, *TINY, "--init", trained, "--freeze", "decoder")
    assert_failed(other, 2, "--freeze")


def test_a_network_without_an_encoder_is_refused_by_name(data, trained, monkeypatch):
    monkeypatch.setattr(UNet, "encoder_parts", ())
    config = TrainConfig(data=data, init=trained, freeze="encoder", size=32, device="cpu", output=data.parent / "runs")
    with pytest.raises(UserError, match="--freeze encoder: unet has no encoder"):
        train(config, layout_of(config), Console(quiet=True), time.monotonic())
