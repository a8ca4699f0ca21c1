"""Jobs with exported networks: killed and continued, told as JSON, of any network; hostile files are one error each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, assert_failed, json_lines, kill_midway, run_unet, start_unet
from exported_graphs import onnx_of, write_openvino
from test_predict import contents, draw_scan

import unet_cli
from unet_cli.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.model import ModelConfig
from unet_cli.data.formats.extras import OPENVINO, is_installed
from unet_cli.data.labels import LabelMap
from unet_cli.errors import UserError
from unet_cli.models import build_model

onnx = pytest.importorskip("onnx", reason="pip install onnx onnxruntime, the extra onnx")
pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime, the extra onnx")

Change = Callable[[Any], object]


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx of the trained network."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    onnx.save(onnx_of(load_checkpoint(trained)), path)
    return path


@pytest.fixture(scope="module")
def for_openvino(exported: Path) -> Path:
    """model.xml of the same, and model.bin."""
    if not is_installed(OPENVINO):
        pytest.skip("pip install openvino, the extra openvino")
    return write_openvino(exported.with_suffix(".xml"), onnx.load(exported))


@pytest.fixture(params=["onnx", "openvino"])
def file(request: pytest.FixtureRequest) -> Path:
    """One of the two."""
    return request.getfixturevalue("exported" if request.param == "onnx" else "for_openvino")


def random_checkpoint(model: ModelConfig, **preprocessing: object) -> Checkpoint:
    """Untrained, of gray levels."""
    torch.manual_seed(0)
    channels = model.in_channels
    return Checkpoint(
        model=model,
        preprocessing=Preprocessing(
            in_channels=channels, dtype="uint8", mean=(120.0,) * channels, std=(40.0,) * channels, **preprocessing
        ),
        labels=LabelMap(tuple(range(model.num_classes)), ("background", "cell", "wall")[: model.num_classes]),
        weights=build_model(model).state_dict(),
    )


@pytest.mark.parametrize("mode", ["resize", "tile"])
@pytest.mark.parametrize(
    "model",
    [
        ModelConfig(name="unet-paper", base_channels=2, in_channels=1),
        ModelConfig(base_channels=2, depth=2, in_channels=5, num_classes=3),
    ],
    ids=["margin", "classes"],
)
def test_networks_with_margins_several_classes_and_channels_predict_as_their_checkpoints(tmp_path, model, mode):
    checkpoint = random_checkpoint(model, size=50, mode=mode)
    save_checkpoint(tmp_path / "best.pth", checkpoint)
    # The old exporter divides negative sides towards zero, so it can't pad for a margin.
    onnx.save(onnx_of(checkpoint, dynamo=model.name == "unet-paper"), tmp_path / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 61, model.in_channels), dtype=np.uint8)
    parts = []
    for weights in ("best.pth", "model.onnx"):
        predictor = unet_cli.load(tmp_path / weights, precision="float32", device="cpu")
        bands = predictor.bands(predictor.picture(np.moveaxis(pixels, -1, 0), ()))
        parts.append(torch.cat([predictor.finished(band) for band in bands], 1))
    assert parts[0].std() > 0.001
    assert torch.allclose(*parts, atol=1e-5)


def test_a_job_continues_where_it_was_killed_to_the_same_bytes(file, images, tmp_path):
    for index in range(40):
        shutil.copy(images / "a.png", images / f"copy{index:02d}.png")
    (images / "bad.png").write_text("text")
    flags = ["predict", "--weights", str(file), "--input", "imgs", "--probabilities", "--skip-existing"]
    assert run_unet(*flags, "--output", "unbroken", cwd=tmp_path).returncode == 3
    process = start_unet(*flags, "--output", "broken", cwd=tmp_path)
    while process.poll() is None and len(list((tmp_path / "broken").rglob("*.png"))) < 15:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = run_unet(*flags, "--output", "broken", cwd=tmp_path)
    assert_failed(done, 3, "bad.png is not an image")
    assert "already done" in done.stdout
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")


def test_a_scan_is_not_continued_with_what_another_runtime_computed(trained, exported, tmp_path):
    draw_scan(tmp_path / "scan.tif", height=1500, width=700)
    flags = ["predict", "--input", "scan.tif", "--mode", "tile", "--probabilities", "--output", "out"]
    kill_midway(*flags, "--weights", exported, part=tmp_path / "out/.scan.tif.part", least=100_000, cwd=tmp_path)
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    done = run_unet(*flags, "--weights", trained, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows of a stopped call" not in done.stdout
    done = run_unet(*flags[:-1], "again", "--weights", exported, "--json", cwd=tmp_path)
    assert "rows of a stopped call were used" in done.stdout


def test_json_lines_are_those_of_the_checkpoint(unet: Run, trained, file, images):
    (images / "bad.png").write_text("text")
    rows = []
    for weights in (trained, file):
        flags = ["--output", "out", "--json", "--device", "cpu", "--precision", "float32"]
        done = unet("predict", "--weights", weights, "--input", "imgs", *flags)
        assert done.returncode == 3, done.stderr
        rows.append({row["input"]: row for row in json_lines(done.stdout)})
    ours, theirs = rows
    assert len(ours) == 4
    assert ours.keys() == theirs.keys()
    for name, row in ours.items():
        assert row.keys() == theirs[name].keys()
        assert all(row[key] == theirs[name][key] for key in ("output", "size", "error") if key in row)


def test_openvino_is_imported_without_what_sends_news_of_it(for_openvino):
    code = (
        "import sys, unet_cli; unet_cli.load(sys.argv[1]); "
        "sys.exit('openvino' not in sys.modules or sys.modules.get('openvino_telemetry'))"
    )
    assert subprocess.run([sys.executable, "-c", code, for_openvino]).returncode == 0
    assert not sys.modules.get("openvino_telemetry")


def outsourced(model: Any, location: str) -> None:
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)


def outsourced_in_a_branch(model: Any) -> None:
    from onnx import helper

    tensor = helper.make_tensor("secret", onnx.TensorProto.FLOAT, [1], [0.0])
    outsourced_one = onnx.TensorProto(name="secret", dims=[1], data_type=tensor.data_type)
    outsourced_one.data_location = onnx.TensorProto.EXTERNAL
    outsourced_one.external_data.add(key="location", value="/etc/passwd")
    branch = helper.make_graph([helper.make_node("Constant", [], ["out"], value=outsourced_one)], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))


def spoiled(model: Any) -> None:
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weights).copy()
    values.flat[0] = np.nan
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))


def told(model: Any, text: str) -> None:
    model.metadata_props[0].value = text


def told_otherwise(model: Any, /, **values: object) -> None:
    told(model, json.dumps(json.loads(model.metadata_props[0].value) | values))


BROKEN: dict[str, tuple[Change, str]] = {
    "another tool's": (lambda model: model.ClearField("metadata_props"), "is of another tool: .* unet export"),
    "an unknown IR version": (
        lambda model: setattr(model, "ir_version", 999),
        "can't be run by ONNX Runtime .*999.* pip install -U onnxruntime",
    ),
    "an unknown opset": (
        lambda model: setattr(model.opset_import[0], "version", 999), "can't be run by ONNX Runtime .*999.* export",
    ),
    "an unknown operator": (
        lambda model: setattr(model.graph.node[5], "op_type", "Steal"), "can't be run by ONNX Runtime .*Steal",
    ),
    "data above": (partial(outsourced, location="../../secret.bin"), "keeps weights in other files"),
    "data at the root": (partial(outsourced, location="/etc/passwd"), "keeps weights in other files"),
    "data beside": (partial(outsourced, location="weights.bin"), "keeps weights in other files"),
    "data in a branch": (outsourced_in_a_branch, r"keeps weights in other files \('secret'\)"),
    "no number": (spoiled, "weights that are not finite .* train again"),
    "other classes": (
        partial(told_otherwise, labels=LabelMap((0, 1, 2), ("a", "b", "c")).plain()), "labels has 3 classes",
    ),
    "another network": (partial(told_otherwise, model={"name": "nonsense"}), "nonsense"),
    "a newer format": (
        partial(told_otherwise, format_version=99, version="9.9"), "written by unet 9.9, which is newer",
    ),
    "smuggled weights": (partial(told_otherwise, threshold=7, weights={"a": 1}), "threshold is 7, and not 0 to 1"),
    "no JSON": (partial(told, text="{"), "is damaged, or not as `unet export` wrote it"),
    "deep lists": (partial(told, text="[" * 10**5), "is damaged, or not as `unet export` wrote it"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_is_not_as_it_should_be_is_one_error(exported, tmp_path, capfd, what):
    change, said = BROKEN[what]
    model = onnx.load(exported)
    change(model)
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=rf"(?s)^{tmp_path}/odd.onnx .*{said}") as failed:
        unet_cli.load(tmp_path / "odd.onnx")
    assert len(str(failed.value)) < 700
    assert capfd.readouterr().err == ""  # nothing of the runtime's own


def test_the_command_ends_with_that_error_before_a_mask_is_touched(unet: Run, exported, images, tmp_path):
    model = onnx.load(exported)
    model.ir_version = 999
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    assert unet("predict", "--weights", exported, "--input", "imgs").returncode == 0
    before = contents(tmp_path / "imgs_masks")
    done = unet("predict", "--weights", "odd.onnx", "--input", "imgs")
    assert_failed(done, 1, "odd.onnx can't be run by ONNX Runtime")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert contents(tmp_path / "imgs_masks") == before


def test_what_is_no_network_is_refused(exported, for_openvino, tmp_path):
    content, xml, weights = (
        path.read_bytes() for path in (exported, for_openvino, for_openvino.with_suffix(".bin"))
    )  # fmt: skip
    half = len(content) // 2
    odd = tmp_path / "odd.onnx"
    for broken in (b"", b"hello", content[:half], content[:-7], np.random.default_rng(0).bytes(999), xml):
        odd.write_bytes(broken)
        with pytest.raises(UserError, match="odd.onnx is "):
            unet_cli.load(odd)
    odd = tmp_path / "odd.xml"
    odd.with_suffix(".bin").write_bytes(weights)
    for broken in (b"", b"hello", b"<annotation/>", b"<net/>", xml[: len(xml) // 2], content, b" " + content):
        odd.write_bytes(broken)
        with pytest.raises(UserError, match="odd.xml is "):
            unet_cli.load(odd)
    odd.write_bytes(xml)
    odd.with_suffix(".bin").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match=r"odd.xml is damaged, .*weights"):
        unet_cli.load(odd)
    os.remove(odd.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"odd.xml needs its weights, odd.bin, beside it"):
        unet_cli.load(odd)
