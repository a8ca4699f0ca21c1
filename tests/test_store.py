"""Rows of an image that wait for the others: in memory and on disk alike, and after a kill."""

import os

import numpy as np
import pytest

from unet_cli.errors import UserError
from unet_cli.inference.store import InMemory, OnDisk

IDENTITY = {"image": "a.tif", "weights": "abc"}
RNG = np.random.default_rng(0)
CLASSES, MAPS = RNG.integers(0, 3, (30, 7), np.uint8), RNG.integers(0, 65535, (30, 7), np.uint16)


def on_disk(path, identity=IDENTITY):
    return OnDisk(path, identity, 7, [np.uint8, np.uint16])


def add(store, top, bottom, probability=0.5):
    store.add(top, [CLASSES[top:bottom], MAPS[top:bottom]], probability)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_rows_come_back_in_order_whatever_the_order_they_came_in(tmp_path, kind):
    store = InMemory() if kind == "memory" else on_disk(tmp_path / "a.part")
    add(store, 10, 20)
    assert store.done == 0
    add(store, 0, 10, 0.9)
    assert store.done == 20
    add(store, 20, 30)
    assert (np.concatenate(list(store.rows(0))) == CLASSES).all()
    assert (np.concatenate(list(store.rows(1))) == MAPS).all()
    assert store.top_probability == 0.9
    store.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_had_added_is_there_at_every_length_of_the_file(tmp_path):
    path = tmp_path / "a.part"
    store = on_disk(path)
    for top in (0, 10, 20):
        add(store, top, top + 10, top / 20)
    store.close()
    whole = path.read_bytes()
    seen = set()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        store = on_disk(path)
        assert store.done % 10 == 0
        seen.add(store.done)
        for top in range(store.done, 30, 10):
            add(store, top, top + 10, top / 20)
        assert (np.concatenate(list(store.rows(1))) == MAPS).all()
        assert store.top_probability == 1
        store.close()
    assert seen == {0, 10, 20, 30}


def test_damaged_rows_are_computed_again(tmp_path):
    path = tmp_path / "a.part"
    store = on_disk(path)
    ends = [path.stat().st_size]
    for top in (0, 10, 20):
        add(store, top, top + 10)
        ends.append(path.stat().st_size)
    store.close()
    whole = path.read_bytes()
    for damaged in (
        whole[: ends[2]] + bytes(500),  # what a power cut may leave
        whole[: ends[2] + 50] + b"\0" + whole[ends[2] + 51 :],
        whole[: ends[0]] + bytes(500),
    ):
        path.write_bytes(damaged)
        store = on_disk(path)
        assert store.done == (0 if len(damaged) < ends[1] + 400 and damaged[ends[0] :] == bytes(500) else 20)
        store.close()


def test_two_processes_do_not_write_to_one_file(tmp_path):
    store = on_disk(tmp_path / "a.part")
    with pytest.raises(UserError, match="in use"):
        on_disk(tmp_path / "a.part")
    store.close()
    on_disk(tmp_path / "a.part").close()


def test_a_gap_is_filled_again(tmp_path):
    store = on_disk(tmp_path / "a.part")
    add(store, 10, 20)  # a second thread was faster than the first, and then all ended
    store.close()
    store = on_disk(tmp_path / "a.part")
    assert store.done == 0
    add(store, 0, 10)
    assert store.done == 20
    store.close()


def test_rows_of_another_prediction_are_not_used(tmp_path):
    store = on_disk(tmp_path / "a.part")
    add(store, 0, 30)
    store.close()
    store = on_disk(tmp_path / "a.part", IDENTITY | {"weights": "other"})
    assert store.done == 0
    assert list(store.rows(0)) == []
    store.close()


def test_a_place_that_cannot_be_written_is_an_error_of_the_user(tmp_path):
    with pytest.raises(UserError, match=r"missing"):
        on_disk(tmp_path / "missing" / "a.part")


def test_a_link_or_a_file_of_somebody_else_is_never_written_to(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "link.part").symlink_to(tmp_path / "thesis.txt")
    (tmp_path / "dangling.part").symlink_to(tmp_path / "nowhere")
    os.link(tmp_path / "thesis.txt", tmp_path / "hard.part")
    (tmp_path / "own.part").write_text("mine")
    os.mkfifo(tmp_path / "pipe.part")
    for name in ("link", "dangling", "hard", "own", "pipe"):
        with pytest.raises(UserError, match=f"{name}.part is in the way"):
            on_disk(tmp_path / f"{name}.part")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "own.part").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
