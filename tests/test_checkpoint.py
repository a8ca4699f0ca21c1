"""One file that needs nothing else, holds nothing that runs code, and is there whole or not at all."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Run, json_lines

import unet_cli.checkpoint
from unet_cli.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.model import ModelConfig
from unet_cli.data.labels import LabelMap
from unet_cli.errors import UserError
from unet_cli.models import build_model


@pytest.fixture
def checkpoint() -> Checkpoint:
    model = ModelConfig(base_channels=2, depth=2, in_channels=1, upsampling="bilinear")
    return Checkpoint(
        model=model,
        preprocessing=Preprocessing(size=64, in_channels=1, dtype="uint16", mean=(5.5,), std=(2.0,)),
        labels=LabelMap((0, 7), ("background", "cell"), palette=(0, 0, 0, 1, 1, 1)),
        weights=build_model(model).state_dict(),
        training={"seed": 4},
        data=["12 pairs"],
        metrics={"val_dice": 0.5},
        best_threshold=0.4,
        temperature=1.75,
        resume={"step": 3},
    )


def test_everything_comes_back(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "best.pth", checkpoint)
    back = load_checkpoint(tmp_path / "best.pth")
    assert replace(back, weights={}) == replace(checkpoint, weights={})
    image = torch.randn(1, 1, 20, 20)
    with torch.no_grad():
        assert torch.equal(back.build().eval()(image), checkpoint.build().eval()(image))


@pytest.mark.parametrize("version", [1, 2])
def test_files_from_before_there_was_a_temperature_have_one_that_changes_nothing(checkpoint, tmp_path, version):
    save_checkpoint(tmp_path / "best.pth", checkpoint)
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    del content["temperature"]
    torch.save(content | {"format_version": version}, tmp_path / "old.pth")
    assert load_checkpoint(tmp_path / "old.pth").temperature == 1


def test_images_of_files_from_before_there_was_an_orientation_have_any(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "best.pth", checkpoint)
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    preprocessing = content["preprocessing"]
    del preprocessing["orientation"]
    torch.save(content | {"format_version": 4}, tmp_path / "old.pth")
    assert load_checkpoint(tmp_path / "old.pth").preprocessing.orientation == "any"
    torch.save(content | {"preprocessing": preprocessing | {"orientation": "auto"}}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="preprocessing.orientation is 'auto', and none of upright, any"):
        load_checkpoint(tmp_path / "odd.pth")


def test_info_tells_the_temperature_where_there_is_one(unet: Run, checkpoint, tmp_path):
    save_checkpoint(tmp_path / "fitted.pth", checkpoint)
    save_checkpoint(tmp_path / "plain.pth", replace(checkpoint, temperature=1.0))
    assert "\ntemperature    1.75\n" in unet("info", "fitted.pth").stdout
    assert "temperature" not in unet("info", "plain.pth").stdout
    assert json_lines(unet("info", "plain.pth", "--json").stdout)[0]["temperature"] == 1


def test_a_run_folder_stands_for_its_best(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "best.pth", checkpoint)
    assert load_checkpoint(tmp_path).model == checkpoint.model


def test_a_missing_file_names_the_newest_runs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nothing.pth does not exist: check the path, or train a network first"):
        load_checkpoint(Path("nothing.pth"))
    (tmp_path / "checkpoints" / "a").mkdir(parents=True)
    save_checkpoint(tmp_path / "checkpoints" / "a" / "best.pth", checkpoint)
    with pytest.raises(UserError, match="newest run's is checkpoints/a/best.pth"):
        load_checkpoint(Path("nothing.pth"))


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_what_is_not_ours_is_refused_and_never_run(checkpoint, tmp_path, capsys):
    torch.save({"format": "unet-checkpoint", "evil": Evil()}, tmp_path / "evil.pth")
    torch.save(checkpoint.weights, tmp_path / "raw.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    (tmp_path / "stack.pth").write_text("s is popped off an empty stack")
    (tmp_path / "text.pth").write_text("no weights here")
    (tmp_path / "empty.pth").touch()
    save_checkpoint(tmp_path / "whole.pth", checkpoint)
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    for name in ("evil", "raw", "pickle", "text", "stack", "empty", "cut"):
        with pytest.raises(UserError, match=f"{name}.pth .*unet train"):
            load_checkpoint(tmp_path / f"{name}.pth")
    assert capsys.readouterr().out == ""


def test_a_newer_format_says_to_update(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(unet_cli.checkpoint, "FORMAT_VERSION", 99)
    save_checkpoint(tmp_path / "new.pth", checkpoint)
    monkeypatch.undo()
    with pytest.raises(UserError, match="newer than this one: update unet"):
        load_checkpoint(tmp_path / "new.pth")


def test_a_failed_save_leaves_the_old_file_whole(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "best.pth"
    save_checkpoint(path, checkpoint)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left on device: free some space"):
        save_checkpoint(path, replace(checkpoint, threshold=0.1))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.pth"]
