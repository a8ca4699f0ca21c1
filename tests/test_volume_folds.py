"""Folds of one or two volumes: each slice is held out once, and no network is judged by slices that it has seen."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from test_sections import trained
from volumes import drawn_volume, write_volume

from unet_cli.cli.evaluate import evaluate
from unet_cli.config.evaluation import EvaluateConfig
from unet_cli.config.training import TrainConfig
from unet_cli.data.folder.layout import layout_of
from unet_cli.errors import UserError
from unet_cli.runs.folds import Folds, train_folds
from unet_cli.system.console import Console

pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
pytestmark = pytest.mark.usefixtures("undrawn")


def write_heads(root: Path, *names: str) -> Path:
    """Volumes of 24 slices, all different."""
    for index, name in enumerate(names, 1):
        image, mask = drawn_volume(index)
        write_volume(root / "images" / f"{name}.nii.gz", np.concatenate([image, image[::-1] + 5]))
        write_volume(root / "masks" / f"{name}.nii.gz", np.concatenate([mask, mask[::-1]]))
    return root


def cross_validate(root: Path, **settings: object) -> Folds:
    usual = {"model": "unet3d", "size": 32, "width": 2, "depth": 1, "epochs": 1, "device": "cpu"}
    config = TrainConfig(data=root, output=root.parent / "runs", folds=2, fold="all", **usual | settings)
    return train_folds(config, layout_of(config), Console(), time.monotonic())


def test_each_slice_is_held_out_once_and_scored_by_the_network_that_has_not_seen_it(tmp_path, capsys):
    root = write_heads(tmp_path / "set", "head")
    found = cross_validate(root)
    splits = [json.loads((Path(found.folder) / f"fold{number}" / "split.json").read_text()) for number in (1, 2)]
    assert [(split["train"], split["val"]) for split in splits] == [
        (["head#14-24"], ["head#1-12"]),
        (["head#1-11"], ["head#13-24"]),
    ]
    assert splits[1]["how"] == (
        "fold 2 of 2, slices 13 to 24 of head.nii.gz, 1 slice beside them left out, since neighbours are nearly "
        "identical"
    )
    page = Path(found.page).read_text()
    assert "head#1-12" in page
    assert "head#13-24" in page
    said = capsys.readouterr().err
    assert "have changed since" not in said
    again = cross_validate(root, resume=Path(found.folder), epochs=2)
    assert [fold.epochs for fold in again.folds] == [2, 2]
    config = EvaluateConfig(weights=(Path(found.folder),), data=root, device="cpu", csv=tmp_path / "a.csv")
    assert evaluate(config, Console()) == 0
    rows = (tmp_path / "a.csv").read_text()
    judged = list(dict.fromkeys(line.split(",")[0] for line in rows.splitlines()[1:]))
    assert judged == ["head#1-12", "head#13-24"]
    assert "2 images that the weights were trained on are left out" in capsys.readouterr().err


def test_a_single_fold_holds_out_its_block_of_each_of_two_volumes(tmp_path):
    root = write_heads(tmp_path / "set", "one", "two")
    report = trained(tmp_path, root, model="unet3d", folds=3, fold=2)
    split = json.loads((Path(report.run) / "split.json").read_text())
    assert split["val"] == ["one#9-16", "two#9-16"]
    assert split["train"] == ["one#1-7", "one#18-24", "two#1-7", "two#18-24"]


def test_more_folds_than_there_are_slices_for_are_refused(tmp_path):
    root = write_heads(tmp_path / "set", "head")
    with pytest.raises(UserError, match=r"--folds 13: .*head\.nii\.gz has only 24 slices, and each fold needs two"):
        trained(tmp_path, root, model="unet3d", folds=13, fold=1)
    with pytest.raises(UserError, match="--fold is 4, of --folds 3"):
        trained(tmp_path, root, model="unet3d", folds=3, fold=4)
