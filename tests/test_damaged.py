"""What a run has left is read back whole or refused by name: any value in it may be any other.

Files are changed one value at a time, in one process, and read as the commands read them. Whatever is refused has to be
refused as a UserError, which says what to do; nothing may hang, run code, or take memory that the file doesn't have.
"""

import json
import math
import pickle
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import TINY, Run, run_unet, write_pairs

from unet_cli.checkpoint import load_checkpoint
from unet_cli.config.hardware import Hardware
from unet_cli.config.prediction import Inference
from unet_cli.data.check.memory import remember, remembered
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.inference.predictor import Predictor
from unet_cli.report.runs import report_run
from unet_cli.runs.folds import stored_report
from unet_cli.runs.resume import saved_state
from unet_cli.system.console import Console
from unet_cli.system.device import Compute
from unet_cli.system.schema import Misfit, json_of, parsed, plain, toml_of
from unet_cli.system.tensors import Unreadable, load_tensors
from unet_cli.training.plan import Plan

QUIET = Console(quiet=True)
DEEP: list = []
for _ in range(200):
    DEEP = [DEEP, DEEP]  # 2^200 lists for who looks at each
VALUES = [
    None, True, -1, 0, 1, 3, 2**20, 2**70, -0.5, 0.3, 2.0, 1e308, math.nan, math.inf, "", "x", "\x1b[31mred",
    "a" * 10**5, [], [1], ["x"], {}, {"x": 1}, DEEP, torch.zeros(()), torch.zeros(1).expand(64, 3, 3, 3),
    torch.full((4,), math.nan),
]  # fmt: skip
FOR_JSON = [value for value in VALUES if value is not DEEP]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("damaged")
    write_pairs(folder / "data", count=6)
    done = run_unet("train", "--data", folder / "data", *TINY, "--epochs", 2, "--name", "r", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "checkpoints" / "r"


def places(value: object, path: tuple = ()) -> Iterator[tuple]:
    """The way to each value within nested tables and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def changed(content: dict, draw: random.Random, values: list = VALUES) -> None:
    """Change one value of it in place."""
    ways = list(places(content))
    shallow = [way for way in ways if len(way) < 3]
    *way, last = draw.choice(shallow if draw.random() < 0.5 else ways)
    parent = content
    for key in way:
        parent = parent[key]
    value = draw.choice([*values, "gone"])
    if isinstance(value, str) and value == "gone":
        del parent[last]
    else:
        parent[last] = value


def predicts(path: Path, image: Path) -> None:
    predictor = Predictor([load_checkpoint(path)], Compute(torch.device("cpu"), "float32"), Inference())
    for band in predictor.bands(predictor.read(Source((image,)))):
        if bool(torch.isfinite(band.combined()).all()):
            continue
        with pytest.raises(UserError, match="not finite"):  # which fails the image: no mask is written
            band.finished()


def checkpoints_are_read_or_refused(run: Path, folder: Path, name: str, number: int) -> None:
    image, refusals = run.parent.parent / "data/images/cell0.png", []
    for seed in range(number):
        content = torch.load(run / name, weights_only=True)
        changed(content, random.Random(seed))
        (one := folder / str(seed)).mkdir(parents=True)
        torch.save(content, one / name)
        shutil.copy(run / "best.pth", one) if name == "last.pth" else None
        try:
            predicts(one / name, image) if name == "best.pth" else saved_state(one)
        except UserError as error:
            refusals.append(str(error))
        shutil.rmtree(one)
    assert all(str(folder) in refusal and refusal.isprintable() for refusal in refusals)
    assert number / 2 < len(refusals) < number


def records_are_read_or_refused(run: Path, folder: Path, number: int) -> None:
    refused = 0
    for seed in range(number):
        draw = random.Random(seed)
        shutil.copytree(run, one := folder / str(seed))
        name = draw.choice(["split.json", "run.json", "metrics.json", "log.csv"])
        if name == "log.csv":
            cells = [line.split(",") for line in (one / name).read_text().splitlines()]
            row = draw.choice(cells)
            row[draw.randrange(len(row))] = draw.choice(["", "x", "-1", "nan", "1e999", '"', "\x00"])
            (one / name).write_text("\n".join(map(",".join, cells)))
        else:
            changed(content := json.loads((one / name).read_text()), draw, FOR_JSON)
            (one / name).write_text(json.dumps(content, default=lambda _: "[" * 10))
        try:
            if name == "metrics.json":
                stored_report(one)
            else:
                report_run(one, one / "page.html", Hardware(device="cpu", precision="float32"), QUIET)
        except UserError:
            refused += 1
        shutil.rmtree(one)
    assert number / 10 < refused < number


@pytest.mark.parametrize("name", ["best.pth", "last.pth"])
def test_a_checkpoint_with_any_other_value_is_read_or_refused(run, tmp_path, name):
    checkpoints_are_read_or_refused(run, tmp_path, name, 50)


def test_a_run_whose_records_hold_any_other_value_is_read_or_refused(run, tmp_path):
    records_are_read_or_refused(run, tmp_path, 20)


@pytest.mark.slow
def test_ten_thousand_changes(run, tmp_path):
    checkpoints_are_read_or_refused(run, tmp_path / "best", "best.pth", 6000)
    checkpoints_are_read_or_refused(run, tmp_path / "last", "last.pth", 3000)
    records_are_read_or_refused(run, tmp_path, 1000)


def test_a_flipped_bit_is_noticed(unet: Run, run, tmp_path):
    content = bytearray((run / "best.pth").read_bytes())
    weight = next(iter(load_checkpoint(run).weights.values()))
    place = content.find(weight.numpy().tobytes()[:16])
    content[place + 2] ^= 1
    (tmp_path / "flipped.pth").write_bytes(content)
    done = unet("predict", "--weights", "flipped.pth", "--input", run.parent.parent / "data/images", "--output", "out")
    assert done.returncode == 1
    assert "flipped.pth is not a checkpoint of unet: it is damaged" in done.stderr
    assert "checksum" in done.stderr


def test_weights_that_are_not_finite_are_refused(run, tmp_path):
    content = torch.load(run / "best.pth", weights_only=True)
    next(iter(content["weights"].values()))[0] = math.nan
    torch.save(content, tmp_path / "nan.pth")
    with pytest.raises(UserError, match="not finite, so every mask would be empty"):
        load_checkpoint(tmp_path / "nan.pth")


@pytest.mark.parametrize("depth", [14, 65536])
def test_a_network_that_the_weights_are_not_of_is_not_built(run, tmp_path, depth):
    content = torch.load(run / "best.pth", weights_only=True)
    content["model"]["depth"] = depth
    torch.save(content, tmp_path / "deep.pth")
    with pytest.raises(UserError, match="depth is"):
        load_checkpoint(tmp_path / "deep.pth")


def test_what_asks_for_memory_is_refused(run, tmp_path):
    torch.save({"format": "unet-checkpoint", "x": bytearray(10)}, tmp_path / "array.pth")
    with pytest.raises(Unreadable, match="bytearray"):
        load_tensors(tmp_path / "array.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", pickle.dumps({}))
        archive.writestr("bomb/data/0", bytes(10**7))
    with pytest.raises(Unreadable, match="compressed"):
        load_tensors(tmp_path / "bomb.pth")


def test_files_of_older_torch_are_read_and_looked_through_too(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert load_tensors(tmp_path / "old.pth")["a"].tolist() == [1, 1, 1]
    torch.save({"a": bytearray(3)}, tmp_path / "array.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(Unreadable, match="bytearray"):
        load_tensors(tmp_path / "array.pth")


def test_what_is_remembered_counts_to_the_last_byte(tmp_path):
    path = tmp_path / "facts.json"
    assert remember(path, {"a": [1, 2]}) is None
    assert remembered(path) == {"a": [1, 2]}
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert remembered(path) == {}


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (int, True, "it is True, and no int"),
        (int, 2**64, "very large number"),
        (float, math.nan, "it is nan"),
        (float, "1", "it is '1', and no float"),
        (tuple[int, int], [1], "holds 1 values, and not 2"),
        (tuple[int, ...], [1, "\x1b"], r"it\[1\] is '\\x1b'"),
        (dict[str, int], {"a": None}, "it.a is None"),
        (int | None, "x", "and no int"),
        (Plan, {"sidez": []}, "'sidez', which is not known"),
        (Plan, {"sides": [1.5]}, r"sides\[0\] is 1.5"),
    ],
)
def test_what_is_wrong_is_named(kind, value, problem):
    with pytest.raises(Misfit, match=problem):
        parsed(kind, value, "it")


def test_what_fits_is_taken():
    assert parsed(float, 2) == 2.0
    assert parsed(tuple[int, ...] | None, [1, 2]) == (1, 2)
    assert parsed(Plan, {"sides": [32], "until": [1]}) == Plan(sides=(32,), until=(1.0,))
    assert plain({"a": [1, "x", None]}) == {"a": [1, "x", None]}


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5])
def test_lists_in_lists_without_end_are_no_json_and_no_toml(text):
    for read in (json_of, toml_of):
        with pytest.raises(ValueError, match="lists in lists|Invalid|invalid|Expected|Expecting|Unclosed"):
            read(text if read is json_of else "a = " + text)
