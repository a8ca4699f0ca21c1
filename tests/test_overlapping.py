"""Classes that overlap: found, trained with a sigmoid each, predicted as a mask each, and scored."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, run_unet
from PIL import Image

from unet_cli import load
from unet_cli.checkpoint import load_checkpoint
from unet_cli.config.data import DataConfig
from unet_cli.config.model import pixels_of
from unet_cli.config.prediction import Cleaning
from unet_cli.data.check.card import Card
from unet_cli.data.check.examine import examine
from unet_cli.data.colours import colours_of
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.labels import LabelMap
from unet_cli.data.maskfile import SETS, read_mask
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.inference.cleaning import clean
from unet_cli.inference.numbering import objects_of
from unet_cli.metrics.calibration import calibrated, fit_temperature, sample_pixels
from unet_cli.metrics.overlap import confusion, counts_of, dice
from unet_cli.models.classes import to_classes
from unet_cli.system.console import Console
from unet_cli.training.losses.loss import loss_for

SIDE = 48
LABELS = LabelMap((0, 1, 2), ("background", "disc", "box"), overlapping=True)


def drawn(number: int, shift: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image with a disc in red and a box in green that is `shift` pixels off, and their masks, bool."""
    chance = np.random.default_rng(number)
    row, column = chance.integers(14, SIDE - 22, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    disc = (rows - row) ** 2 + (columns - column) ** 2 < 81
    box = (abs(rows - row - shift) < 8) & (abs(columns - column - shift) < 8)
    image = 60 + 120 * np.stack([disc, box, np.zeros_like(disc)], -1) + chance.normal(0, 8, (SIDE, SIDE, 3))
    return image.clip(0, 255).astype(np.uint8), disc, box


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels if pixels.dtype == np.uint8 else np.uint8(255) * pixels).save(path)
    return path


def write_set(root: Path, form: str = "masks/{name}/p{n}.png", count: int = 8, shift: int = 8) -> Path:
    """Every second image has no file of a box, and shows none."""
    for n in range(count):
        image, disc, box = drawn(n, shift)
        if n % 2:
            image[..., 1] = 60
        write(root / f"images/p{n}.png", image)
        write(root / form.format(name="disc", n=n), disc)
        if not n % 2:
            write(root / form.format(name="box", n=n), box)
    return root


def card_of(root: Path, **settings) -> Card:
    return examine(find_layout(root), DataConfig(data=root, **settings), Console(quiet=True))


@pytest.mark.parametrize("form", ["masks/{name}/p{n}.png", "masks/p{n}_{name}.png"])
def test_overlapping_files_of_classes_are_found_and_said(tmp_path, form):
    card = card_of(write_set(tmp_path, form))
    assert card.labels.overlapping
    assert card.labels.names == ("background", "box", "disc")
    assert not card.problems
    assert card.layout.class_folders == form.startswith("masks/{")
    assert any(note.startswith("classes overlap: box and disc (") for note in card.plain()["notes"])
    shares = dict(card.shares())
    assert shares["disc"] == pytest.approx(np.mean([drawn(n)[1].mean() for n in range(8)]))
    assert sum(shares.values()) > 1


def test_slivers_along_borders_are_no_overlap(tmp_path):
    for n in range(4):
        image, _, box = drawn(n)
        write(tmp_path / f"images/p{n}.png", image)
        beside = np.roll(box, 14, axis=1)  # one column of 15 is common
        write(tmp_path / f"masks/left/p{n}.png", np.kron(box, np.ones((1, 1), bool)))
        write(tmp_path / f"masks/right/p{n}.png", beside)
    card = card_of(tmp_path)
    assert not card.labels.overlapping
    [note] = [note for note in card.plain()["notes"] if "overlap" in note]
    assert "along borders alone" in note or "each is learned" in note


def test_a_pixel_of_several_classes_is_their_set(tmp_path):
    rows = np.array([[0, 1, 1, 0], [0, 0, 1, 1]], bool)
    paths = tuple(write(tmp_path / f"{n}.png", row[None]) for n, row in enumerate(rows))
    mask = read_mask(Source(paths, classes=(1, 2)))
    assert mask.values[0].tolist() == [[0, 1, SETS | 0b11, 2]]
    assert LABELS.encode(mask)[0].tolist() == [[0, 0b01, 0b11, 0b10]]
    turned = LabelMap((0, 2, 1), ("background", "box", "disc"), overlapping=True)
    assert turned.encode(mask)[0].tolist() == [[0, 0b10, 0b11, 0b01]]
    assert LabelMap((0, 1, 2), LABELS.names).encode(mask)[0].tolist() == [[0, 1, 2, 2]]  # the last one wins
    with pytest.raises(UserError, match="holds the value"):
        LabelMap((0, 1, 3), LABELS.names, overlapping=True).encode(mask)


def test_the_loss_is_that_of_each_class_by_itself():
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 6, 6, generator=chance)
    sets = torch.randint(4, (2, 6, 6), generator=chance).to(torch.uint8)
    sets[0, 0] = 255
    for name in ("bce+dice", "focal+tversky", "top-k"):
        alone = [
            loss_for(name, 2)(logits[:, [k]], torch.where(sets == 255, 255, pixels_of(sets, k + 1, True).byte()))
            for k in range(2)
        ]
        found = loss_for(name, 3, overlapping=True)
        assert found(logits, sets).item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)
        whole = found.denominators(sets)
        parts = sum(found(logits[[n]], sets[[n]], whole) for n in range(2))
        assert parts.item() == pytest.approx(found(logits, sets).item(), rel=1e-5)


def test_scores_count_each_class_by_itself():
    logits = torch.tensor([[[[2.0, 2, -2, -2]], [[-2, 2, 2, -2]]]])
    pred = to_classes(logits, overlapping=True)
    assert pred.tolist() == [[[0b01, 0b11, 0b10, 0]]]
    target = torch.tensor([[[0b11, 0b11, 0b10, 255]]])
    counts = counts_of(confusion(pred, target, 4).numpy(), LABELS.members)[0]
    assert counts.tolist() == [[0, 0, 0, 3], [2, 0, 0, 1], [2, 0, 1, 0]]
    assert dice(counts[2]) == pytest.approx(4 / 5)


def test_a_temperature_and_cleaning_treat_each_class_by_itself():
    probs = torch.rand(2, 40, 40, generator=torch.Generator().manual_seed(1)).clamp(0.01, 0.99)
    each = [calibrated(one[None], 2.0)[0] for one in probs]
    assert torch.equal(calibrated(probs, 2.0, overlapping=True), torch.stack(each))
    truth = to_classes((probs.logit() / 3)[None].sigmoid() - torch.rand(1, 2, 40, 40), 0.0, True)[0].numpy()
    sample = sample_pixels(probs, truth, 1000, overlapping=True)
    assert fit_temperature(sample) == pytest.approx(3, rel=0.35)
    pred = np.zeros((8, 8), np.uint8)
    pred[1:6, 1:6], pred[3, 3], pred[7, 7] = 0b01, 0b10, 0b11
    cleaned = clean(pred, Cleaning(fill_holes=True, remove_smaller=2), LABELS)
    assert cleaned[3, 3] == 0b01
    assert cleaned[7, 7] == 0
    assert objects_of(pred, Cleaning(), LABELS).max((1, 2)).tolist() == [2, 2]


def test_a_pixel_of_two_classes_has_both_outlines_and_their_mean_colour():
    colours = colours_of(LABELS)
    both = (np.array(colours.areas[1], float) + colours.areas[2]) / 2
    assert colours.area_palette()[3].tolist() == both.round().tolist()
    disc, box = colours.layers(np.array([[0b01, 0b11, 0b10, 255]], np.uint8))
    assert (disc.tolist(), box.tolist()) == ([[1, 1, 0, 255]], [[0, 2, 2, 255]])


def test_more_classes_than_a_set_holds_are_read_in_their_order(tmp_path):
    for n in range(4):
        image, disc, _ = drawn(n)
        write(tmp_path / f"images/p{n}.png", image)
        for k, name in enumerate(["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]):
            write(tmp_path / f"masks/{name}/p{n}.png", np.roll(disc, 3 * k, axis=1))
    card = card_of(tmp_path)
    assert not card.labels.overlapping
    assert any("only 7 classes can be learned as such" in note for note in card.plain()["notes"])


@pytest.fixture(scope="module")
def overlapping_run(tmp_path_factory) -> tuple[Path, Path]:
    """The folder of data, and that of a short run on it."""
    data = write_set(tmp_path_factory.mktemp("overlapping"), count=12)
    out = data.parent / "runs"
    run = run_unet("train", "--data", data, "--output", out, "--epochs", 30, "--size", 48, "--width", 4, "--depth", 2,
               "--val-fraction", 0.25, "--seed", 1, "--lr", 0.01, cwd=data)  # fmt: skip
    assert run.returncode == 0, run.stderr
    [folder] = out.iterdir()
    return data, folder


def test_a_run_predicts_and_scores_a_mask_for_each_class(unet: Run, overlapping_run, tmp_path):
    data, folder = overlapping_run
    checkpoint = load_checkpoint(folder)
    assert checkpoint.model.overlapping
    assert checkpoint.model.out_channels == 2
    assert checkpoint.best_threshold is not None
    predicted = unet("predict", "--weights", folder, "--input", data / "images", "--output", tmp_path / "out",
                     "--overlay", "--probabilities", "--instances", "--json")  # fmt: skip
    assert predicted.returncode == 0, predicted.stderr
    first = json.loads(predicted.stdout.splitlines()[0])
    assert first["output"] == [str(tmp_path / f"out/{name}/p0.png") for name in ("box", "disc")]
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("p0*")}
    assert names == {
        "box/p0.png", "disc/p0.png", "p0_overlay.png", "p0_probability_box.png", "p0_probability_disc.png",
        "p0_instances_box.png", "p0_instances_disc.png",
    }  # fmt: skip
    mask = np.asarray(Image.open(tmp_path / "out/disc/p0.png"))
    assert set(np.unique(mask)) == {0, 255}
    assert np.array_equal(load(folder)(data / "images/p0.png")[1], mask)
    scored = unet("evaluate", "--pred", tmp_path / "out", "--data", data, "--json")
    assert scored.returncode == 0, scored.stderr
    found = {(row["metric"], row["name"]): row["value"] for row in json.loads(scored.stdout)["scores"]}
    assert found["dice", "disc"] > 0.8
    again = unet("evaluate", "--weights", folder, "--data", write_set(tmp_path / "new", count=4), "--json")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("kind", ["geojson", "coco"])
def test_objects_of_overlapping_classes_have_scores_and_numbers_of_their_own_class(
    unet: Run, overlapping_run, tmp_path, kind
):
    data, folder = overlapping_run
    call = [
        "predict",
        "--weights",
        folder,
        "--input",
        data / "images",
        "--output",
        tmp_path / "out",
        "--threshold",
        0.3,
    ]
    done = unet(*call, "--polygons", kind, "--table", tmp_path / "objects.csv", "--probabilities", "--instances")
    assert done.returncode == 0, done.stderr
    assert "masks of 2 classes for 12 images written" in done.stdout
    rows = list(csv.DictReader((tmp_path / "objects.csv").read_text(encoding="utf-8").splitlines()))
    entries = json.loads((tmp_path / "out/instances.json").read_text()) if kind == "coco" else {}
    for n in range(12):
        said = [row for row in rows if row["image"].endswith(f"/p{n}.png")]
        maps = {name: np.asarray(Image.open(tmp_path / f"out/p{n}_instances_{name}.png")) for name in ("box", "disc")}
        assert len(said) == sum(int(numbers.max()) for numbers in maps.values())
        for row in said:
            inside = maps[row["class"]] == int(row["number"])
            probability = np.asarray(Image.open(tmp_path / f"out/p{n}_probability_{row['class']}.png")) / 65535
            assert int(row["area_px"]) == np.count_nonzero(inside)
            assert float(row["score"]) == pytest.approx(probability[inside].mean(), rel=1e-4)
        if kind == "geojson":
            features = json.loads((tmp_path / f"out/p{n}.geojson").read_text())["features"]
            drawn_ones = [feature["properties"] for feature in features]
            keys = ("class", "number", "area")
            assert [[one[key] for key in keys] for one in drawn_ones] == [
                [row["class"], int(row["number"]), int(row["area_px"])] for row in said
            ]
        else:
            [image] = [one["id"] for one in entries["images"] if one["file_name"] == f"p{n}.png"]
            found = [one for one in entries["annotations"] if one["image_id"] == image]
            assert [one["area"] for one in found] == [int(row["area_px"]) for row in said]
    assert {row["class"] for row in rows} == {"box", "disc"}


def test_a_run_on_overlapping_classes_resumes(unet: Run, overlapping_run, tmp_path):
    _, folder = overlapping_run
    resumed = unet("train", "--resume", folder, "--epochs", 31)
    assert resumed.returncode == 0, resumed.stderr


def test_class_weights_are_refused(unet: Run, tmp_path):
    run = unet(
        "train", "--data", write_set(tmp_path / "data"), "--output", tmp_path / "runs", "--class-weights", "auto"
    )
    assert run.returncode == 1
    assert "--class-weights weigh classes against each other, and box, disc overlap" in run.stderr
