"""Cross-validation: a run for each fold, one after the other, all in one folder that can be gone on with.

The runs are real ones of a tiny network, in this process. What a kill leaves is made by hand, by taking away what would
not be there yet; a run within is killed in earnest in test_resume.py.
"""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import Run, write_pairs

import unet_cli
from unet_cli.checkpoint import find_checkpoints, load_checkpoint
from unet_cli.config.training import TrainConfig
from unet_cli.data.check.orientation import MIN_PAIRS, WayUp
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.samples.split import Split
from unet_cli.errors import Stopped, UserError
from unet_cli.runs import folds, prepare
from unet_cli.runs import train as run
from unet_cli.runs.folds import Folds, is_for_all_folds, train_folds
from unet_cli.system.console import Console
from unet_cli.system.files import alone_in

SETTINGS = {
    "size": 32, "width": 4, "depth": 2, "batch_size": 2, "device": "cpu", "precision": "float32", "epochs": 1,
    "folds": 2, "fold": "all",
}  # fmt: skip
QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("undrawn")


def config_of(run: Path, **settings) -> TrainConfig:
    """Of going on with a folder under checkpoints, with the data beside them."""
    return TrainConfig(**{**SETTINGS, "data": data_of(run), "resume": run, **settings})


def data_of(run: Path) -> Path:
    return next(parent for parent in run.parents if parent.name == "checkpoints").parent / "data"


def go_on(run: Path, **settings) -> Folds:
    return train_folds(config_of(run, **settings), find_layout(data_of(run)), QUIET, time.monotonic())


def cross_validate(folder: Path, **settings) -> Folds:
    """On folder/data, into folder/checkpoints."""
    config = TrainConfig(**{"data": folder / "data", "output": folder / "checkpoints", **SETTINGS, **settings})
    return train_folds(config, find_layout(config.data), QUIET, time.monotonic())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, undrawn: None) -> tuple[Path, Folds]:
    """A folder with data and a finished cross-validation, checkpoints/data-1, and what it returned."""
    folder = tmp_path_factory.mktemp("folds")
    write_pairs(folder / "data")
    return folder, cross_validate(folder)


@pytest.fixture
def whole(finished, tmp_path) -> Path:
    """A copy of the finished cross-validation, for a test to spoil."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "checkpoints" / "data-1"


def state_of(run: Path) -> dict[str, int]:
    """When each of the run's files was written."""
    return {str(path): path.stat().st_mtime_ns for path in run.rglob("*")}


def validated(run: Path) -> list[str]:
    return json.loads((run / "split.json").read_text())["val"]


def assert_same_weights(run: Path, other: Path) -> None:
    ours, theirs = (load_checkpoint(folder / "last.pth").weights for folder in (run, other))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_each_fold_is_a_run_and_every_pair_is_validated_once(finished):
    folder, done = finished
    whole = folder / "checkpoints" / "data-1"
    assert done.folder == str(whole)
    assert [report.run for report in done.folds] == [str(whole / "fold1"), str(whole / "fold2")]
    assert all(0 <= report.scores["dice"] <= 1 and report.epochs == 1 for report in done.folds)
    assert done.next == f"unet predict --weights {whole} --input {folder / 'data' / 'images'}"
    assert sorted(path.name for path in whole.iterdir()) == [
        "config.toml", "fold1", "fold2", "metrics.json", "report.html",
    ]  # fmt: skip
    parts = [validated(whole / name) for name in ("fold1", "fold2")]
    assert sorted(parts[0] + parts[1]) == [f"cell{index}" for index in range(6)]
    assert len(parts[0]) == len(parts[1])
    assert load_checkpoint(whole / "fold2").training["fold"] == 2


def test_all_folds_predict_together(finished):
    whole = finished[0] / "checkpoints" / "data-1"
    assert find_checkpoints([whole]) == [whole / "fold1" / "best.pth", whole / "fold2" / "best.pth"]
    assert len(unet_cli.load(whole, device="cpu").members) == 2


def test_all_folds_take_images_to_have_the_way_up_that_the_first_found(tmp_path, monkeypatch):
    write_pairs(tmp_path / "data")
    measured = iter([WayUp(MIN_PAIRS, 1.0, 1.0)])  # once
    monkeypatch.setattr(prepare, "way_up", lambda train: next(measured))
    cross_validate(tmp_path)
    for fold in ("fold1", "fold2"):
        best = load_checkpoint(tmp_path / "checkpoints" / "data-1" / fold / "best.pth")
        assert best.preprocessing.orientation == "upright"


def test_together_every_image_is_judged_by_the_network_that_did_not_see_it(finished):
    whole = finished[0] / "checkpoints" / "data-1"
    dices = []
    for name in ("fold1", "fold2"):  # of equal size
        dices.append(json.loads((whole / name / "metrics.json").read_text())["scores"]["dice"])
    assert finished[1].scores["dice"] == pytest.approx(sum(dices) / 2)
    page = (whole / "report.html").read_text()
    assert all(f"cell{index}" in page for index in range(6))


def test_evaluate_leaves_each_image_to_the_fold_that_did_not_see_it(finished, unet: Run):
    whole, data = finished[0] / "checkpoints" / "data-1", finished[0] / "data"
    settings = ("--device", "cpu", "--precision", "float32", "--json")
    done = unet("evaluate", "--weights", whole, "--data", data, *settings)
    assert done.returncode == 0, done.stderr
    scores = {row["metric"]: row["value"] for row in json.loads(done.stdout)["scores"] if row["name"] == "all"}
    assert scores["dice"] == pytest.approx(finished[1].scores["dice"])
    assert "those of the 2 networks that were not trained on it" in done.stderr


def test_a_fold_without_its_end_is_named_where_all_are_used(whole, unet: Run, tmp_path):
    (whole / "fold2" / "metrics.json").unlink()
    done = unet("predict", "--weights", whole, "--input", tmp_path / "data" / "images", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert f"{whole}/fold2 hasn't finished training: its weights are the best so far" in done.stderr
    assert "fold1" not in done.stderr


def test_finished_folds_are_left_alone_and_said(whole, unet: Run):
    before = state_of(whole / "fold1") | state_of(whole / "fold2")
    done = unet("train", "--resume", whole, "--data", "data")
    assert done.returncode == 0, done.stderr
    assert f"{whole}/fold2 has finished training" in done.stderr
    dice = json.loads((whole / "fold1" / "metrics.json").read_text())["scores"]["dice"]
    assert f"{whole}/fold1: validation Dice {dice:.3f}" in done.stdout
    together = json.loads((whole / "metrics.json").read_text())["scores"]["dice"]
    assert f"Out of fold, each image by the network not trained on it: Dice {together:.3f}" in done.stdout
    assert state_of(whole / "fold1") | state_of(whole / "fold2") == before


def test_finished_folds_are_not_even_prepared(whole, monkeypatch):
    """Of --max-time a little is always left, which would be trained on."""
    monkeypatch.setattr(folds, "train", None)
    assert [report.epochs for report in go_on(whole).folds] == [1, 1]


def test_killed_before_the_second_fold_it_trains_that_alone_and_the_same(whole, finished):
    for path in (whole / "fold2").iterdir():
        if path.name != "split.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = state_of(whole / "fold1")
    done = go_on(whole)
    assert state_of(whole / "fold1") == before
    assert [report.run for report in done.folds] == [str(whole / "fold1"), str(whole / "fold2")]
    assert_same_weights(whole / "fold2", finished[0] / "checkpoints" / "data-1" / "fold2")


def test_killed_before_a_fold_had_its_scores_it_is_gone_on_with(whole, finished):
    (whole / "fold1" / "metrics.json").unlink()
    assert [report.epochs for report in go_on(whole).folds] == [1, 1]
    assert_same_weights(whole / "fold1", finished[0] / "checkpoints" / "data-1" / "fold1")


def test_killed_before_all_splits_were_written_it_draws_the_same(whole, monkeypatch):
    before = [validated(whole / name) for name in ("fold1", "fold2")]
    shutil.rmtree(whole / "fold2")
    trained = without_training(monkeypatch)
    go_on(whole)
    assert trained == ["fold1", "fold2"]
    assert [validated(whole / name) for name in ("fold1", "fold2")] == before


def test_pairs_that_have_come_since_leave_the_folds_as_they_were(whole, monkeypatch):
    trained = without_training(monkeypatch)
    before = [validated(whole / name) for name in ("fold1", "fold2")]
    for part in ("images", "masks"):
        shutil.copy(whole.parent.parent / "data" / part / "cell0.png", whole.parent.parent / "data" / part / "new.png")
    go_on(whole)
    assert trained == ["fold1", "fold2"]
    assert [validated(whole / name) for name in ("fold1", "fold2")] == before
    shutil.rmtree(whole / "fold2")
    with pytest.raises(UserError, match="fold2 has no split.json, and one that fits the other folds can't be drawn"):
        go_on(whole)
    assert not (whole / "fold2").exists()


def without_training(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that would have been trained, in their order; filled as they come."""
    names: list[str] = []

    def trained(config, run, layout, console, started, like):
        names.append(run.name)

    monkeypatch.setattr(folds, "_trained", trained)
    monkeypatch.setattr(folds, "_together", lambda *_: None)
    return names


def test_with_more_epochs_finished_folds_go_on_and_stopped_between_each_only_once(whole, monkeypatch):
    def stopped_in_the_second(config, *others, **named):
        if config.fold == 2:
            raise Stopped(signal.SIGTERM)
        return run_train(config, *others, **named)

    run_train = folds.train
    monkeypatch.setattr(folds, "train", stopped_in_the_second)
    with pytest.raises(Stopped) as stopped:
        go_on(whole, epochs=2)
    assert stopped.value.hint == f". To resume: unet train --resume {whole}"
    monkeypatch.undo()
    before = state_of(whole / "fold1")
    assert [report.epochs for report in go_on(whole, epochs=2).folds] == [2, 2]
    assert state_of(whole / "fold1") == before
    assert [report.epochs for report in go_on(whole, epochs=1).folds] == [2, 2]


def test_a_stop_within_a_fold_hints_at_the_whole_alone(whole, monkeypatch):
    def stopped(*_):
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr(run, "_fit_and_save", stopped)
    with pytest.raises(Stopped) as seen:
        go_on(whole, epochs=2)
    assert seen.value.hint == f". To resume: unet train --resume {whole}"
    monkeypatch.setattr(run, "_fit_and_save", lambda *_: (_ for _ in ()).throw(UserError("it diverged")))
    with pytest.raises(UserError) as failed:
        go_on(whole, epochs=2)
    assert str(failed.value) == f"it diverged.\nTo resume: unet train --resume {whole}"


def test_the_time_is_shared_out_evenly_and_counts_for_each_from_its_own_beginning(whole, monkeypatch):
    calls = []

    def train(config, layout, console, started, is_part, like):
        calls.append((config.fold, config.max_time, started))

    monkeypatch.setattr(folds, "train", train)
    go_on(whole, max_time=90.0)
    assert [call[:2] for call in calls] == [(1, 45.0), (2, 45.0)]
    assert calls[0][2] < calls[1][2]


def test_names_of_ten_folds_sort(tmp_path, data, monkeypatch):
    trained = without_training(monkeypatch)
    monkeypatch.setattr(folds, "_splits", lambda *_: [Split([], [], "")] * 10)
    cross_validate(tmp_path, folds=10)
    assert trained == sorted(trained)
    assert trained[::9] == ["fold01", "fold10"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fold": 2}, "started with --fold all, and can't be resumed with 2"),
        ({"folds": 3}, "started with --folds 2, and can't be resumed with 3"),
        ({"width": 8}, "started with --width 4, and can't be resumed with 8"),
        ({"group_by": "cell"}, "started without --group-by, and can't be resumed with cell"),
    ],
)
def test_what_would_make_it_another_is_refused_and_nothing_changed(whole, settings, message):
    before = state_of(whole)
    assert is_for_all_folds(config_of(whole, **settings))
    with pytest.raises(UserError, match=message):
        go_on(whole, **settings)
    assert state_of(whole) == before


def test_one_fold_goes_on_alone_and_becomes_no_other(whole):
    assert not is_for_all_folds(config_of(whole / "fold1", fold=1))
    with pytest.raises(UserError, match="started with --fold 1, and can't be resumed with all"):
        go_on(whole / "fold1", mode="resize")  # as its config.toml has it


def test_what_cannot_be_cut_is_told_before_there_is_a_folder(tmp_path, monkeypatch):
    write_pairs(tmp_path / "data", count=2)
    with pytest.raises(UserError, match="--folds 3: there are only 2 pairs"):
        cross_validate(tmp_path, folds=3)
    write_pairs(tmp_path / "held" / "train", count=2)
    write_pairs(tmp_path / "held" / "val", count=2, mask_suffix="_mask")
    with pytest.raises(UserError, match="has a val folder, which is the split: leave out --folds"):
        cross_validate(tmp_path, data=tmp_path / "held")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--fold all trains in one process"):
        cross_validate(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_two_processes_do_not_train_in_one_folder(whole):
    with alone_in(whole), pytest.raises(UserError, match="is in use"):
        go_on(whole)


def test_a_damaged_metrics_json_is_named(whole):
    (whole / "fold1" / "metrics.json").write_text("[]")
    with pytest.raises(UserError, match="fold1/metrics.json is not what train wrote.*remove it"):
        go_on(whole)
