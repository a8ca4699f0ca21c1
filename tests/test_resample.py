"""Volumes of several spacings: what is resampled, that nothing grows, shrinks or moves, and that masks come back on the
grid of their own file. Balls are drawn in mm, so that their size is known at any spacing."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import Run, assert_failed
from test_predict_volumes import CPU, RULE, VOLUME, checkpoint_of, handing_on, seen
from torch.nn import functional as F
from volumes import write_volume

import unet_cli
from unet_cli.checkpoint import load_checkpoint, save_checkpoint
from unet_cli.config.prediction import Inference
from unet_cli.config.spacing import in_mm, parse_resample, parse_spacing, spell_spacing
from unet_cli.data.imagefile import Bands, one_band
from unet_cli.data.labels import LabelMap
from unet_cli.data.resample import Resampler, resampled, resampled_mask, size_at
from unet_cli.data.samples.cutting import Grid
from unet_cli.data.samples.dataset import SegmentationDataset
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.resampled import Resampled
from unet_cli.inference.views import Tiled

FINE, COARSE = (1.0, 1.0, 1.0), (3.0, 1.0, 1.0)


def ball(spacing: tuple[float, ...], radius: float = 12.0, edge: float = 36.0, shift: float = 0.0) -> np.ndarray:
    """A ball in a cube, both in mm, as uint8 (D, H, W) at this spacing. shift: of its centre along the rows."""
    axes = [(np.arange(round(edge / step)) + 0.5) * step - edge / 2 for step in spacing]
    axes[1] = axes[1] - shift
    return (sum(np.meshgrid(*(axis**2 for axis in axes), indexing="ij")) < radius**2).astype(np.uint8)


# --- the arithmetic


@pytest.mark.parametrize(
    ("size", "spacing", "wanted", "expected"),
    [
        ((12, 36, 36), COARSE, FINE, (36, 36, 36)),
        ((36, 36, 36), FINE, COARSE, (12, 36, 36)),
        ((36, 36, 36), (1.009, 1, 1), FINE, (36, 36, 36)),  # within 1 %
        ((360, 36, 36), (1.02, 1, 0.995), FINE, (367, 36, 36)),
        ((1, 4, 4), (0.1, 1, 1), COARSE, (1, 4, 4)),  # never less than one slice
        ((12, 36, 36), None, FINE, (12, 36, 36)),
        ((12, 36, 36), COARSE, (), (12, 36, 36)),
    ],
)
def test_the_size_follows_from_the_spacings(size, spacing, wanted, expected):
    assert size_at(size, spacing, wanted) == expected


def test_what_would_fill_the_memory_is_refused_with_what_to_do():
    with pytest.raises(
        UserError, match=r"has voxels of 500x500x500 mm, and would have 1.2e.14 at the network's 1x1x1 mm: .*"
    ):
        size_at((100, 100, 100), (500.0,) * 3, FINE)


@pytest.mark.parametrize(("own", "other"), [(FINE, COARSE), (COARSE, FINE)])
def test_a_ball_keeps_its_volume_in_mm_there_and_back(own, other):
    mask = torch.from_numpy(ball(own))
    there = resampled_mask(mask, size_at(tuple(mask.shape), own, other))
    probs = resampled(there[None].float(), tuple(mask.shape))[0]
    true = 4 / 3 * math.pi * 12**3
    for values, spacing in ((mask, own), (there, other), (probs >= 0.5, own)):
        assert float(values.sum()) * math.prod(spacing) == pytest.approx(true, rel=0.04)
    overlap = 2 * float((mask.bool() & (probs >= 0.5)).sum()) / float(mask.sum() + (probs >= 0.5).sum())
    assert overlap > 0.95


@pytest.mark.parametrize("size", [(5, 7, 9), (30, 14, 9), (3, 3, 3), (1, 1, 1), (23, 5, 20), (11, 7, 9)])
def test_each_axis_is_interpolated_as_an_image_is_stretched_in_slabs_and_from_any_slice_alike(size):
    volume = torch.randn(2, 11, 7, 9, generator=torch.Generator().manual_seed(0))
    along = F.interpolate(volume[None].flatten(3), size=(size[0], 63), mode="bilinear", antialias=True)[0]
    slices = along.unflatten(2, (7, 9)).transpose(0, 1)
    expected = F.interpolate(slices, size=size[1:], mode="bilinear", antialias=True).transpose(0, 1)
    whole = resampled(volume, size)
    assert torch.allclose(whole, expected, atol=1e-5)
    for first in {0, size[0] // 2, size[0] - 1}:
        resampler = Resampler((11, 7, 9), size, first)
        added = [resampler.add(start, volume[:, start : start + 2]) for start in range(0, 11, 2)]
        parts = [part for part in added if part is not None]
        assert parts[0][0] == first
        assert torch.equal(torch.cat([part for _, part in parts], 1), whole[:, first:])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_what_shrinks_is_averaged_and_rounded_in_its_own_type(dtype):
    board = (torch.from_numpy(np.indices((8, 8, 8)).sum(0) % 2) * 201).to(dtype)
    small = resampled(board[None], (2, 2, 2))
    assert small.dtype == dtype
    assert (small.float() - 100.5).abs().max() < 10
    assert torch.equal(resampled_mask(board.to(torch.int32) * 1000, (16, 8, 8))[::2], board.to(torch.int32) * 1000)


# --- samples


def pair_of(folder: Path, name: str, spacing: tuple[float, ...]) -> Pair:
    """A noisy ball and its mask as NIfTI."""
    mask = ball(spacing)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    paths = [folder / kind / f"{name}.nii.gz" for kind in ("images", "masks")]
    noise = np.random.default_rng(sum(name.encode())).normal(0, 20, mask.shape)
    write_volume(paths[0], (mask * 300.0 + noise).astype(np.int16), affine)
    write_volume(paths[1], mask, affine)
    return Pair(name, *(Source((path,), is_volume=True) for path in paths))


def test_samples_have_the_networks_spacing_and_statistics_of_the_file(tmp_path):
    pair = pair_of(tmp_path, "a", COARSE)
    rule = replace(RULE, patch=(36, 36, 36), spacing=FINE, intensity="percentile")
    labels = LabelMap((0, 1), ("background", "organ"))
    apart = (SegmentationDataset([pair], rule, labels, Grid([(12, 36, 36)], (12, 36, 36)), stored=[(12, 36, 36)]),)
    apart += (SegmentationDataset([pair], rule, labels, Grid([(36, 36, 36)], (36, 36, 36)), stored=[(12, 36, 36)]),)
    (_, mask, before), (image, fine, after) = (dataset.sample(0) for dataset in apart)
    assert (mask.shape, fine.shape, image.shape) == ((12, 36, 36), (36, 36, 36), (1, 36, 36, 36))
    assert torch.equal(before, after)
    assert int(fine.sum()) == 3 * int(mask.sum())
    assert ((image[0] > 150) == fine.bool()).float().mean() > 0.97
    changed = SegmentationDataset([pair], rule, labels, Grid([(36, 36, 36)], (36, 36, 36)), stored=[(13, 36, 36)])
    with pytest.raises(UserError, match="is 36x36x12, but was 36x36x13 before training"):
        changed.sample(0)


# --- prediction


def smooth(*sides: int) -> np.ndarray:
    """Volume of a few waves, which survives resampling."""
    places = np.meshgrid(*(np.linspace(0, 3, side, endpoint=False) for side in sides), indexing="ij")
    return np.sin(sum(places)).astype(np.float32)


def spaced(spacing: tuple[float, ...], **rule: object) -> Predictor:
    """A predictor that hands on what it sees, at this spacing."""
    predictor = handing_on((8, 16, 16))
    predictor.preprocessing = replace(predictor.members[0].preprocessing, spacing=spacing, **rule)
    predictor.members = [replace(predictor.members[0], preprocessing=predictor.preprocessing)]
    return predictor


def test_probabilities_come_back_in_their_places_on_the_volumes_own_grid():
    predictor = spaced((1.0, 2.0, 1.0))
    volume = smooth(20, 40, 30)
    picture = predictor._in_tiles(one_band(volume[None]), (3.0, 1.0, 1.0))
    assert isinstance(picture, Resampled)
    assert picture.notes == {"resampled to the network's voxels of 1x2x1 mm"}
    assert picture._within == (60, 20, 30)
    assert picture.shape == (20, 40, 30)
    assert np.abs(seen(predictor, picture) - 1 / (1 + np.exp(-volume))).max() < 0.02


def test_a_stopped_volume_goes_on_from_any_of_its_rows_to_the_same_values():
    predictor = spaced((2.0, 1.0, 1.0))
    slabs = Bands(1, VOLUME.shape, VOLUME.dtype, (), lambda top: ((n, VOLUME[None, n : n + 1]) for n in range(top, 21)))
    whole = seen(predictor, predictor._in_tiles(slabs, FINE)).reshape(-1, 26)
    for top in (0, 1, 29, 30, 300, 629):
        picture, rows = predictor._in_tiles(slabs, FINE), {}
        views = list(picture.views(top))
        assert len(views) < picture.view_count or top < 600
        for view in views:
            band = picture.add(view, predictor.probabilities([view])[0])
            if band is not None:
                rows |= dict(enumerate(band.finished()[0].numpy(), band.top))
        assert all((rows[row] == whole[row]).all() for row in range(top, 630))


def test_missing_values_are_filled_before_they_would_spread():
    predictor = spaced((2.0, 1.0, 1.0))
    volume = np.where(np.indices(VOLUME.shape).sum(0) % 7, VOLUME, np.float32(np.nan))
    filled = np.nan_to_num(volume, nan=0.0)
    pictures = [predictor._in_tiles(one_band(values[None]), FINE) for values in (volume, filled)]
    assert (seen(predictor, pictures[0]) == seen(predictor, pictures[1])).all()
    assert any("NaN" in note for note in pictures[0].notes)


def test_a_volume_is_normalised_by_the_statistics_of_its_file_as_in_training():
    predictor = spaced((4.0, 1.0, 1.0), intensity="image")
    picture = predictor._in_tiles(one_band(VOLUME[None]), FINE)
    view = next(picture.views())
    assert view.intensities[0][2:].tolist() == pytest.approx([VOLUME.mean(), VOLUME.std()], rel=1e-3)
    assert view.inputs[0].std() < 0.7 * VOLUME.std()  # noise that four slices average out


def test_volumes_of_the_networks_spacing_are_predicted_as_before(tmp_path):
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    source = Source((write_volume(tmp_path / "a.nii.gz", VOLUME, affine),), is_volume=True)
    before, after = (Predictor([checkpoint_of(replace(RULE, spacing=step))], CPU) for step in ((), (3.02, 1, 1)))
    pictures = [predictor.read(source) for predictor in (before, after)]
    assert [type(picture) for picture in pictures] == [Tiled, Tiled]
    assert (seen(before, pictures[0]) == seen(after, pictures[1])).all()
    assert pictures[1].notes == set()


def test_a_volume_that_doesnt_tell_is_predicted_as_it_is_and_a_stated_spacing_wins(tmp_path):
    np.save(tmp_path / "a.npy", VOLUME)
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    files = (tmp_path / "a.npy", write_volume(tmp_path / "b.nii.gz", VOLUME, affine))
    untold, told = (Source((path,), is_volume=True) for path in files)
    one = checkpoint_of(replace(RULE, spacing=(3.0, 1.0, 1.0)))
    plain, stated = Predictor([one], CPU), Predictor([one], CPU, Inference(spacing=parse_spacing("1500,1000,1000um")))
    assert any("--spacing states it" in note for note in plain.read(untold).notes)
    assert [type(plain.read(source)) for source in (untold, told)] == [Tiled, Tiled]
    assert [stated.read(source)._within for source in (untold, told)] == [(10, 30, 26)] * 2
    save_checkpoint(tmp_path / "a.pth", one)
    mask = unet_cli.load(tmp_path / "a.pth", spacing="1.5,1,1mm", device="cpu", precision="float32")(VOLUME)
    assert (mask == stated(VOLUME)).all()
    assert (mask != plain(VOLUME)).any()


def test_networks_of_other_spacings_are_not_averaged():
    ours, same, theirs, native = (
        checkpoint_of(replace(RULE, spacing=step)) for step in (COARSE, (3.01, 1, 1), (3.1, 1, 1), ())
    )
    Predictor([ours, same], CPU)
    with pytest.raises(UserError, match=r"different spacings, 1x1x3 mm and 1x1x3.1 mm: .* the same --resample"):
        Predictor([ours, theirs], CPU)
    with pytest.raises(UserError, match="1x1x3 mm and that of each file"):
        Predictor([ours, native], CPU)


# --- the commands

TINY = ("--model", "unet3d", "--width", 4, "--depth", 1, "--epochs", 1, "--batch-size", 2, "--device", "cpu")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Six balls, two of them in thick slices."""
    for number in range(6):
        pair_of(tmp_path / "set", f"case{number}", COARSE if number in (1, 4) else FINE)
    return tmp_path / "set"


def test_training_on_mixed_spacings_and_prediction_on_each_files_own_grid(unet: Run, mixed, tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
    done = unet("train", "--data", mixed, *TINY, "--name", "a")
    assert done.returncode == 0, done.stderr
    assert "2 of 6 volumes are resampled to voxels of 1x1x1 mm, their median (--resample native" in done.stderr
    assert load_checkpoint(tmp_path / "checkpoints/a").preprocessing.spacing == FINE
    assert "voxels of 1x1x1 mm" in unet("info", "checkpoints/a").stdout
    done = unet("predict", "--weights", "checkpoints/a", "--input", mixed / "images", "--output", "out", "--overlay",
                "--probabilities")  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path in (mixed / "images").iterdir():
        image, mask = nibabel.load(path), nibabel.load(tmp_path / "out" / path.name)
        assert image.shape == mask.shape
        assert (image.affine == mask.affine).all()
    for number in (7, 8):
        pair_of(tmp_path / "more", f"case{number}", (FINE, COARSE)[number % 2])
    done = unet("evaluate", "--weights", "checkpoints/a", "--data", "more", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 2
    assert json.loads(done.stdout)["unit"] == "mm"


def test_another_spacing_and_what_files_dont_tell_last_as_long_as_the_run(unet: Run, tmp_path):
    for number in range(4):
        for kind, factor in (("images", 200), ("masks", 1)):
            path = tmp_path / "set" / kind / f"{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, ball(COARSE) * np.uint8(factor), photometric="minisblack")
    flags = ("train", "--data", "set", *TINY, "--name", "a")
    refused = unet(*flags, "--resample", "2,2,2")
    assert_failed(refused, 1, "--resample: 4 files of 4 don't tell", "state it with --spacing SLICES,ROWS,COLUMNS")
    done = unet(*flags, "--resample", "2,2,2", "--spacing", "3,1,1mm")
    assert done.returncode == 0, done.stderr
    assert "4 of 4 volumes are resampled to voxels of 2x2x2 mm\n" in done.stderr
    found = load_checkpoint(tmp_path / "checkpoints/a")
    assert found.preprocessing.spacing == (2, 2, 2)
    assert found.model.flat == (0, 0, 0)
    assert found.training["resample"] == "2.0,2.0,2.0"
    assert (tmp_path / "checkpoints/a/config.toml").read_text().count('spacing = "3.0,1.0,1.0mm"') == 1
    assert_failed(unet("train", "--resume", "checkpoints/a", "--resample", "1"), 1, "--resume: the run was started")
    assert unet("train", "--resume", "checkpoints/a", "--epochs", 2).returncode == 0
    assert unet("report", "checkpoints/a").returncode == 0
    assert unet("train", "--data", "set", *TINY, "--spacing", "3,1,1", "--name", "b").returncode == 0
    found = load_checkpoint(tmp_path / "checkpoints/b")
    assert (found.preprocessing.spacing, found.model.flat) == ((3, 1, 1), (1, 0, 0))


def test_native_volumes_stay_as_they_are(unet: Run, mixed, tmp_path):
    done = unet("train", "--data", mixed, *TINY, "--resample", "native", "--name", "a")
    assert done.returncode == 0, done.stderr
    assert "resampled" not in done.stderr
    assert load_checkpoint(tmp_path / "checkpoints/a").preprocessing.spacing == ()


def test_spacings_are_read_as_they_are_spelled():
    for text in ("3.0,1.0,1.0mm", "0.5", "1e-05,2.0,2.0nm"):
        assert spell_spacing(parse_spacing(text)) == text
    assert in_mm(parse_spacing("3000,500,500um")) == pytest.approx((3, 0.5, 0.5))
    assert in_mm(parse_spacing("2")) == (2, 2, 2)
    assert [parse_resample(text) for text in ("median", "native", "1, 2,3 mm")] == ["median", "native", "1.0,2.0,3.0"]


@pytest.mark.parametrize("text", ["0,1,1", "1,1", "-1,1,1", "fine", "1,1,1px", "nan,1,1", "1,1,1,1", "inf", ""])
def test_what_is_no_spacing_is_refused(text):
    with pytest.raises(UserError, match=f"--resample is '{text}': write slices,rows,columns in mm, such as 1,1,1"):
        parse_resample(text)


def test_spacings_are_for_volumes(unet: Run, mixed, tmp_path):
    assert_failed(unet("train", "--data", mixed, "--resample", "0,1,1"), 2, "--resample is '0,1,1'")
    for flag, value in (("--spacing", "3,1,1"), ("--resample", "1,1,1")):
        refused = unet("train", "--data", mixed, "--model", "unet", flag, value)
        assert_failed(refused, 1, f"{flag} is for volumes, and the network is trained on images")
    assert_failed(unet("train", "--data", mixed, "--spacing", "1,1"), 1, "--spacing has 2 numbers, but volumes have")
    assert_failed(unet("train", "--data", mixed, "--spacing", "1px"), 1, "--spacing is in 'px', which is no unit of")
    save_checkpoint(tmp_path / "a.pth", checkpoint_of())
    refused = unet("predict", "--weights", "a.pth", "--input", mixed / "images", "--spacing", "1,2")
    assert_failed(refused, 1, "--spacing has 2 numbers, but volumes have three")
