"""Networks for images on the slices of volumes: training, prediction and evaluation of NIfTI files and stacks, splits
that keep neighbouring slices apart, and neighbouring slices as channels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from volumes import drawn_volume, write_set, write_volume

from unet_cli.checkpoint import load_checkpoint
from unet_cli.cli.evaluate import evaluate
from unet_cli.cli.predict import predict
from unet_cli.config.data import Preprocessing
from unet_cli.config.evaluation import EvaluateConfig
from unet_cli.config.hardware import Hardware
from unet_cli.config.prediction import PredictConfig
from unet_cli.config.training import TrainConfig
from unet_cli.data.check.described import how_read
from unet_cli.data.check.examine import examine
from unet_cli.data.check.normalization import preprocessing_of
from unet_cli.data.folder.layout import layout_of
from unet_cli.data.formats.nifti import geometry_of
from unet_cli.data.imagefile import open_bands, read_image
from unet_cli.data.intensities import volume_intensities
from unet_cli.data.maskfile import read_mask
from unet_cli.data.preprocess import converted, middle_slice, own_intensities
from unet_cli.data.samples.dataset import SegmentationDataset
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.views import Stretched
from unet_cli.report.runs import report_run
from unet_cli.runs.division import divide
from unet_cli.runs.train import train
from unet_cli.system.console import Console
from unet_cli.system.device import choose_compute

pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
pytestmark = pytest.mark.usefixtures("undrawn")
QUIET = Console(quiet=True)


def trained(tmp_path, data, **settings):
    """The folder of a short run."""
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


# --- splits ---


def write_stacks(root, count=1, pages=20):
    """TIFF stacks of balls, each as long as asked for, with noise that no two pages share."""
    for index in range(count):
        image, mask = (np.concatenate([part] * 2)[:pages] for part in drawn_volume(index))
        image = image + np.random.default_rng(index).integers(0, 50, image.shape)
        for kind, values in (("images", (image + 500).clip(0).astype(np.uint16)), ("masks", mask)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(root / kind / f"block{index}.tif", values, photometric="minisblack")
    return root


def test_the_last_sections_of_a_block_are_held_out_and_alone_are_judged(tmp_path, capsys):
    root = write_stacks(tmp_path / "set")
    report = trained(tmp_path, root)
    split = json.loads((Path(report.run) / "split.json").read_text())
    assert (split["val"], split["gap"]) == (["block0#18", "block0#19", "block0#20"], ["block0#17"])
    assert len(split["train"]) == 16
    assert evaluate(EvaluateConfig(weights=(Path(report.best),), data=root, device="cpu"), Console()) == 0
    shown = capsys.readouterr()
    assert "3 images" in shown.out
    assert "17 images that the weights were trained on are left out" in shown.err


def test_a_single_volume_is_divided_and_its_held_out_slices_alone_are_judged(tmp_path, capsys):
    image, mask = drawn_volume(1)
    write_volume(tmp_path / "set" / "images" / "head.nii.gz", np.concatenate([image, image[::-1] + 5]))
    write_volume(tmp_path / "set" / "masks" / "head.nii.gz", np.concatenate([mask, mask[::-1]]))
    report = trained(tmp_path, tmp_path / "set", model="unet3d", epochs=2)
    split = json.loads((Path(report.run) / "split.json").read_text())
    (held,) = split["val"]
    first, last = (int(number) for number in held.removeprefix("head#").split("-"))
    assert last - first + 1 == 4  # 15 % of 24
    assert split["train"] == [f"head#1-{first - 2}", f"head#{last + 2}-24"][: 1 + (24 - last > 3)]
    assert split["how"].startswith(f"slices {first} to {last} of head.nii.gz, 1 slice beside them left out")
    assert report.scores
    # It is known by its contents, whatever its name.
    (tmp_path / "set").rename(tmp_path / "moved")
    for kind in ("images", "masks"):
        (tmp_path / "moved" / kind / "head.nii.gz").rename(tmp_path / "moved" / kind / "other.nii.gz")
    config = EvaluateConfig(weights=(Path(report.best),), data=tmp_path / "moved", device="cpu", csv=tmp_path / "a.csv")
    assert evaluate(config, Console()) == 0
    shown = capsys.readouterr()
    assert "1 volume" in shown.out
    assert "that the weights were trained on" in shown.err
    assert f"other#{first}-{last}" in (tmp_path / "a.csv").read_text()


def test_a_run_on_divided_volumes_is_resumed_and_reported_with_its_split(tmp_path):
    image, mask = drawn_volume(1)
    root = tmp_path / "set"
    for name in ("a", "b"):
        write_volume(root / "images" / f"{name}.nii.gz", image + np.int16(ord(name)))
        write_volume(root / "masks" / f"{name}.nii.gz", mask)
    first = trained(tmp_path, root, model="unet3d")
    split = json.loads((Path(first.run) / "split.json").read_text())
    assert len(split["val"]) == 2
    for kind, values in (("images", image), ("masks", mask)):  # of three volumes, one would be held out as a whole
        write_volume(root / kind / "c.nii.gz", values)
    again = trained(tmp_path, root, model="unet3d", epochs=2, resume=Path(first.run))
    assert (again.run, again.epochs) == (first.run, 2)
    found, _ = report_run(Path(first.run), tmp_path / "report.html", Hardware(device="cpu"), QUIET)
    assert [one.name for one in found.images] == split["val"]
    other = trained(tmp_path, root, model="unet3d", split=Path(first.run), skip_bad=True)
    assert json.loads((Path(other.run) / "split.json").read_text())["val"] == split["val"]


@pytest.mark.parametrize(("name", "orientation"), [("head.nii.gz", "upright"), ("block.tif", "any")])
def test_a_file_that_lies_in_space_is_upright_and_others_lie_any_way(tmp_path, name, orientation):
    for kind, volume in zip(("images", "masks"), drawn_volume(1), strict=True):
        path = write_volume(tmp_path / "set" / kind / "head.nii.gz", volume)
        if name.endswith("tif"):
            path.unlink()
            tifffile.imwrite(path.with_name(name), volume, photometric="minisblack")
    report = trained(tmp_path, tmp_path / "set", model="unet3d")
    assert load_checkpoint(Path(report.best)).preprocessing.orientation == orientation


def test_without_validation_a_volume_is_whole(tmp_path):
    root = tmp_path / "set"
    for kind, values in zip(("images", "masks"), drawn_volume(1), strict=True):
        write_volume(root / kind / "a.nii.gz", values)
    config = TrainConfig(data=root, model="unet3d", val_fraction=0)
    assert divide(config, layout_of(config), None).layout == layout_of(config)
    (root / "masks" / "a.nii.gz").write_bytes(b"no volume")
    config = TrainConfig(data=root, model="unet3d")
    assert divide(config, layout_of(config), None).layout == layout_of(config)  # the check of the data says why
    with pytest.raises(UserError, match=r"a\.nii\.gz"):
        trained(tmp_path, root, model="unet3d")


def test_slices_of_a_volume_are_read_alike_in_all_ways(tmp_path):
    root = write_set(tmp_path / "set", channels=2)
    paths = tuple(sorted((root / "imagesTr").glob("case_001*")))
    whole, part = Source(paths, is_volume=True), Source(paths, is_volume=True, slices=(3, 7))
    assert str(part).endswith("slices 4 to 7")
    pixels = read_image(whole)
    assert (read_image(part) == pixels[:, 3:7]).all()
    for source, expected in ((whole, pixels), (part, pixels[:, 3:7])):
        bands = open_bands(source)
        assert (bands.channels, bands.spatial) == (2, expected.shape[1:])
        assert (np.concatenate([slab for _, slab in bands.rows()], axis=1) == expected).all()
    mask = Source((root / "labelsTr" / "case_001.nii.gz",), is_volume=True, slices=(3, 7))
    assert (read_mask(mask).values == drawn_volume(1)[1][3:7]).all()
    with pytest.raises(UserError, match="has 12 slices, so none of number 14: was it replaced"):
        read_image(replace(part, slices=(3, 14)))


# --- neighbouring slices as channels ---


def test_a_page_is_read_with_its_neighbours_mirrored_at_the_ends(tmp_path):
    pages = np.arange(5 * 36, dtype=np.uint8).reshape(5, 6, 6)
    np.save(tmp_path / "a.npy", pages)
    np.save(tmp_path / "b.npy", pages + 70)
    for page, around, expected in ((2, 1, [1, 2, 3]), (0, 1, [1, 0, 1]), (4, 2, [2, 3, 4, 3, 2])):
        source = Source((tmp_path / "a.npy",), page=page, around=around)
        assert (read_image(source) == pages[expected]).all()
        ((_, band),) = open_bands(source).rows()
        assert (band == pages[expected]).all()
        both = np.stack([pages[expected], pages[expected] + 70], axis=1).reshape(-1, 6, 6)
        assert (read_image(replace(source, paths=(tmp_path / "a.npy", tmp_path / "b.npy"))) == both).all()
    np.save(tmp_path / "single.npy", pages[0])
    assert (read_image(Source((tmp_path / "single.npy",), around=2)) == pages[[0] * 5]).all()


def test_each_slice_is_converted_to_the_channels_of_training():
    rule = Preprocessing(size=4, in_channels=9, dtype="uint8", mean=(0.0,) * 9, std=(1.0,) * 9, slices=3)
    image = np.arange(3, dtype=np.uint8)[:, None, None] + np.zeros((3, 4, 4), np.uint8)
    colours, note = converted(image, rule)
    assert colours[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "gray was repeated" in note
    gray, _ = converted(colours, replace(rule, in_channels=3, mean=(0.0,) * 3, std=(1.0,) * 3))
    assert (gray == image).all()
    assert (middle_slice(colours, 3) == colours[3:6]).all()
    with pytest.raises(UserError, match="has 1 channel, but the network was trained on those of 3 slices"):
        converted(image[:1], rule)


@pytest.mark.parametrize(("slices", "channels"), [(2, 2), (3, 4), (17, 17), (0, 1)])
def test_impossible_numbers_of_slices_are_refused(slices, channels):
    with pytest.raises(UserError, match="slices"):
        Preprocessing(
            size=4, in_channels=channels, dtype="uint8", mean=(0.0,) * channels, std=(1.0,) * channels, slices=slices
        )


@pytest.mark.parametrize(("kind", "mode"), [("tif", "resize"), ("tif", "tile"), ("nifti", "resize")])
def test_neighbours_are_seen_in_training_and_prediction_alike(tmp_path, kind, mode):
    root = write_set(tmp_path / "set", count=5, channels=2) if kind == "nifti" else write_stacks(tmp_path / "set")
    inputs = root / ("imagesTs" if kind == "nifti" else "images")
    report = trained(tmp_path, root, slices=3, mode=mode, model="auto")
    checkpoint = load_checkpoint(Path(report.best))
    preprocessing = checkpoint.preprocessing
    of_slice = 2 if kind == "nifti" else 1
    assert (checkpoint.model.name, preprocessing.slices, preprocessing.in_channels) == ("unet", 3, 3 * of_slice)
    assert len(preprocessing.mean) == 3 * of_slice
    assert preprocessing.mean[:of_slice] == preprocessing.mean[of_slice : 2 * of_slice]
    assert {"dice", "set_dice"} <= report.scores.keys()
    flags = {"weights": (Path(report.best),), "input": str(inputs), "device": "cpu"}
    assert predict(PredictConfig(**flags, output=tmp_path / "out", format="tif"), QUIET) == 0
    predictor = Predictor([checkpoint], choose_compute("cpu", "auto"))
    name, paths = ("block0", [inputs / "block0.tif"])
    if kind == "nifti":
        name, paths = "case_006", sorted(inputs.glob("case_006*"))
    volume = np.stack([read_image(Source((path,), is_volume=True))[0] for path in paths], axis=1)
    written = tifffile.imread(tmp_path / "out" / f"{name}.tif")
    for page, near in ((0, (1, 0, 1)), (7, (6, 7, 8)), (len(volume) - 1, (-2, -1, -2))):
        seen = np.concatenate([volume[place] for place in near])
        source = Source(tuple(paths), page=page)
        picture = predictor.read(source)
        if mode == "resize":
            alone = Stretched(predictor.members, seen, (), [volume_intensities(source, preprocessing)])
            assert next(alone.views()).intensities[0] is None or kind == "nifti"
            assert (next(picture.views()).inputs[0] == next(alone.views()).inputs[0]).all()
        else:
            assert (predictor(np.moveaxis(seen, 0, -1)) == written[page]).all()
        rows = [predictor.classes(band.finished()) for band in predictor.bands(predictor.read(source))]
        assert (predictor.labels.decode(np.concatenate(rows)) == written[page]).all()


def test_slices_are_normalised_by_the_values_of_their_volume(tmp_path):
    root = write_set(tmp_path / "set", count=2, channels=2)
    config = TrainConfig(data=root)
    card = examine(layout_of(config), config, QUIET, as_volumes=False)
    pairs = card.pairs("train")
    rule = preprocessing_of(card, pairs, 16, slices=3, in_channels=6)
    assert (rule.intensity, rule.statistics) == ("percentile", "volume")
    assert "its volume's mean and deviation between" in rule.describe_intensity()
    volume = np.stack([drawn_volume(1)[0], drawn_volume(1)[0] + 100]).astype(np.float32)
    of_volume = replace(rule, slices=1, in_channels=2, mean=rule.mean[:2], std=rule.std[:2], statistics="image")
    expected = own_intensities(torch.from_numpy(volume)[None], of_volume)[0]
    data = SegmentationDataset(pairs, rule, card.labels)
    for page in (12, 20):
        assert torch.equal(data.sample(page)[2], expected)
        assert torch.equal(volume_intensities(pairs[page].image, rule), expected)
    assert not torch.equal(data.sample(0)[2], expected)  # of another volume


def test_slices_are_kept_by_later_runs_and_refused_where_there_are_none(tmp_path):
    root = write_stacks(tmp_path / "set")
    first = trained(tmp_path, root, slices=5, model="unet")
    split = json.loads((Path(first.run) / "split.json").read_text())
    assert split["gap"] == ["block0#16", "block0#17"]  # what the last pages of training see is not held out
    second = trained(tmp_path, root, init=Path(first.best))
    assert load_checkpoint(Path(second.best)).preprocessing.slices == 5
    with pytest.raises(UserError, match="--slices is 4: give an odd number"):
        TrainConfig(data=root, slices=4)
    with pytest.raises(UserError, match="--slices is for networks for images, and unet3d sees volumes"):
        trained(tmp_path, root, slices=3, model="unet3d")
    for path in list(root.rglob("*.tif")):
        pages = tifffile.imread(path)
        for number in range(4):
            tifffile.imwrite(path.with_name(f"block{number}.tif"), pages[5 + number])
    with pytest.raises(UserError, match="--slices 3: no file of .* has several pages"):
        trained(tmp_path, root, slices=3)
    flat = trained(tmp_path, root, init=Path(first.best))  # the weights' own number is no wish
    assert load_checkpoint(Path(flat.best)).preprocessing.slices == 1
