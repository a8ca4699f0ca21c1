"""Objects of images that are read in slabs: to the bit those of the whole image, however it is cut and whatever crosses
the cuts, and in files that say so."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from unet_cli.config.model import CORE
from unet_cli.config.prediction import Cleaning, PredictConfig
from unet_cli.data.cores import marked
from unet_cli.data.export import geojson
from unet_cli.data.export.drawing import Drawing
from unet_cli.data.found import Objects
from unet_cli.data.labels import LabelMap
from unet_cli.data.measure import rows_of
from unet_cli.data.slabs import Slabs, in_slabs, regrouped
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.inference.cleaning import clean, cleaned
from unet_cli.inference.jobs import Job
from unet_cli.inference.numbering import numbered_objects
from unet_cli.inference.outputs import Outputs
from unet_cli.inference.store import InMemory
from unet_cli.system.scratch import Scratch

TWO = LabelMap((0, 1, 2), ("background", "cell", "wall"))
OVERLAPPING = LabelMap((0, 1, 2), ("background", "cell", "wall"), overlapping=True)
OBJECTS = LabelMap((0, 1, 2), ("background", "cell", "wall"), cores=True)
SIDES = [(41, 37), (11, 13, 17)]
EVERYTHING = [
    Cleaning(fill_holes=fill, remove_smaller=small, keep_largest=largest, split_touching=split)
    for fill, small, largest, split in product((False, True), (0, 6), (False, True), (False, True))
]


def field(seed: int, sides: tuple[int, ...], scale: float) -> np.ndarray:
    values = gaussian_filter(np.random.default_rng(seed).normal(size=sides), scale)
    return values / values.std()


def classes(seed: int, sides: tuple[int, ...]) -> np.ndarray:
    """Two classes that touch, in winding objects with holes, or noise."""
    values = field(seed, sides, (0.4, 1.5, 3)[seed % 3])
    return (values > -0.2).astype(np.uint8) + (values > 0.7)


def with_cores(seed: int, sides: tuple[int, ...]) -> np.ndarray:
    inside = field(seed, sides, 2) > -0.5
    return marked(
        inside + (inside & (field(seed + 9, sides, 2) > 0.3)).astype(np.uint8), field(seed + 50, sides, 1) > 0.8
    )


def cut(indices: np.ndarray, height: int, scratch: Scratch | None = None) -> Slabs:
    return Slabs(scratch or Scratch(), regrouped([indices], height))


def maps(objects: Objects) -> list[np.ndarray]:
    return [objects.map_of(place, np.uint16).whole() for place in range(len(objects.layers))]


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("labels", [TWO, OVERLAPPING, OBJECTS], ids=["classes", "overlapping", "cores"])
def test_what_is_cut_is_cleaned_and_numbered_as_the_whole(labels, sides, tmp_path):
    indices = (with_cores if labels.cores else classes)(sides[0], sides)
    for number, cleaning in enumerate(EVERYTHING[::3]):
        whole = clean(indices, cleaning, labels)
        expected = numbered_objects(in_slabs(whole), cleaning, labels)
        with Scratch(tmp_path, room=0) as scratch:  # all on disk
            slabs = cleaned(cut(indices, 1 + number % 5, scratch), cleaning, labels, scratch)
            assert np.array_equal(slabs.whole(), whole), cleaning
            found = numbered_objects(slabs, cleaning, labels, scratch)
            for one, other in zip(maps(found), maps(expected), strict=True):
                assert np.array_equal(one, other), cleaning
            for name in ("on", "classes", "areas", "boxes", "in_map"):
                assert np.array_equal(getattr(found, name), getattr(expected, name)), (cleaning, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_large_object_grows_from_its_cores_piece_by_piece_as_at_once(seed, monkeypatch):
    indices = with_cores(seed, (60, 20))
    indices = indices & CORE | 1  # one component, in which the cores of some rows are far away
    indices[20:45] = 1
    expected = maps(numbered_objects(in_slabs(indices), Cleaning(), OBJECTS))[0]
    assert expected.max() > 3
    monkeypatch.setattr("unet_cli.inference.numbering.AT_ONCE", 1)
    assert np.array_equal(maps(numbered_objects(cut(indices, 3), Cleaning(), OBJECTS))[0], expected)


def test_objects_too_large_to_be_separated_stay_whole_and_are_counted(monkeypatch):
    rows, columns = np.mgrid[:40, :80]
    indices = np.zeros((40, 80), np.uint8)
    for column in (12, 28, 60, 74):
        indices |= np.hypot(rows - 20, columns - column) < (9 if column < 40 else 8)
    split = Cleaning(split_touching=True)
    assert len(numbered_objects(in_slabs(indices), split)) == 4
    monkeypatch.setattr("unet_cli.inference.numbering.WHOLE", 17 * 33 - 1)
    found = numbered_objects(cut(indices, 7), split)
    assert (len(found), found.unsplit) == (3, 1)


def test_polygons_and_rows_of_slabs_are_those_of_the_whole():
    indices = classes(7, (61, 47))
    image = np.random.default_rng(0).normal(size=(2, *indices.shape)).astype(np.float32)
    written, rows = [], []
    for slabs in (in_slabs(indices), cut(indices, 4)):
        objects = numbered_objects(slabs, Cleaning())
        scores = np.linspace(0, 1, len(objects))
        colours = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
        written.append(geojson.written(Drawing("a.png", objects, TWO.names, colours, scores=scores), None))
        rows.append(rows_of(objects, TWO.names, None, "", scores, [(0, image[:, :30]), (30, image[:, 30:])]))
    assert written[0] == written[1]
    assert rows[0] == rows[1]


def dots(count: int) -> np.ndarray:
    """So many objects of one pixel, in rows of 250."""
    indices = np.zeros((2 * -(-count // 250), 500), np.uint8)
    indices[::2, ::2].flat[:count] = 1
    return indices


def outputs(path: Path, pages: list[np.ndarray], **settings: bool) -> None:
    """Write the files of the pages that are in a store, in blocks that do not fit the slabs."""
    tifffile.imwrite(path.with_name("image.tif"), np.zeros((len(pages), 8, 8), np.uint8), metadata=None)
    config = PredictConfig(weights=(path,), input="", **settings)
    job = Job(Source((path.with_name("image.tif"),)), path, ("instances",), len(pages), output=path.parent)
    store, rows = InMemory(), np.concatenate(pages)
    for top in range(0, len(rows), 70):
        store.add(top, [rows[top : top + 70]], 1.0)
    labels = LabelMap((0, 255), ("background", "cell"))
    Outputs(job, pages[0].shape, config, labels, False, 1).write(store)


def test_a_huge_mask_is_numbered_by_32_bits_in_slabs_that_cut_its_objects(tmp_path, monkeypatch):
    monkeypatch.setattr("unet_cli.data.slabs.SLAB", 500 * 41)
    monkeypatch.setattr("unet_cli.system.scratch.ROOM", 0)
    indices = dots(70_000)
    indices[50:500, 7] = 1  # crosses many slabs
    outputs(tmp_path / "a.tif", [indices], instances=True)
    numbers = tifffile.imread(tmp_path / "a_instances.tif")
    assert numbers.dtype == np.uint32
    assert np.array_equal(numbers > 0, indices > 0)
    flat = numbers[numbers > 0]
    _, first = np.unique(flat, return_index=True)
    assert np.array_equal(flat[np.sort(first)], np.arange(1, numbers.max() + 1))  # in reading order, each once
    assert len(set(numbers[50:500, 7].tolist())) == 1
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif") > 0, indices > 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "a_instances.tif", "image.tif"]


def test_all_pages_of_a_stack_are_numbered_by_as_many_bits(tmp_path):
    pages = [dots(70_000) * np.uint8(0), dots(70_000)]
    pages[0][:2, :2] = 1
    outputs(tmp_path / "a.tif", pages, instances=True)
    numbers = tifffile.imread(tmp_path / "a_instances.tif")
    assert numbers.dtype == np.uint32
    assert (numbers[0].max(), numbers[1].max()) == (1, 70_000)


def test_png_has_no_room_for_more_objects_than_16_bits_number(tmp_path):
    with pytest.raises(UserError, match=r"70,000 objects.*--format tif"):
        outputs(tmp_path / "a.png", [dots(70_000)], instances=True)


def test_a_full_disk_is_the_users_to_free(tmp_path, monkeypatch):
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(UserError, match="No space left"), Scratch(tmp_path, room=0) as scratch:
        scratch.put(np.zeros(9))
