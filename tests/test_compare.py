"""`unet compare`: every network on the same data, and the failure of one stops no other."""

import pytest
from conftest import TINY, Run, assert_failed, json_lines, write_pairs

from unet_cli.compare import chosen
from unet_cli.errors import UserError
from unet_cli.models import MODELS


def test_names_all_and_all_but_some():
    assert chosen("unet++, unet") == ["unet++", "unet"]
    assert chosen("all,-transunet") == [name for name in MODELS if name not in ("transunet", "unet3d")]
    with pytest.raises(UserError, match="did you mean attention"):
        chosen("unet,atention")
    with pytest.raises(UserError, match="leaves no network"):
        chosen("unet,-unet")


def test_each_network_is_trained_scored_on_the_test_part_and_ranked(unet: Run, data, tmp_path):
    write_pairs(tmp_path / "held", count=2)
    settings = ["--size", 32, "--batch-size", 2, "--epochs", 1, "--device", "cpu", "--precision", "float32"]
    done = unet("compare", "--data", "data", "--test", "held", "--models", "unet,unet-paper,unet-strided", *settings,
                "--width", 4, "--norm", "batch", "--depth", 2)  # fmt: skip
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["network", "|", "width", "|", "parameters", "|", "epochs", "|", "Dice", "|", "IoU", "|",
                                "ms/image"]  # fmt: skip
    assert lines[3].startswith("unet ")
    assert "unet-paper failed: --norm doesn't apply to unet-paper" in done.stdout
    assert "--weights checkpoints/data-1/unet/best.pth" in lines[-1]
    assert (tmp_path / "checkpoints" / "data-1" / "unet" / "metrics.json").exists()


def test_widths_are_chosen_so_that_steps_take_alike(unet: Run, data):
    settings = ["--size", 32, "--batch-size", 1, "--epochs", 1, "--device", "cpu", "--json"]
    done = unet("compare", "--data", "data", "--models", "attention,unet", *settings)
    assert done.returncode == 0, done.stderr
    attention, plain = json_lines(done.stdout)
    assert plain["width"] == 32
    assert attention["width"] % 4 == 0
    assert attention["width"] <= 64
    assert 0 <= plain["dice"] <= 1
    assert plain["iou"] <= plain["dice"]


def test_what_cannot_be_trained_or_scored_is_told_before_anything_is_trained(unet: Run, data, tmp_path):
    settings = ["compare", "--data", "data", "--size", 32, "--batch-size", 2, "--epochs", 1, "--width", 4]
    done = unet(*settings, "--models", "unet3d,unet-paper", "--norm", "batch", "--json")
    assert done.returncode == 3, done.stderr
    assert [row["error"].split()[0] for row in json_lines(done.stdout)] == ["--norm", "--norm"]
    assert "epoch" not in done.stderr
    (write_pairs(tmp_path / "held", count=2) / "images" / "cell1.png").write_bytes(b"no picture")
    done = unet(*settings, "--models", "unet", "--test", "held")
    assert_failed(done, 1, "--test: ", "cell1.png")
    assert "epoch" not in done.stderr


def test_what_is_of_one_network_is_refused(unet: Run, data):
    done = unet("compare", "--data", "data", *TINY, "--model", "attention")
    assert done.returncode == 2
    assert "name several with --models" in done.stderr
