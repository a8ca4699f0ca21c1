"""Exported networks as --weights: the masks are those of the checkpoint, and nothing that a file says is believed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
import torch
from conftest import Run, assert_failed, drawn, json_lines, kill_midway, pixels, run_unet, write_pairs
from exported_files import network_graph, texts_of, whole_graph, write_onnx, write_openvino

from unet_cli.checkpoint import Checkpoint, described, load_checkpoint, save_checkpoint
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Inference
from unet_cli.data.formats import extras
from unet_cli.errors import UserError
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.runtime import compute_for
from unet_cli.models import build_model
from unet_cli.system.schema import json_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if not extras.is_installed(extras.OPENVINO):
    pytest.skip("needs openvino", allow_module_level=True)
pytest.importorskip("onnxscript")

CPU = {"device": "cpu", "precision": "float32"}
KINDS = ["onnx", "xml"]
IMAGE = drawn(seed=2, index=3)[0][:50, :61]


@pytest.fixture(scope="module")
def graph(trained: Path) -> Any:
    """The whole graph of the trained network."""
    checkpoint = load_checkpoint(trained)
    return whole_graph(network_graph(checkpoint), checkpoint)


@pytest.fixture(scope="module")
def exported(trained: Path, graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with best.pth, model.onnx, model.xml and model.bin."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copy(trained, folder)
    texts = texts_of(load_checkpoint(trained))
    write_onnx(folder / "model.onnx", graph, texts)
    write_openvino(folder / "model.xml", graph, texts)
    return folder


@pytest.fixture
def spoiled(trained: Path, graph: Any, tmp_path: Path) -> Callable[..., Path]:
    """Write model.onnx with a changed graph, or a changed description."""

    def write(change: Callable[[Any], object] = lambda _: None, **description: object) -> Path:
        copy = onnx.ModelProto.FromString(graph.SerializeToString())
        texts = {"unet": json.dumps(described(load_checkpoint(trained)) | description)}
        path = write_onnx(tmp_path / "model.onnx", copy, texts)
        model = onnx.ModelProto.FromString(path.read_bytes())
        change(model)
        path.write_bytes(model.SerializeToString())
        return path

    return write


def predictor_of(*paths: Path, **settings: Any) -> Predictor:
    inference = Inference(**CPU | settings)
    checkpoints = [load_checkpoint(path, exported=True) for path in paths]
    return Predictor(checkpoints, compute_for(checkpoints, inference), inference)


def probabilities(predictor: Predictor, image: np.ndarray = IMAGE) -> torch.Tensor:
    picture = predictor.picture(np.moveaxis(image, -1, 0), ())
    return torch.cat([band.combined() for band in predictor.bands(picture)], 1)


def test_a_description_comes_back_from_json(trained):
    checkpoint = load_checkpoint(trained)
    save_checkpoint(trained.with_name("again.pth"), checkpoint)
    assert described(load_checkpoint(trained.with_name("again.pth"))) == described(checkpoint)
    assert json_of(json.dumps(described(checkpoint)))["labels"]["names"] == ["background", "foreground"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"mode": "tile"}, {"flips": True}, {"batch_size": 3, "mode": "tile"}])
def test_probabilities_are_those_of_the_checkpoint(exported, kind, settings):
    ours = probabilities(predictor_of(exported / f"model.{kind}", **settings))
    expected = probabilities(predictor_of(exported / "best.pth", **settings))
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["resize", "tile"])
def test_masks_of_the_command_are_those_of_the_checkpoint(unet: Run, exported, images, tmp_path, mode):
    for name in ("best.pth", "model.onnx", "model.xml"):
        flags = ["--input", "imgs", "--mode", mode, "--output", name, "--precision", "float32", "--json"]
        done = unet("predict", "--weights", exported / name, *flags)
        assert done.returncode == 0, done.stderr
        assert [line["size"] for line in json_lines(done.stdout)] == [[39, 30], [54, 45], [79, 70]]
    for name in ("a.png", "b.png", "deeper/c.png"):
        for folder in ("model.onnx", "model.xml"):
            assert (pixels(tmp_path / folder / name) == pixels(tmp_path / "best.pth" / name)).mean() > 0.999


def test_checkpoints_and_exported_networks_are_averaged(exported, trained, tmp_path):
    first = load_checkpoint(trained)
    torch.manual_seed(1)
    other = replace(first, weights=build_model(first.model).state_dict())
    save_checkpoint(tmp_path / "other.pth", other)
    found = probabilities(predictor_of(exported / "model.onnx", tmp_path / "other.pth"))
    expected = probabilities(predictor_of(trained, tmp_path / "other.pth"))
    assert torch.allclose(found, expected, atol=1e-5)
    assert (expected - probabilities(predictor_of(trained))).abs().max() > 1e-3


def test_the_margin_of_tiles_is_part_of_the_file(trained, tmp_path):
    first = load_checkpoint(trained)
    model = ModelConfig(name="unet-paper", base_channels=2, depth=2)
    torch.manual_seed(1)
    preprocessing = replace(first.preprocessing, mode="tile")
    paper = replace(first, model=model, weights=build_model(model).state_dict(), preprocessing=preprocessing)
    save_checkpoint(tmp_path / "best.pth", paper)
    torch_member = predictor_of(tmp_path / "best.pth").members[0]
    margin = torch_member.geometry.margin
    network = network_graph(paper, torch_member.input_side(32, 0), margin)
    write_onnx(tmp_path / "model.onnx", network, texts_of(paper))
    found, expected = (probabilities(predictor_of(tmp_path / name)) for name in ("model.onnx", "best.pth"))
    assert margin > 0
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(UserError, match="--mode resize: .*model.onnx was exported for --mode tile: give the best.pth"):
        predictor_of(tmp_path / "model.onnx", mode="resize")


def test_the_same_file_has_the_same_identity_and_another_file_another(exported, spoiled):
    identities = [predictor_of(exported / name).identity for name in ("model.onnx", "model.xml", "best.pth")]
    assert predictor_of(exported / "model.onnx").identity == identities[0]
    assert len({one["weights"] for one in identities}) == 3
    changed = spoiled(lambda model: setattr(model, "doc_string", "changed"))
    assert predictor_of(changed).identity["weights"] != identities[0]["weights"]


def test_a_scan_continues_where_it_was_killed_to_the_same_bytes(exported, tmp_path):
    image = np.tile(drawn(seed=3, index=5)[0], (3, 3, 1))[:1500, :700]
    tifffile.imwrite(tmp_path / "scan.tif", image, tile=(64, 64), photometric="rgb", metadata=None)
    flags = ["predict", "--weights", exported / "model.onnx", "--input", "scan.tif", "--mode", "tile"]
    part = tmp_path / "out" / ".scan.tif.part"
    kill_midway(*flags, "--output", "out", part=part, least=20_000, cwd=tmp_path)
    other = run_unet(*flags[:2], exported / "best.pth", *flags[3:], "--output", "other", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    done = run_unet(*flags, "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows of a stopped call were used" in done.stderr
    mask, expected = (tifffile.imread(tmp_path / name / "scan.tif") for name in ("out", "other"))
    assert (mask == expected).mean() > 0.999


def test_a_session_has_as_many_threads_as_torch(exported, monkeypatch):
    import onnxruntime

    given = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *args, **named: given.append(args[1]) or session(*args, **named)
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    predictor_of(exported / "model.onnx")
    assert [one.intra_op_num_threads for one in given] == [2]


@pytest.mark.parametrize(("kind", "runtime"), [("onnx", "ONNX Runtime"), ("xml", "OpenVINO")])
def test_info_tells_what_the_file_is_for(unet: Run, exported, trained, kind, runtime):
    done = unet("info", exported / f"model.{kind}")
    assert done.returncode == 0, done.stderr
    assert f"\nexported for   {runtime}" in done.stdout
    ours, of_checkpoint = (
        json_lines(unet("info", path, "--json").stdout)[0] for path in (exported / f"model.{kind}", trained)
    )
    assert ours | {"runtime": "torch"} == of_checkpoint
    assert ours["parameters"] > 0


def test_evaluate_scores_an_exported_network_and_compares_it(unet: Run, exported, tmp_path):
    write_pairs(tmp_path / "test", count=3)
    flags = ["evaluate", "--weights", exported / "model.onnx", "--data", "test"]
    done = unet(*flags, "--compare", exported / "best.pth", "--precision", "float32", "--json")
    assert done.returncode == 0, done.stderr
    assert_failed(unet(*flags, "--precision", "bf16"), 1, "--precision bf16", "model.onnx", "give the best.pth")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"size": 64}, "--size: .*model.onnx has inputs of 32x32 pixels only"),
        ({"compile": True}, "--compile: .*model.onnx"),
        ({"prune": 1}, "--prune: .*model.onnx"),
        ({"attention_maps": True}, "--attention-maps: .*model.onnx"),
        ({"device": "cuda"}, "--device cuda: .*model.onnx runs on the CPU"),
        ({"precision": "bf16"}, "--precision bf16: .*model.onnx"),
    ],
)
def test_what_an_exported_network_cannot_do_is_refused_by_name(exported, settings, said):
    with pytest.raises(UserError, match=f"{said}.*: give the best.pth that the file was exported from, or leave out"):
        predictor_of(exported / "model.onnx", **settings)
    assert (
        predictor_of(exported / "model.onnx", size=32, device="auto", precision="auto").compute.precision == "float32"
    )


def test_tiles_of_an_ensemble_have_to_be_of_the_size_of_the_file(exported, trained, tmp_path):
    first = load_checkpoint(trained)
    larger = replace(first, preprocessing=replace(first.preprocessing, size=64))
    save_checkpoint(tmp_path / "larger.pth", larger)
    with pytest.raises(
        UserError, match="inputs of 32x32 pixels only, and --mode tile, with tiles for all --weights needs"
    ):
        predictor_of(exported / "model.onnx", tmp_path / "larger.pth", mode="tile")
    assert len(predictor_of(exported / "model.onnx", tmp_path / "larger.pth").members) == 2  # each is resized for


def test_commands_that_need_weights_ask_for_the_checkpoint(unet: Run, exported, data, tmp_path):
    path = exported / "model.onnx"
    said = "model.onnx is an exported network"
    assert_failed(unet("train", "--data", data, "--init", path, "--epochs", 1), 1, said, "such as the best.pth of its")
    assert_failed(unet("import", path, "--output", "ours.pth"), 1, said)
    (tmp_path / "run").mkdir()
    shutil.copy(path, tmp_path / "run" / "model.onnx")
    done = unet("predict", "--weights", "run", "--input", "data")
    assert_failed(done, 1, "run holds no best.pth, but run/model.onnx: give the file")


def unlike(**changes: Any) -> dict[str, Any]:
    """A description with another model."""
    return {"model": {"name": "unet", "base_channels": 4, "depth": 2, **changes}}


def name_external(model: Any, place: str = "../../secret") -> None:
    tensor = next(one for one in model.graph.initializer if "mean" in one.name)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)


def hide_external(model: Any) -> None:
    """In a graph within a node, of the part that is not even run."""
    inner = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["o"])], "inner", [], [])
    inner.initializer.append(onnx.numpy_helper.from_array(np.float32([1]), "w"))
    inner.initializer[0].external_data.add(key="location", value="/etc/passwd")
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner))


def weights_of(model: Any, value: float) -> None:
    tensor = next(one for one in model.graph.initializer if one.name.endswith("weight"))
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def rename(model: Any, old: str, new: str) -> None:
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = new if name == old else name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: model.metadata_props.pop(), "is of another tool: .*Give a file that `unet export` wrote"),
        (name_external, "keeps weights in other files .*any file of this machine"),
        (lambda model: name_external(model, "/etc/passwd"), "keeps weights in other files"),
        (hide_external, "keeps weights in other files"),
        (lambda model: weights_of(model, np.nan), "holds weights that are not finite"),
        (lambda model: weights_of(model, np.inf), "holds weights that are not finite"),
        (lambda model: rename(model, "network_input", "other"), "has no tensor network_input.*export it again"),
        (lambda model: rename(model, "logits", "other"), "has no tensor logits.*export it again"),
        (lambda model: model.graph.node.pop(8), "can't be run by ONNX Runtime .*export the network again"),
        (lambda model: setattr(model, "ir_version", 99), "can't be run by ONNX Runtime .*IR version.*pip install -U"),
        (lambda model: [setattr(one, "version", 99) for one in model.opset_import], "can't be run by ONNX .*99"),
        (lambda model: setattr(model.graph.node[8], "op_type", "Nothing"), "can't be run by ONNX Runtime .*Nothing"),
        (lambda model: setattr(model.metadata_props[0], "value", "{"), "or not as `unet export` wrote it"),
        (lambda model: setattr(model.metadata_props[0], "value", "[]"), "or not as `unet export` wrote it"),
        (lambda model: setattr(model.metadata_props[0], "value", "[" * 9999), "or not as `unet export` wrote it"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_as_it_should_be_is_refused(spoiled, change, said):
    with pytest.raises(UserError, match=f"model.onnx .*{said}"):
        predictor_of(spoiled(change))


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"format_version": 99}, "is newer than this one: update unet"),
        ({"temperature": "warm"}, "temperature is 'warm', and no float"),
        ({"labels": {"values": [0, 1, 2], "names": ["a", "b", "c"]}}, "labels has 3 classes, and model 2"),
        ({"model": {"name": "unet", "base_channels": 9999, "depth": 99}}, "or not as `unet export` wrote it"),
    ],
)
def test_a_description_is_checked_as_a_checkpoint_is(spoiled, description, said):
    with pytest.raises(UserError, match=f"model.onnx .*{said}"):
        load_checkpoint(spoiled(**description), exported=True)


def test_shapes_have_to_be_those_of_the_description(spoiled, trained):
    first = load_checkpoint(trained)
    three = replace(first.labels, values=(0, 1, 2), names=("a", "b", "c"), palette=None)
    model = described(first)["model"] | {"num_classes": 3}
    with pytest.raises(UserError, match="disagrees with its own description.* logits 1x1x32x32"):
        predictor_of(spoiled(model=model, labels=three.plain()))
    preprocessing = described(first)["preprocessing"]
    gray = preprocessing | {"in_channels": 1, "mean": [1.0], "std": [1.0]}
    with pytest.raises(UserError, match="disagrees with its own description.* network_input is 1x3x32x32"):
        predictor_of(spoiled(model=model | {"num_classes": 2, "in_channels": 1}, preprocessing=gray))
    with pytest.raises(UserError, match="inputs of 32x32 pixels only, and its own description needs inputs of 48x48"):
        predictor_of(spoiled(preprocessing=preprocessing | {"size": 48}))
    with pytest.raises(UserError, match="needs inputs of any size"):
        predictor_of(spoiled(preprocessing=preprocessing | {"scale": 0.5}))


def test_without_what_is_known_of_inner_tensors_the_runtime_finds_it(spoiled, exported):
    path = spoiled(lambda model: model.graph.ClearField("value_info"))
    expected = probabilities(predictor_of(exported / "best.pth"))
    assert torch.allclose(probabilities(predictor_of(path)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_network_is_refused_and_so_is_half_of_one(exported, tmp_path, kind):
    path, whole = tmp_path / f"a.{kind}", (exported / f"model.{kind}").read_bytes()
    shutil.copy(exported / "model.bin", tmp_path / "a.bin")
    for content in (
        b"",
        b"no network",
        b"<html/>",
        b"<net",
        b"\x80" * 50,
        bytes(500),
        whole[: len(whole) // 2],
        whole[9:],
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"a.{kind} is .*unet export"):
            predictor_of(path)


def test_the_weights_of_openvino_have_to_be_there_whole_and_finite(unet: Run, exported, images, tmp_path):
    shutil.copy(exported / "model.xml", tmp_path)
    predict = ["predict", "--weights", "model.xml", "--input", "imgs"]
    assert_failed(unet(*predict), 1, "model.xml needs its weights, model.bin, beside it: copy both files")
    weights = (exported / "model.bin").read_bytes()
    stored = [one for one in ElementTree.parse(exported / "model.xml").iter("data") if one.get("element_type") == "f32"]
    first, size = max(((int(one.get("offset")), int(one.get("size"))) for one in stored), key=lambda place: place[1])
    spoiled = weights[:first] + b"\xff" * size + weights[first + size :]
    for content, said in ((weights[:99], "is damaged"), (spoiled, "not finite")):
        (tmp_path / "model.bin").write_bytes(content)
        with pytest.raises(UserError, match=f"model.xml .*{said}"):
            predictor_of(tmp_path / "model.xml")
    with pytest.raises(UserError, match="model.bin is the half of an OpenVINO network: give the other, .*model.xml"):
        load_checkpoint(tmp_path / "model.bin", exported=True)


@pytest.mark.parametrize(("kind", "package"), [("onnx", extras.ONNX), ("xml", extras.OPENVINO)])
def test_a_missing_package_is_named_with_its_extra(exported, monkeypatch, kind, package):
    monkeypatch.setattr(extras, "is_installed", lambda one: one != package)
    said = f"pip install {package.name} (the extra `{package.extra}`)"
    with pytest.raises(UserError, match=f"model.{kind} can't be read .*{re.escape(said)}"):
        load_checkpoint(exported / f"model.{kind}", exported=True)


def test_openvino_is_imported_without_its_telemetry(exported, tmp_path):
    code = "import sys; from unet_cli import load; load(sys.argv[1]); print('sender' in str(sys.modules.keys()))"
    command = [sys.executable, "-c", code, str(exported / "model.xml")]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.strip() == "False", done.stderr
    assert not (tmp_path / "intel").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_predict_tells_of_a_file_that_was_measured_faster(unet: Run, trained, graph, images, tmp_path, kind):
    shutil.copy(trained, tmp_path / "best.pth")
    checkpoint = load_checkpoint(trained)
    write = write_onnx if kind == "onnx" else write_openvino
    predict = ["predict", "--weights", "best.pth", "--input", "imgs/a.png", "--device", "cpu"]
    said = f"model.{kind} would be 2.0 times as fast on this processor"

    def told(of: Checkpoint, *weights: str, **speed: float) -> bool:
        write(tmp_path / f"model.{kind}", graph, texts_of(of, **speed))
        done = unet(*predict, *weights)
        assert done.returncode == 0, done.stderr
        return said in done.stderr

    assert told(checkpoint, seconds=0.5, torch_seconds=1.0)
    assert not told(checkpoint, seconds=1.0, torch_seconds=0.5)
    assert not told(replace(checkpoint, temperature=3.0), seconds=0.5, torch_seconds=1.0)
    (tmp_path / f"model.{kind}").write_bytes(b"no network")
    assert unet(*predict).returncode == 0
