"""Networks in 8 bits: which parts are quantised, what they are calibrated on, and when they are refused. The networks
are tiny, with weights as drawn; graphs for `heads` are written by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.export import ExportConfig
from unet_cli.config.model import ModelConfig
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError
from unet_cli.export import quantise, speed
from unet_cli.export.graph import graph_of
from unet_cli.export.onnx import merged, network_model
from unet_cli.inference.predictor import Predictor
from unet_cli.models import build_model
from unet_cli.system.console import Console
from unet_cli.system.device import Compute, cpu_saturates_int8

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages that write the files

CPU = Compute(torch.device("cpu"), "float32", channels_last=False)


def checkpoint_of(mode: str = "resize", size: int = 32, channels: int = 1) -> Checkpoint:
    torch.manual_seed(0)
    model = ModelConfig(in_channels=channels, base_channels=4, depth=2)
    preprocessing = Preprocessing(
        size=size, in_channels=channels, dtype="uint8", mean=(120.0,) * channels, std=(50.0,) * channels, mode=mode
    )
    labels = LabelMap((0, 255), ("background", "cell"))
    return Checkpoint(model, preprocessing, labels, build_model(model).state_dict())


def write_images(folder: Path, count: int, side: int) -> list[Source]:
    values = np.random.default_rng(0).integers(0, 256, (count, side, side), np.uint8)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path, image in zip(paths, values, strict=True):
        Image.fromarray(image).save(path)
    return [Source((path,)) for path in paths]


@pytest.fixture(scope="module")
def small() -> Any:
    checkpoint = checkpoint_of()
    graph = graph_of(checkpoint, Predictor([checkpoint], CPU))
    inputs = list(torch.randn(4, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0)).numpy())
    network = network_model(graph)
    before = network.SerializeToString()
    int8 = quantise.quantised(network, inputs)
    return graph, network, before, int8, inputs


def test_convolutions_have_weights_of_8_bits_by_channel_but_the_head(small):
    _, network, before, int8, _ = small
    assert network.SerializeToString() == before
    stored = {one.name: one for one in int8.graph.initializer}
    convs = [node for node in int8.graph.node if node.op_type == "Conv"]
    made_by = {name: node for node in int8.graph.node for name in node.output}
    floats = [node for node in convs if node.input[1] not in made_by]
    assert [node.name for node in floats] == [node.name for node in quantise.heads(network)]
    for conv in convs[:-1]:
        weights, scale, _ = made_by[conv.input[1]].input
        assert stored[weights].data_type == onnx.TensorProto.INT8
        assert list(stored[scale].dims) == [stored[weights].dims[0]]
        highest = np.abs(onnx.numpy_helper.to_array(stored[weights]).astype(int)).max()
        assert highest <= (64 if cpu_saturates_int8() else 128)


def test_logits_are_nearly_those_of_floats_and_the_file_can_be_merged(small):
    import onnxruntime

    graph, network, _, int8, inputs = small
    runs = [onnxruntime.InferenceSession(one.SerializeToString()) for one in (network, int8)]
    ours, theirs = (run.run(["logits"], {"network_input": inputs[0]})[0] for run in runs)
    assert 0 < np.abs(ours - theirs).max() < 0.1 * (ours.max() - ours.min())
    whole = merged(graph, int8, {"unet": json.dumps({})})
    assert not any(tensor.external_data for tensor in whole.graph.initializer)
    image = np.zeros((20, 45, 1), np.uint8)
    mask, probs = onnxruntime.InferenceSession(whole.SerializeToString()).run(None, {"image": image})
    assert mask.shape == (20, 45)
    assert probs.shape == (1, 20, 45)


def test_openvino_runs_the_network_in_8_bits(small):
    openvino = pytest.importorskip("openvino")
    import onnxruntime

    _, _, _, int8, inputs = small
    core = openvino.Core()
    run = core.compile_model(core.read_model(int8.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    theirs = onnxruntime.InferenceSession(int8.SerializeToString()).run(None, {"network_input": inputs[0]})[0]
    assert np.abs(run([inputs[0]])[0] - theirs).max() < 0.1 * (theirs.max() - theirs.min())


def test_without_inputs_it_says_so(small):
    with pytest.raises(UserError, match="can't quantise this network"):
        quantise.quantised(small[1], [])


def test_all_heads_that_are_averaged_stay_in_float():
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["network_input", "a"], ["x"], name="first"),
        make("Conv", ["x", "b"], ["left"], name="one head"),
        make("Conv", ["x", "c"], ["right"], name="another"),
        make("Add", ["left", "right"], ["sum"]),
        make("Slice", ["sum", "from", "to"], ["logits"]),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], []))
    assert {node.name for node in quantise.heads(model)} == {"one head", "another"}


def test_calibration_images_are_spread_evenly_and_are_what_the_network_sees(tmp_path):
    checkpoint = checkpoint_of()
    sources = write_images(tmp_path, 7, 32)
    found = list(quantise.calibration_inputs(Predictor([checkpoint], CPU), sources, 3))
    pixels = [np.asarray(Image.open(sources[number].path), np.float32) for number in (0, 2, 4)]
    assert len(found) == 3
    for image, values in zip(found, pixels, strict=True):
        np.testing.assert_allclose(image, (values[None, None] - 120) / 50, rtol=1e-6)
    assert len(list(quantise.calibration_inputs(Predictor([checkpoint], CPU), sources, 100))) == 7


def test_of_images_in_tiles_a_few_tiles_are_taken(tmp_path):
    sources = write_images(tmp_path, 2, 150)
    found = list(quantise.calibration_inputs(Predictor([checkpoint_of("tile")], CPU), sources, 2))
    assert {image.shape for image in found} == {(1, 1, 32, 32)}
    assert len(found) == 2 * quantise.TILES_EACH


def test_without_training_images_calibration_is_refused():
    with pytest.raises(UserError, match="--data DIR"):
        list(quantise.calibration_inputs(Predictor([checkpoint_of()], CPU), [], 3))


@dataclass
class Scored:
    """In place of an evaluation."""

    scores: dict[str, float]


@pytest.mark.parametrize(("int8_dice", "is_accepted"), [(0.896, True), (0.894, False), (0.95, True), (np.nan, False)])
def test_only_a_small_loss_of_dice_is_accepted(small, monkeypatch, int8_dice, is_accepted):
    graph, _, _, int8, _ = small
    monkeypatch.setattr(
        quantise,
        "evaluate_network",
        lambda one, *_: Scored({"dice": int8_dice if one.members[0].checkpoint.exported else 0.9}),
    )
    pairs = [Pair("a", Source((Path("a.png"),)), Source((Path("b.png"),)))]

    def judged() -> quantise.Judgement:
        return quantise.judge(graph.checkpoint, graph.predictor, int8, pairs, 0.005, Console(quiet=True))

    if is_accepted:
        assert judged().loss == pytest.approx(0.9 - int8_dice)
    else:
        with pytest.raises(UserError, match="--max-loss is 0.005"):
            judged()


def test_without_validation_images_nothing_is_judged(small):
    graph, _, _, int8, _ = small
    with pytest.raises(UserError, match="leave --int8 out"):
        quantise.judge(graph.checkpoint, graph.predictor, int8, [], 0.005, Console(quiet=True))


def test_speed_is_that_of_each_network_in_turn_and_the_file_says_it(small):
    graph, network, _, int8, _ = small
    rows = speed.compare_speed(graph.checkpoint, {"exported": network, "int8": int8}, "resize", seconds=0)
    assert [row.name for row in rows] == ["torch", "exported", "int8"]
    assert all(row.seconds > 0 for row in rows)
    told = json.loads(speed.metadata_of(rows))
    assert told["seconds"] == rows[2].seconds
    assert told["torch_seconds"] == rows[0].seconds
    assert told["processor"]
    assert len(speed.describe_speed(rows)) == 3


def test_rounds_alternate_after_one_that_is_not_counted():
    calls: list[str] = []
    found = speed.alternated({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0)
    assert calls == ["a", "b"] * (1 + speed.MIN_ROUNDS)
    assert set(found) == {"a", "b"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "torch", "int8": True}, "--int8 is for"),
        ({"to": "bioimage", "name": "äh"}, "--name"),
        ({"to": "bioimage", "licence": "all rights/"}, "--licence"),
        ({"to": "bioimage"}, "give --licence"),
        ({"to": "bioimage", "authors": (" ",), "licence": "MIT"}, "--authors"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ExportConfig(weights=Path("best.pth"), **settings)
