"""Volumes that don't fit the memory: their copies on disk give the same samples, and nothing remains of them."""

import errno
import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from unet_cli.config.data import Preprocessing
from unet_cli.data.labels import LabelMap
from unet_cli.data.samples import dataset, keeping
from unet_cli.data.samples.cutting import Crops
from unet_cli.data.samples.dataset import SegmentationDataset
from unet_cli.data.samples.keeping import DiskCopies, folder_for_copies, narrowed
from unet_cli.data.source import Pair, Source
from unet_cli.system import files

SIDES = (9, 20, 24)
COUNT = 3


@pytest.fixture
def pairs(tmp_path):
    """CT of int16, and masks in whose corner is foreground."""
    draw = np.random.default_rng(0)
    made = []
    for number in range(COUNT):
        mask = np.zeros(SIDES, np.uint8)
        mask[:4, :9, :9] = draw.integers(2, size=(4, 9, 9))
        np.save(tmp_path / f"image{number}.npy", draw.integers(-1000, 2000, SIDES).astype(np.int16))
        np.save(tmp_path / f"mask{number}.npy", mask)
        image, mask_source = (Source((tmp_path / f"{kind}{number}.npy",), is_volume=True) for kind in ("image", "mask"))
        made.append(Pair(str(number), image, mask_source))
    return made


@pytest.fixture
def reads(monkeypatch):
    """The images that were read, in order."""
    seen = []
    read = dataset.read_image
    monkeypatch.setattr(dataset, "read_image", lambda source, *rest: (seen.append(source.path.name), read(source))[1])
    return seen


def dataset_of(pairs, copies=None, cache_bytes=0) -> SegmentationDataset:
    rule = Preprocessing(
        size=8, in_channels=1, mean=(1.0,), std=(2.0,), mode="tile", patch=(4, 8, 8), dtype="float32", pages="slices"
    )
    labels = LabelMap(names=("background", "bright"), values=(0, 1))
    cutting = Crops([SIDES] * COUNT, (4, 8, 8), 0.5, seed=0, patch=(4, 12, 12))
    return SegmentationDataset(pairs, rule, labels, cutting, cache_bytes, stored=[SIDES] * COUNT, copies=copies)


def samples_of(data: SegmentationDataset) -> list[torch.Tensor]:
    return [part for epoch in (1, 2) for index in range(len(data)) for part in data.sample(index, epoch)[:2]]


def same(first, second) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(first, second, strict=True))


def test_copies_give_the_same_samples_and_each_volume_is_read_once(pairs, reads, tmp_path):
    expected = samples_of(dataset_of(pairs))
    assert len(reads) == 2 * COUNT
    reads.clear()
    folder, said = tmp_path / "copies", []
    folder.mkdir()
    assert same(samples_of(dataset_of(pairs, DiskCopies(said.append, folder=folder))), expected)
    assert sorted(reads) == [f"image{number}.npy" for number in range(COUNT)]
    assert said == []
    assert list(folder.iterdir()) == []  # the files have no name, so a killed process leaves none


def test_what_fits_stays_in_memory_in_the_type_of_its_values(pairs, tmp_path):
    expected = samples_of(dataset_of(pairs))
    voxels = int(np.prod(SIDES))
    data = dataset_of(pairs, DiskCopies(pytest.fail, folder=tmp_path), cache_bytes=2 * 4 * voxels)
    assert same(samples_of(data), expected)
    kept = data._cache.cached.values()
    assert sorted(type(one).__name__ for one in kept) == ["CachedSample", "CachedSample", "Copied"]
    assert {one.image.dtype for one in kept} == {torch.int16}
    assert 2 * 3 * voxels <= data._cache.nbytes < 2 * 4 * voxels


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists the mapped files")
def test_several_files_are_begun_and_end_with_their_arrays(pairs, tmp_path, monkeypatch):
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    monkeypatch.setattr(keeping, "SEGMENT", 2**15)  # two of three samples
    data = dataset_of(pairs, DiskCopies(pytest.fail, folder=tmp_path))
    assert same(samples_of(data), samples_of(dataset_of(pairs)))
    assert mapped() == 2
    del data
    gc.collect()
    assert mapped() == 0


@pytest.mark.parametrize("where", ["free_bytes", "write"])
def test_a_full_disk_is_told_once_and_volumes_are_read_again(pairs, tmp_path, monkeypatch, where):
    expected = samples_of(dataset_of(pairs))
    said: list[str] = []
    if where == "free_bytes":
        monkeypatch.setattr(keeping, "free_bytes", lambda _: 30_000)  # one of the copies takes 13 kB
    else:
        monkeypatch.setattr(DiskCopies, "_written", full)
    assert same(samples_of(dataset_of(pairs, DiskCopies(said.append, folder=tmp_path))), expected)
    (line,) = said
    assert str(tmp_path) in line
    assert "read again for each patch, which is slow: free some space, or set TMPDIR" in line


def full(*_: object) -> np.ndarray:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_threads_that_want_one_volume_read_it_once(pairs, reads):
    data = dataset_of(pairs, cache_bytes=2**20)
    first = data.cutting.count(0)
    list(data.batches(range(first), batch_size=2, workers=4))
    assert reads == ["image0.npy"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 255], torch.uint8),
        ([-1024, 3071], torch.int16),
        ([0, 65535], torch.uint16),
        ([-1, 65535], torch.float32),
        ([0, 0.5], torch.float32),
        ([1, -0.0], torch.float32),
        ([0, 1e9], torch.float32),
    ],
)
def test_values_take_the_smallest_type_that_holds_them_exactly(values, kind):
    image = torch.tensor(values, dtype=torch.float32).view(1, 2, 1, 1)
    compact = narrowed(image)
    assert compact.dtype == kind
    assert torch.equal(compact.float(), image)


def test_folders_in_memory_are_passed_over(tmp_path, monkeypatch):
    inner = tmp_path / "a b"
    inner.mkdir()
    mounts = tmp_path / "mounts"
    escaped = str(inner).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\ntmpfs {escaped} tmpfs rw 0 0\n")
    monkeypatch.setattr(files, "MOUNTS", mounts)
    assert folder_for_copies([str(inner), str(tmp_path)]) == tmp_path
    assert folder_for_copies([str(inner)]) is None
    monkeypatch.setattr(files, "MOUNTS", tmp_path / "none")
    assert folder_for_copies([str(inner)]) == inner
