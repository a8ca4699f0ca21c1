"""Networks for images on the slices of volumes: training, prediction and evaluation of NIfTI files and stacks, splits
that keep neighbouring slices apart, and neighbouring slices as channels."""

from pathlib import Path

import pytest
from volumes import drawn_volume, write_set, write_volume

from unet_cli.checkpoint import load_checkpoint
from unet_cli.cli.evaluate import evaluate
from unet_cli.config.evaluation import EvaluateConfig
from unet_cli.config.prediction import PredictConfig
from unet_cli.config.training import TrainConfig
from unet_cli.data.check.described import how_read
from unet_cli.data.check.examine import examine
from unet_cli.data.check.normalization import preprocessing_of
from unet_cli.data.folder.layout import layout_of
from unet_cli.data.formats.nifti import geometry_of
from unet_cli.data.imagefile import read_image
from unet_cli.data.source import Source
from unet_cli.inference.predictor import Predictor
from unet_cli.system.console import Console
from unet_cli.system.device import choose_compute

pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
QUIET = Console(quiet=True)


def trained(tmp_path, data, **settings):
    """The folder of a short run."""
    from unet_cli.runs.train import train

    usual = {
        "model": "unet",
        "size": 32,
        "width": 2,
        "depth": 1,
        "epochs": 1,
        "device": "cpu",
        "output": tmp_path / "runs",
    }
    config = TrainConfig(data=data, **usual | settings)
    return train(config, layout_of(config), QUIET, 0.0)


def test_slices_of_nifti_are_trained_on_predicted_into_nifti_and_evaluated(tmp_path, capsys):
    from unet_cli.cli.predict import predict

    root = write_set(tmp_path / "set", count=4)
    report = trained(tmp_path, root)
    preprocessing = load_checkpoint(Path(report.best)).preprocessing
    assert (preprocessing.pages, preprocessing.orientation) == ("images", "upright")
    assert preprocessing.intensity == "percentile"
    config = PredictConfig(
        weights=(Path(report.best),), input=str(root / "imagesTs"), output=tmp_path / "out", device="cpu", overlay=True
    )
    assert predict(config, QUIET) == 0
    for index in (4, 5):
        image, mask = (
            tmp_path / "set" / "imagesTs" / f"case_00{index}_0000.nii.gz",
            tmp_path / "out" / f"case_00{index}_0000.nii.gz",
        )
        first, second = geometry_of(image), geometry_of(mask)
        assert (first.shape, first.stored) == (second.shape, second.stored)
        assert (first.affine == second.affine).all()
        assert (tmp_path / "out" / f"case_00{index}_0000_overlay.png").exists()
    predictor = Predictor([load_checkpoint(Path(report.best))], choose_compute("cpu", "auto"))
    image = Source((tmp_path / "set" / "imagesTs" / "case_004_0000.nii.gz",), page=7)
    ((rows,),) = (list(predictor.bands(predictor.read(image))) for _ in range(1))
    expected = predictor.classes(rows.finished())
    written = read_image(Source((tmp_path / "out" / "case_004_0000.nii.gz",), page=7))[0]
    assert (written == predictor.labels.decode(expected)).all()


def test_evaluation_of_slices_leaves_out_those_that_were_trained_on(tmp_path, capsys):
    root = write_set(tmp_path / "set", count=4)
    report = trained(tmp_path, root)
    assert evaluate(EvaluateConfig(weights=(Path(report.best),), data=root, device="cpu"), Console()) == 0
    shown = capsys.readouterr()
    assert "12 images" in shown.out
    assert "36 images that the weights were trained on are left out" in shown.err
    assert "unet evaluate --pred, score whole volumes" in shown.err


def test_the_rules_of_volumes_hold_for_their_slices(tmp_path):
    """A CT's slices without bone are normalised like the others, by the values of the foreground."""
    for index in range(4):
        image, mask = drawn_volume(index)
        image[0], image[-1, :4] = -1000, 800
        write_volume(tmp_path / "set" / "images" / f"{index}.nii.gz", image)
        write_volume(tmp_path / "set" / "masks" / f"{index}.nii.gz", mask)
    config = TrainConfig(data=tmp_path / "set")
    cards = {kind: examine(layout_of(config), config, QUIET, as_volumes=kind) for kind in (True, False)}
    rules = {kind: preprocessing_of(card, card.pairs("train"), 32) for kind, card in cards.items()}
    assert rules[False].intensity == "dataset"
    assert rules[False].clip == rules[True].clip != ()
    assert rules[False].mean == pytest.approx(rules[True].mean)
    train = [pair for pair, facts in cards[False].everything if not facts.values.counts.keys() - {0}]
    assert preprocessing_of(cards[False], train, 32).clip == ()  # no foreground to measure


@pytest.mark.parametrize(
    ("as_volumes", "says"),
    [
        (None, "NIfTI files are volumes: unet3d; --model unet"),
        (False, "Slices of NIfTI files are images; --model unet3d takes each file as a volume"),
    ],
)
def test_what_a_file_is_taken_for_is_said(tmp_path, as_volumes, says):
    config = TrainConfig(data=write_set(tmp_path / "set", count=2))
    (line,) = how_read(examine(layout_of(config), config, QUIET, as_volumes=as_volumes))
    assert says in line
