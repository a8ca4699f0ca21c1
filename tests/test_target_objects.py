"""Objects that touch: learned by their cores, predicted with numbers, and scored."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, run_unet
from PIL import Image

from unet_cli import load
from unet_cli.checkpoint import load_checkpoint
from unet_cli.config.model import CORE as MARK
from unet_cli.config.prediction import Cleaning
from unet_cli.data.cores import DEEP, depth_of, marked, with_cores
from unet_cli.data.labels import LabelMap
from unet_cli.data.objects import components
from unet_cli.inference.cleaning import clean
from unet_cli.inference.numbering import number_objects, objects_of

SIDE = 64
TINY = ("--size", SIDE, "--width", 4, "--depth", 2)
OBJECTS = LabelMap((0, 255), ("background", "cell"), "instances", cores=True)


def disc(row: float, column: float, radius: float, side: int = SIDE) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def chain(seed: int, side: int = SIDE) -> np.ndarray:
    """Object numbers of discs of several sizes, each touching the one before."""
    chance = np.random.default_rng(seed)
    numbers, row, column, last = np.zeros((side, side), np.uint16), 14.0, 12.0, 0.0
    for number in range(1, 6):
        radius = chance.uniform(6, 10)
        angle = chance.uniform(0, np.pi / 2)
        row, column = row + (last + radius) * np.sin(angle), column + (last + radius) * np.cos(angle)
        last = radius - 1
        numbers[disc(row, column, radius, side) & (numbers == 0)] = number
    return numbers


def write_set(root: Path, count: int = 8, first: int = 0) -> Path:
    for n in range(first, first + count):
        numbers = chain(n)
        noise = np.random.default_rng(n).normal(0, 10, numbers.shape)
        image = np.where(numbers > 0, 110 + 100 * depth_of(numbers), 40) + noise
        for name, pixels in (("images", image.clip(0, 255).astype(np.uint8)), ("masks", numbers)):
            path = root / name / f"p{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def test_the_depth_is_one_in_the_middle_of_each_object_whatever_its_size():
    numbers = np.where(disc(20, 20, 12), 1, np.where(disc(20, 36, 4), 7, 0))
    depth = depth_of(numbers)
    assert depth[20, 20] == 1
    assert depth[20, 36] == 1
    assert not depth[numbers == 0].any()
    assert depth[20, 32] < DEEP  # where they touch
    assert (depth_of(np.ones((5, 5), int)) == 1).all()


def test_cores_of_touching_objects_are_apart_and_ignored_pixels_stay():
    numbers = chain(3)
    classes = (numbers > 0).astype(np.uint8)
    classes[0] = 255
    indices = with_cores(classes, numbers)
    assert (indices[0] == 255).all()
    assert components((indices == 1 + MARK).astype(np.uint8))[1] == numbers.max()
    assert not (indices == MARK).any()


@pytest.mark.parametrize("seed", range(4))
def test_objects_grow_back_from_their_cores(seed):
    numbers = chain(seed)
    found = objects_of(with_cores((numbers > 0).astype(np.uint8), numbers), Cleaning(), OBJECTS)
    assert np.array_equal(np.unique(found), np.unique(numbers))
    for number in range(1, int(numbers.max()) + 1):
        true = numbers == number
        values, counts = np.unique(found[true], return_counts=True)
        pred = found == values[counts.argmax()]
        assert (true & pred).sum() / (true | pred).sum() > 0.85


def test_a_component_without_a_core_is_an_object():
    inside = disc(10, 10, 4) | disc(30, 30, 8)
    found = objects_of(marked(inside.astype(np.uint8), disc(30, 30, 3)), Cleaning(), OBJECTS)
    assert np.array_equal(found, components(inside.astype(np.uint8))[0])
    assert not objects_of(np.zeros((4, 4), np.uint8), Cleaning(), OBJECTS).any()
    assert objects_of(np.stack([inside.astype(np.uint8)] * 5), Cleaning(), OBJECTS).max() == 2


def test_cleaning_counts_objects_rather_than_what_touches():
    numbers = np.where(disc(20, 20, 12), 1, np.where(disc(20, 36, 5), 2, 0))
    indices = with_cores((numbers > 0).astype(np.uint8), numbers)
    indices[20, 20] = 0
    cleaned = clean(indices, Cleaning(remove_smaller=100, fill_holes=True), OBJECTS)
    assert cleaned[20, 20]
    assert not cleaned[20, 38:42].any()
    assert number_objects(cleaned, Cleaning(), OBJECTS).max() == 1


@pytest.fixture(scope="module")
def run_on_objects(tmp_path_factory) -> tuple[Path, Path]:
    data = write_set(tmp_path_factory.mktemp("objects") / "data", count=16)
    run = run_unet("train", "--data", data, "--output", data.parent / "runs", "--epochs", 40, *TINY,
                   "--lr", 0.01, "--seed", 1, cwd=data)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "each object is learned by itself" in run.stderr
    [folder] = (data.parent / "runs").iterdir()
    return data, folder


def test_numbered_objects_are_learned_predicted_and_scored(unet: Run, run_on_objects, tmp_path):
    data, folder = run_on_objects
    checkpoint = load_checkpoint(folder)
    assert checkpoint.labels.cores
    assert checkpoint.model.out_channels == 2
    out = tmp_path / "out"
    done = unet("predict", "--weights", folder, "--input", data / "images", "--output", out, "--class-mask",
                "--overlay", "--probabilities", "--table", tmp_path / "objects.csv", "--polygons", "geojson",
                "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    numbers = np.asarray(Image.open(out / "p3.png"))
    lines = {Path(line["output"]).stem: line for line in map(json.loads, done.stdout.splitlines())}
    assert lines["p3"]["objects"] == numbers.max()
    assert numbers.dtype in (np.uint16, np.int32)
    assert np.array_equal(load(folder)(data / "images/p3.png"), numbers)
    classes = np.asarray(Image.open(out / "p3_classes.png"))
    assert np.array_equal(classes > 0, numbers > 0)
    assert np.asarray(Image.open(out / "p3_probability.png")).shape == numbers.shape
    assert len(json.loads((out / "p3.geojson").read_text())["features"]) == numbers.max()
    new = write_set(tmp_path / "new", count=6, first=100)
    scored = unet("evaluate", "--weights", folder, "--data", new, "--json")
    assert scored.returncode == 0, scored.stderr
    found = {row["metric"]: row["value"] for row in json.loads(scored.stdout)["scores"]}
    assert found["object_f1"] > 0.85
    predicted = unet("predict", "--weights", folder, "--input", new / "images", "--output", tmp_path / "pred")
    assert predicted.returncode == 0, predicted.stderr
    again = unet("evaluate", "--pred", tmp_path / "pred", "--data", new, "--classes", "background,cell", "--json")
    assert again.returncode == 0, again.stderr
    same = {row["metric"]: row["value"] for row in json.loads(again.stdout)["scores"]}
    assert same["object_f1"] == pytest.approx(found["object_f1"])


def test_a_run_on_objects_resumes_and_tiles_agree(unet: Run, run_on_objects, tmp_path):
    data, folder = run_on_objects
    resumed = unet("train", "--resume", folder, "--epochs", 41)
    assert resumed.returncode == 0, resumed.stderr
    tiles = unet("predict", "--weights", folder, "--input", data / "images", "--output", tmp_path, "--mode", "tile")
    assert tiles.returncode == 0, tiles.stderr


def test_target_classes_learns_the_foreground_alone(unet: Run, tmp_path):
    data = write_set(tmp_path / "data")
    run = unet(
        "train", "--data", data, "--target", "classes", "--epochs", 1, "--size", SIDE, "--width", 4, "--depth", 2
    )
    assert run.returncode == 0, run.stderr
    assert not load_checkpoint(next((tmp_path / "checkpoints").iterdir())).labels.cores


def test_objects_of_several_classes_are_numbered_together_beside_a_mask_of_their_classes(unet: Run, tmp_path):
    data, new = write_set(tmp_path / "data"), write_set(tmp_path / "new", count=2, first=50)
    for path in (*(data / "masks").iterdir(), *(new / "masks").iterdir()):
        numbers = np.asarray(Image.open(path))
        Image.fromarray(np.where(numbers > 0, 1 + numbers % 2, 0).astype(np.uint8)).save(path)
    settings = ("--data", data, "--classes", "background,a,b", "--epochs", 3, *TINY, "--lr", 0.01)
    usual = unet("train", *settings, "--name", "usual")
    assert usual.returncode == 0, usual.stderr
    assert not load_checkpoint(tmp_path / "checkpoints/usual").labels.cores
    run = unet("train", *settings, "--target", "objects", "--show-augmented", 2)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "checkpoints/data-1"
    assert load_checkpoint(folder).model.out_channels == 4
    out = tmp_path / "out"
    done = unet("predict", "--weights", folder, "--input", data / "images", "--output", out, "--json",
                "--table", tmp_path / "objects.csv", "--probabilities", "--overlay")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "objects.csv").read_text().splitlines()))
    for line in map(json.loads, done.stdout.splitlines()):
        name = Path(line["output"]).stem
        numbers, classes = (np.asarray(Image.open(out / f"{name}{end}.png")) for end in ("", "_classes"))
        assert np.array_equal(numbers > 0, classes > 0)
        assert all(len(np.unique(classes[numbers == number])) == 1 for number in range(1, numbers.max() + 1))
        assert sum(row["image"] == line["input"] for row in rows) == numbers.max() == line["objects"]
    scored = unet("evaluate", "--weights", folder, "--data", new, "--json")
    assert scored.returncode == 0, scored.stderr


def test_an_object_gets_the_class_of_most_of_its_pixels():
    labels = LabelMap((0, 1, 2), ("background", "a", "b"), cores=True)
    classes = np.where(disc(20, 20, 8), 1, np.where(disc(20, 35, 8), 2, 0)).astype(np.uint8)
    classes[14:18, 16:19] = 2
    cores = disc(20, 20, 3) | disc(20, 35, 3)
    settled = clean(marked(classes, cores), Cleaning(), labels)
    assert np.array_equal(labels.without_cores(settled)[:, :25], np.where(disc(20, 20, 8), 1, 0)[:, :25])
    numbers = number_objects(settled, Cleaning(), labels)
    assert numbers.max() == 2
    assert not clean(settled, Cleaning(keep_largest=True, remove_smaller=500), labels).any()


def test_thin_concave_and_ring_shaped_objects_stay_whole():
    numbers = np.zeros((128, 128), np.uint16)
    numbers[disc(30, 30, 20, 128) & ~disc(30, 30, 13, 128)] = 1  # a ring
    numbers[disc(30, 90, 20, 128) & ~disc(30, 98, 16, 128)] = 2  # a crescent
    numbers[70:73, 5:120] = 3  # a line
    numbers[80:120, 10:16] = numbers[112:120, 10:60] = 4  # a corner
    rows, columns = np.mgrid[:128, :128]
    numbers[(abs(rows - 96 - 10 * np.sin(columns / 6)) < 3) & (columns > 66)] = 5  # a wave
    found = objects_of(with_cores((numbers > 0).astype(np.uint8), numbers), Cleaning(), OBJECTS)
    assert np.array_equal(found > 0, numbers > 0)
    assert len(np.unique(found)) == len(np.unique(numbers))
