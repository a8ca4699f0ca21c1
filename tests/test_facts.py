"""What is remembered of a data set: as long as its files are the same, and no longer."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import pixels
from PIL import Image
from test_card import card_of

from unet_cli.data.check import recall
from unet_cli.data.check.facts import Facts
from unet_cli.data.check.memory import remember, remembered
from unet_cli.data.check.reading import read_facts
from unet_cli.data.check.recall import Memory
from unet_cli.data.folder.layout import find_layout


@pytest.fixture
def reads(monkeypatch):
    """The names of the pairs that are read from disk."""
    names = []

    def counting(pair, keep_alpha):
        names.append(pair.name)
        return read_facts(pair, keep_alpha)

    monkeypatch.setattr(recall, "read_facts", counting)
    return names


def test_facts_survive_being_written_down(data):
    for pair in find_layout(data).splits["train"]:
        ((_, found),) = read_facts(pair, keep_alpha=False)
        assert Facts.from_plain(json.loads(json.dumps(found.plain()))) == found


def test_sums_are_exact(data):
    ((pair, found),) = read_facts(find_layout(data).splits["train"][0], keep_alpha=False)
    values = pixels(pair.image.path).reshape(-1, 3).astype(int)
    assert found.sums == tuple(values.sum(0))
    assert found.squares == tuple((values**2).sum(0))
    assert (found.low, found.high) == (values.min(), values.max())


def test_a_second_look_reads_only_what_has_changed(data, reads):
    first = card_of(data)
    assert sorted(reads) == [f"cell{index}" for index in range(6)]
    reads.clear()
    assert card_of(data).describe() == first.describe()
    assert reads == []
    image = data / "images" / "cell2.png"
    Image.fromarray(pixels(image) // 2).save(image)
    card_of(data)
    assert reads == ["cell2"]


def test_other_ways_of_reading_are_remembered_apart(data, reads):
    card_of(data)
    reads.clear()
    card_of(data, keep_alpha=True)
    assert len(reads) == 6


def test_bad_files_are_read_again_and_a_damaged_memory_is_done_without(data, reads):
    (data / "images" / "cell0.png").write_text("text")
    for _ in range(2):
        reads.clear()
        assert len(card_of(data).refusals) == 1
    assert reads == ["cell0"]
    Memory(data, False).path.write_text('{"cut')
    reads.clear()
    card_of(data)
    assert len(reads) == 6


def test_a_memory_that_cannot_be_written_is_said_and_stops_nothing(data, monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNET_CACHE", str(tmp_path / "file" / "cache"))
    from unet_cli.config.data import DataConfig
    from unet_cli.data.check.examine import examine
    from unet_cli.system.console import Console

    card = examine(find_layout(data), DataConfig(data=data), Console())
    assert len(card.pairs("train")) == 6
    assert "without a cache" in capsys.readouterr().err


def test_pages_are_pairs_of_their_own_and_layers_one_image(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "data/images/a.npy", rng.integers(0, 255, (6, 20, 30), np.uint8))
    masks = rng.integers(0, 2, (6, 20, 30)).astype(np.uint8)
    np.save(tmp_path / "data/masks/a.npy", masks)
    card = card_of(tmp_path / "data")
    assert [pair.name for pair in card.pairs("train")] == [f"a#{page}" for page in range(1, 7)]
    assert card.in_channels == 1
    np.save(tmp_path / "data/masks/a.npy", masks[0])
    card = card_of(tmp_path / "data")
    assert card.in_channels == 6
    assert card.preprocessing(card.pairs("train"), size=32).pages == "channels"


@pytest.mark.parametrize("content", ["[]", "{}", '{"key": 3}', "3"])
def test_a_memory_of_another_shape_is_done_without(data, reads, content):
    card_of(data)
    path = Memory(data, False).path
    known = remembered(path)
    wrong = {key: json.loads(content) for key in known}
    for values in (
        json.loads(content),
        wrong,
        {key: [value[0], [[None, [1]]]] for key, value in known.items()},
        None,
    ):
        if values is None:
            path.write_text(content)
        else:
            remember(path, values)
        reads.clear()
        assert len(card_of(data).pairs("train")) == 6
        assert len(reads) == 6


def test_a_user_without_a_home_has_nothing_remembered(data, monkeypatch):
    """As in a container whose user has no entry."""
    for name in ("UNET_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    path = Memory(data, False).path
    assert remembered(path) == {}
    assert remember(path, {"a": 1})
    assert len(card_of(data).pairs("train")) == 6
