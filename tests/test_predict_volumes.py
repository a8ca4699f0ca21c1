"""Volumes from files to masks: with a network for volumes of random weights, and with one that hands on what it
sees."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import Run, assert_failed, json_lines, kill_midway, pixels, run_unet
from test_views import Through
from torch import nn

from unet_cli.checkpoint import Checkpoint, save_checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Inference, PredictConfig
from unet_cli.data.colours import colours_of
from unet_cli.data.imagefile import one_band
from unet_cli.data.labels import LabelMap
from unet_cli.data.planes import crossing_planes, middle_of
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.inference.batching import Task, whole_images
from unet_cli.inference.inputs import sources_in
from unet_cli.inference.jobs import Job
from unet_cli.inference.member import Member
from unet_cli.inference.pipeline import predict_all
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.views import Tiled, tile_sides
from unet_cli.models import Fitted, Geometry, build_model
from unet_cli.system.device import Compute
from unet_cli.system.stage_times import StageTimes

CPU = Compute(torch.device("cpu"), "float32")
LABELS = LabelMap((0, 1), ("background", "organ"))
RULE = Preprocessing(
    size=16, in_channels=1, dtype="float32", mean=(0.0,), std=(1.0,), pages="slices", mode="tile", patch=(8, 16, 16)
)
VOLUME = np.random.default_rng(0).normal(size=(21, 30, 26)).round(2).astype(np.float32)


def checkpoint_of(rule: Preprocessing = RULE, **settings: object) -> Checkpoint:
    """A tiny unet3d with random weights, whose masks are neither empty nor full."""
    config = ModelConfig(name="unet3d", in_channels=1, base_channels=4, depth=1, **settings)
    torch.manual_seed(0)
    network = build_model(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.1, 0.5)
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(VOLUME[None, None, :20]))
        network.head.bias -= logits.transpose(0, 1).flatten(1).median(1).values
    labels = LABELS if config.num_classes == 2 else LabelMap((0, 1, 2), ("background", "organ", "tumour"))
    return Checkpoint(config, rule, labels, network.state_dict())


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "weights.pth", checkpoint_of())
    return tmp_path / "weights.pth"


def handing_on(*patches: tuple[int, ...], geometry: Geometry | None = None, **settings: object) -> Predictor:
    """Logits that are the volume, with a member for each patch."""
    geometry = geometry or Geometry(stride=2, reach=1)
    predictor = Predictor([checkpoint_of()], CPU, Inference(**settings))
    predictor.members = [
        Member(checkpoint_of(), replace(RULE, patch=patch), geometry, Fitted(Through(geometry), geometry.margin))
        for patch in patches
    ]
    return predictor


def seen(predictor: Predictor, picture: Tiled) -> np.ndarray:
    return torch.cat([band.finished() for band in predictor.bands(picture)], 1)[0].reshape(picture.shape).numpy()


# --- tiles


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(multiple=4, least=4, stride=4, reach=1),
        Geometry(multiple=4, remainder=2, least=14, margin=5, stride=4, reach=0),
        Geometry.of_axes([Geometry(), *[Geometry(multiple=4, least=4, stride=4, reach=None)] * 2]),
    ],
    ids=["padded", "unpadded", "of axes"],
)
@pytest.mark.parametrize("shape", [(21, 30, 26), (1, 1, 1), (3, 40, 5)])
def test_every_voxel_comes_back_in_its_place(geometry, flips, shape):
    predictor = handing_on((8, 16, 16), (12, 10, 20), geometry=geometry, flips=flips)
    volume = np.resize(VOLUME, shape)
    picture = predictor.picture(volume[None], ())
    assert (picture.shape, picture.size) == (shape, (shape[0] * shape[1], shape[2]))
    assert np.allclose(seen(predictor, picture), 1 / (1 + np.exp(-volume)), atol=1e-5)


def test_tiles_give_the_probabilities_of_the_whole_volume_where_they_overlap_enough():
    flat = checkpoint_of(replace(RULE, patch=(16, 32, 32)), flat=(1, 0, 0))  # reaches of 4 and 10 voxels
    whole = replace(flat, preprocessing=replace(RULE, patch=(64, 96, 96)))
    tiled, single = (Predictor([one], CPU, Inference(overlap=0.75)) for one in (flat, whole))
    volume = np.random.default_rng(1).normal(size=(1, 30, 50, 41)).astype(np.float32)
    parts, one = tiled.picture(volume, ()), single.picture(volume, ())
    assert parts.view_count > one.view_count == 1
    assert np.abs(seen(tiled, parts) - seen(single, one)).max() < 1e-5
    poor = Predictor([flat], CPU, Inference(overlap=0.0))
    assert np.abs(seen(poor, poor.picture(volume, ())) - seen(single, one)).max() > 1e-3


def test_of_several_networks_the_largest_side_along_each_axis_rules():
    assert tile_sides(handing_on((8, 16, 32), (12, 16, 10)).members) == (12, 16, 32)


@pytest.mark.parametrize(
    ("patch", "orientation", "count", "turned"),
    [((8, 16, 16), "any", 16, True), ((8, 16, 12), "any", 8, False), ((8, 16, 16), "upright", 2, False)],
)
def test_flips_are_those_that_the_network_was_trained_with(patch, orientation, count, turned):
    member = replace(handing_on(patch).members[0], preprocessing=replace(RULE, patch=patch, orientation=orientation))
    assert len(set(member.symmetries)) == count
    assert any(turns for turns, _ in member.symmetries) == turned


def test_a_whole_volume_has_one_normalisation_for_all_its_tiles():
    predictor = handing_on((8, 16, 16))
    predictor.members = [replace(predictor.members[0], preprocessing=replace(RULE, intensity="image"))]
    volume = VOLUME * 7 + np.arange(21, dtype=np.float32)[:, None, None]
    expected = 1 / (1 + np.exp(-(volume - volume.mean()) / volume.std()))
    assert np.allclose(seen(predictor, predictor.picture(volume[None], ())), expected, atol=1e-4)


# --- files


def write(path: Path, volume: np.ndarray = VOLUME) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, volume)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, volume, photometric="minisblack", resolution=(50, 50), resolutionunit="CENTIMETER")
    else:
        nibabel = pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
        # Stored from the last slice to the first, with rows and columns swapped: none of which the mask may lose.
        stored = volume[::-1].transpose(1, 2, 0)
        affine = np.array([[0, -0.5, 0, 9], [-0.75, 0, 0, 8], [0, 0, -3, 7], [0, 0, 0, 1.0]])
        nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    return path


KINDS = ("nii", "nii.gz", "tif", "npy")


def test_masks_have_the_format_shape_type_and_place_of_their_volumes_and_bad_files_fail_alone(
    unet: Run, weights, tmp_path
):
    nibabel = pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
    for kind in KINDS:
        write(tmp_path / "in" / f"{kind.replace('.', '_')}.{kind}")
    whole = (tmp_path / "in" / "nii_gz.nii.gz").read_bytes()
    (tmp_path / "in" / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "text.nii").write_text("no volume")
    (tmp_path / "in" / "cut.tif").write_bytes((tmp_path / "in" / "tif.tif").read_bytes()[:40_000])
    np.save(tmp_path / "in" / "other.npy", VOLUME.astype(np.uint8))
    done = unet("predict", "--weights", weights, "--input", "in", "--output", "out", "--probabilities", "--json")
    assert_failed(done, 3, "cut.nii.gz", "text.nii", "cut.tif", "other.npy holds 8-bit values", "4 images failed")
    lines = {Path(line["input"]).name: line for line in json_lines(done.stdout)}
    names = [f"{kind.replace('.', '_')}.{'tif' if kind == 'npy' else kind}" for kind in KINDS]
    extras = [f"{name.partition('.')[0]}_probability.{name.partition('.')[2]}" for name in names]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names + extras)
    masks, maps = {}, {}
    for name, extra in zip(names, extras, strict=True):
        for file, values in ((name, masks), (extra, maps)):
            path = tmp_path / "out" / file
            if name.endswith(".tif"):
                values[name] = tifffile.imread(path)
                continue
            written, source = nibabel.load(path), nibabel.load(tmp_path / "in" / name)
            assert (written.affine == source.affine).all()
            assert written.header.get_zooms() == source.header.get_zooms()
            values[name] = np.asarray(written.dataobj).transpose(2, 0, 1)[::-1]
    expected = Predictor([checkpoint_of()], CPU)(VOLUME)
    assert 0.01 < expected.mean() < 0.99
    for name in names:
        assert (masks[name].dtype, maps[name].dtype) == (np.uint8, np.uint16)
        assert (masks[name] == expected).all(), name
        assert ((maps[name] >= 32768) == expected).mean() > 0.999
        line = next(line for line in lines.values() if "output" in line and line["output"].endswith(f"/{name}"))
        assert line["size"] == [26, 30, 21]
        assert line["classes"]["organ"] == pytest.approx(expected.mean(), abs=1e-6)
    with tifffile.TiffFile(tmp_path / "out" / "tif.tif") as tif:
        assert {page.tags["XResolution"].value for page in tif.pages} == {(50, 1)}
    again = unet("predict", "--weights", weights, "--input", "in", "--output", "out", "--skip-existing")
    assert "4 already done" in again.stderr + again.stdout
    assert unet("predict", "--weights", weights, "--input", "in/*.nii", "--output", "out").returncode == 3
    assert not (tmp_path / "out" / "nii_probability.nii").exists()  # it would not be of the new mask
    assert (tmp_path / "out" / "nii_gz_probability.nii.gz").exists()


def test_a_volume_continues_where_it_was_killed_to_the_same_bytes(tmp_path):
    patch = (16, 32, 32)
    save_checkpoint(tmp_path / "weights.pth", checkpoint_of(replace(RULE, patch=patch, intensity="image")))
    write(tmp_path / "in" / "a.tif", np.random.default_rng(2).normal(size=(80, 60, 50)).astype(np.float32))
    flags = ["predict", "--weights", "weights.pth", "--input", "in/a.tif", "--probabilities", "--precision", "float32"]
    assert run_unet(*flags, "--output", "unbroken", cwd=tmp_path).returncode == 0
    part = tmp_path / "broken" / ".a.tif.part"
    kill_midway(*flags, "--output", "broken", part=part, least=40_000, cwd=tmp_path)
    done = run_unet(*flags, "--output", "broken", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["note"] == "rows of a stopped call were used"
    for name in ("a.tif", "a_probability.tif"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert not part.exists()


def test_settings_of_images_are_refused(unet: Run, weights, tmp_path):
    write(tmp_path / "in" / "a.npy")
    for flags, part in (
        (("--mode", "resize"), "--mode resize is for images, and these weights predict volumes"),
        (("--size", 64), "--size is for images"),
        (("--format", "png"), "--format png is for images"),
    ):
        assert_failed(unet("predict", "--weights", weights, "--input", "in", *flags), 1, part)
    mixed = replace(checkpoint_of(), preprocessing=replace(RULE, pages="images", patch=()))
    with pytest.raises(UserError, match="unet3d doesn't fit its preprocessing"):
        Predictor([mixed], CPU)


def predicted(predictor: Predictor, path: Path, *extras: str, **cleaning: object) -> Job:
    """Write the mask and the extras of a volume beside it."""
    config = PredictConfig(weights=(path,), input=str(path), overlay="overlay" in extras, **cleaning)
    ((source, _, slices, _),) = sources_in([path], RULE, lambda _: "tif", {})
    job = Job(source, path.with_name("out") / "a.tif", extras, slices)
    (outcome,) = filter(None, predict_all(predictor, config, [job], StageTimes("writing")))
    assert outcome.error is None
    return job


def test_objects_are_those_of_the_volume_and_an_overlay_shows_three_planes(tmp_path):
    volume = np.full((12, 20, 24), -5, np.float32)
    volume[2:8, 4:12, 5:15] = 5
    volume[4:6, 7:9, 9:11] = -5  # a cave
    volume[9:11, 15:18, 2:5] = 5
    volume[8, 12, 20] = 5
    volume[1:9, 17, 20] = 5  # a voxel in each slice
    predictor = handing_on((8, 16, 16))
    extras = ("overlay", "instances")
    job = predicted(
        predictor, write(tmp_path / "a.npy", volume), *extras, instances=True, fill_holes=True, remove_smaller=2
    )
    expected = (volume > 0).astype(np.uint8)
    expected[4:6, 7:9, 9:11] = 1
    expected[8, 12, 20] = 0
    assert (tifffile.imread(job.mask) == expected).all()
    numbers = tifffile.imread(job.mask.with_name("a_instances.tif"))
    assert [np.count_nonzero(numbers == number) for number in range(3)] == [12 * 20 * 24 - 506, 8, 480]
    shown = pixels(job.mask.with_name("a_overlay.png"))
    assert shown.shape == (20, 24 + 24 + 20 + 2 * 12, 3)
    assert sorted(path.name for path in job.mask.parent.iterdir()) == ["a.tif", "a_instances.tif", "a_overlay.png"]


def test_planes_cross_in_the_middle_of_what_was_found_in_the_proportions_of_the_body():
    indices = np.zeros((10, 20, 30), np.uint8)
    assert middle_of(indices) == (5, 10, 15)
    indices[2:5, 10:13, 20] = 1
    assert middle_of(indices) == (3, 11, 20)
    assert middle_of(np.where(indices == 0, np.uint8(255), indices)) == (3, 11, 20)  # ignored
    bands = one_band(np.random.default_rng(0).integers(0, 9, (1, *indices.shape), np.uint8))
    sheet = crossing_planes(bands, indices, colours_of(LABELS), (3.0, 1.0, 1.0))
    assert sheet.size == (30 + 12 + 30 + 12 + 20, 30)
    line = colours_of(LABELS).line_palette()[1]
    rows, columns = np.nonzero((np.asarray(sheet) == line).all(-1))
    third = columns >= 30 + 12 + 30 + 12  # slices 2 to 4, the first at the bottom, each of three rows
    assert (rows[third].min(), rows[third].max()) == (30 - 5 * 3, 30 - 2 * 3 - 1)


# --- in Python


def test_arrays_and_files_give_the_same_mask(tmp_path):
    predictor = Predictor([checkpoint_of(num_classes=3)], CPU)
    mask = predictor(VOLUME)
    assert (mask.shape, set(np.unique(mask)) <= {0, 1, 2}) == (VOLUME.shape, True)
    assert (predictor(VOLUME[..., None]) == mask).all()
    assert (predictor(write(tmp_path / "a.tif")) == mask).all()
    for wrong in (VOLUME[0], VOLUME.astype(complex), "b.tif"):
        with pytest.raises(UserError, match=r"is no volume|b\.tif does not exist|b\.tif"):
            predictor(wrong)


def test_whole_images_come_with_their_shape(tmp_path):
    predictor = Predictor([checkpoint_of()], CPU)
    sources = [Source((write(tmp_path / f"{n}.npy", VOLUME[n:]),), is_volume=True) for n in range(3)]
    tasks = [Task(predictor.read(source), source) for source in sources]
    for task, probs in whole_images(predictor, tasks, StageTimes("scoring")):
        n = int(task.source.path.stem)
        assert task.picture.shape == (21 - n, 30, 26)
        assert (predictor.classes(probs).reshape(task.picture.shape) == predictor(VOLUME[n:])).all()
