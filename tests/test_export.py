"""`unet export`: the file predicts what we predict, pixel for pixel, of images of any size; and what can't be exported,
or doesn't predict the same, leaves no file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Run, assert_failed
from test_family import FLAT, built, small
from torch import Tensor

from unet_cli.checkpoint import Checkpoint, save_checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.export import ExportConfig
from unet_cli.data.labels import LabelMap
from unet_cli.data.preprocess import resize_image
from unet_cli.errors import UserError
from unet_cli.export import files
from unet_cli.export.export import check_verdict, exportable, target_of
from unet_cli.export.files import check_packages, contents_of, opened
from unet_cli.export.graph import Graph
from unet_cli.export.images import Sample, drawn_sample
from unet_cli.export.onnx import network_model
from unet_cli.export.stretch import stretch, weights_of_bytes, weights_of_floats
from unet_cli.export.verdict import Verdict, indices_of, verdict

BINARY = LabelMap((0, 255), ("background", "cell"))
SIZES = [(77, 130), (64, 64), (33, 200), (1, 9)]
# Each with another number of channels, type, rule of intensities and kind of mask.
CASES = {
    "plain": {},
    "percentile": {
        "channels": 1, "dtype": "uint16", "intensity": "percentile",
        "labels": LabelMap((0, 3, 7, 900, 40), tuple("abcde")),
    },
    "floats": {"channels": 5, "dtype": "float32", "intensity": "image"},
    "colours": {"labels": LabelMap((0, 0xFF0000, 0x00FF10), tuple("abc"), kind="colours"), "clip": (20.0, 200.0)},
    "overlapping": {"labels": LabelMap((0, 1, 2), tuple("abc"), overlapping=True)},
    "objects": {"labels": LabelMap((0, 1), ("background", "cell"), kind="instances", cores=True)},
}  # fmt: skip
FEW = ("unet-paper", "attention-oktay")  # a margin, and gates


def checkpoint_of(
    name: str = "unet", channels: int = 3, labels: LabelMap = BINARY, size: int = 64, **settings: object
) -> Checkpoint:
    """A network with random weights, those of its head larger, so that no mask is of one class. settings: of its
    preprocessing."""
    config = replace(small(name, channels, labels.num_classes, size=size), overlapping=labels.overlapping)
    config = replace(config, cores=labels.cores)
    shared = {"size": size, "in_channels": channels, "dtype": "uint8", "mean": (100.0,) * channels}
    preprocessing = Preprocessing(**shared | {"std": (50.0,) * channels} | settings)
    weights = {key: value * 10 if "head" in key else value for key, value in built(config).state_dict().items()}
    return Checkpoint(config, preprocessing, labels, weights, temperature=1.7, threshold=0.45)


def graph_for(checkpoint: Checkpoint, **settings: object) -> Graph:
    return exportable(checkpoint, ExportConfig(weights=Path("best.pth"), to="onnx", **settings))


def noise(graph: Graph, size: tuple[int, int]) -> Sample:
    preprocessing = graph.checkpoint.preprocessing
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (preprocessing.in_channels, *size))
    pixels = pixels.astype(preprocessing.dtype)
    if preprocessing.dtype == "float32":
        pixels[1, : size[0] // 3, 2:5] = np.nan
    return Sample(pixels)


@pytest.mark.parametrize("size", [(100, 73), (31, 45), (64, 200), (1999, 7), (1, 5)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_matrix_products_resize_as_the_kernel_does(size, channels):
    pixels = np.random.default_rng(0).integers(0, 2**16, (channels, *size))
    image = torch.from_numpy(pixels % 256).to(torch.uint8)
    in_bytes = weights_of_bytes(size[0], 48), weights_of_bytes(size[1], 64)
    assert torch.equal(stretch(image.float(), *in_bytes, rounds=True), resize_image(image, (48, 64)).float())
    floats = torch.from_numpy(pixels).float()
    in_floats = weights_of_floats(size[0], 48), weights_of_floats(size[1], 64)
    torch.testing.assert_close(stretch(floats, *in_floats), resize_image(floats, (48, 64)), rtol=1e-6, atol=0.02)


@pytest.mark.parametrize("case", CASES)
def test_the_modules_predict_what_the_predictor_does(case):
    """Before they are exported, so that all cases are quick."""
    graph = graph_for(checkpoint_of(**CASES[case]))
    found = verdict(graph, of_modules(graph), [noise(graph, size) for size in SIZES])
    assert found.images == len(SIZES)
    assert found.equal == found.pixels
    assert found.difference < 1e-5


@pytest.mark.parametrize("intensity", ["dataset", "image"])
@pytest.mark.parametrize("name", ["unet", "unet-paper"])
def test_tiles_are_merged_to_what_the_predictor_gives(name, intensity):
    graph = graph_for(checkpoint_of(name, mode="tile", intensity=intensity))
    assert graph.takes_statistics == (intensity == "image")
    found = verdict(graph, of_modules(graph), [noise(graph, (97, 140)), drawn_sample(graph)])
    assert found.equal == found.pixels
    assert found.difference < 1e-5


def of_modules(graph: Graph) -> files.Run:
    def run(image: np.ndarray, statistics: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        given: list[Tensor] = [torch.from_numpy(part) for part in (image, statistics) if part is not None]
        with torch.inference_mode():
            mask, probs = graph.whole(*given)
        return mask.numpy(), probs.numpy()

    return run


def check_in_onnxruntime(graph: Graph) -> None:
    """The network on equal tensors, then the file from pixels to mask."""
    ort = pytest.importorskip("onnxruntime")
    network = ort.InferenceSession(network_model(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    torch.manual_seed(0)
    tensor = torch.randn(1, graph.checkpoint.preprocessing.in_channels, *graph.network_sides)
    with torch.inference_mode():
        logits = graph.network(tensor).numpy()
    (exported,) = network.run(["logits"], {"network_input": tensor.numpy()})
    assert np.abs(exported - logits).max() <= 1e-4 * max(1, np.abs(logits).max())
    found = verdict(graph, opened(contents_of(graph, "onnx")), [noise(graph, size) for size in SIZES[:3]])
    assert found.difference < 1e-4
    assert found.equal >= found.pixels - 2  # a probability may lie on the threshold


@pytest.mark.parametrize("name", FEW)
def test_an_onnx_file_predicts_the_same(name):
    check_in_onnxruntime(graph_for(checkpoint_of(name)))


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", FLAT)
def test_every_network_predicts_the_same_in_onnxruntime(name, channels, num_classes):
    labels = BINARY if num_classes == 2 else LabelMap((0, 3, 7, 90, 40), tuple("abcde"))
    check_in_onnxruntime(graph_for(checkpoint_of(name, channels, labels, size=65)))


@pytest.mark.parametrize("to", ["openvino", "torch"])
def test_files_for_other_runtimes_predict_the_same(to):
    graph = graph_for(checkpoint_of(intensity="image", size=32))
    contents = contents_of(graph, to)
    assert list(contents) == ([".bin", ".xml"] if to == "openvino" else [".pt2"])
    found = verdict(graph, opened(contents), [noise(graph, size) for size in SIZES])
    # OpenVINO computes the weights of resizing in float32: at ties a resized pixel differs by one grey level.
    assert found.difference < (0.01 if to == "openvino" else 1e-4)
    assert found.equal >= 0.999 * found.pixels


def test_a_file_of_tiles_takes_the_statistics_and_tells_its_numbers():
    onnx = pytest.importorskip("onnx")
    graph = graph_for(checkpoint_of("unet-paper", mode="tile", intensity="image"))
    contents = contents_of(graph, "onnx")
    model = onnx.load_from_string(contents[".onnx"])
    assert [one.name for one in model.graph.input] == ["image", "statistics"]
    assert [one.name for one in model.graph.output] == ["mask", "probabilities"]
    assert {"network_input", "logits"} <= {one.name for one in model.graph.value_info}
    told = {one.key: one.value for one in model.metadata_props}
    tiles = json.loads(told["tiles"])
    assert tiles["side"] == 64
    assert tiles["input_side"] == graph.input_side
    assert tiles["input_side"] >= 64 + 2 * tiles["margin"]
    assert json.loads(told["classes"]) == ["background", "cell"]
    assert json.loads(told["colours"])[0].startswith("#")
    assert "MIT" in told["licence"]
    assert json.loads(told["unet"])["model"]["name"] == "unet-paper"
    found = verdict(graph, opened(contents), [noise(graph, (97, 70))])
    assert found.equal == found.pixels


def test_the_mask_of_a_file_is_read_by_its_values():
    labels = LabelMap((7, 3), ("a", "b"))
    assert indices_of(np.array([[3, 7, 9]], np.uint8), labels).tolist() == [[1, 0, 255]]
    sets = LabelMap((0, 1, 2), tuple("abc"), overlapping=True)
    assert indices_of(np.array([[[255, 0]], [[255, 255]]], np.uint8), sets).tolist() == [[3, 2]]


def test_what_is_not_exported_is_refused_with_what_to_do():
    volume = replace(checkpoint_of(), preprocessing=replace(checkpoint_of().preprocessing, pages="slices"))
    with pytest.raises(UserError, match="predicts volumes.*unet predict"):
        graph_for(volume)
    scaled = checkpoint_of(scale=0.5)
    with pytest.raises(UserError, match="0.5 times.*--size 512"):
        graph_for(scaled)
    assert graph_for(scaled, size=96).network_sides == (96, 96)
    with pytest.raises(UserError, match=r"ends in \.xml"):
        ExportConfig(weights=Path("a"), to="openvino", output=Path("b.onnx"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(files, "is_installed", lambda package: package.name != "onnxscript")
    with pytest.raises(UserError, match=r"pip install onnxscript \(the extra `openvino`"):
        check_packages("openvino")
    check_packages("torch")


@pytest.mark.parametrize("difference", [0.02, float("nan")])
def test_a_file_that_predicts_something_else_is_refused(difference):
    config = ExportConfig(weights=Path("a"), to="onnx")
    check_verdict(Verdict(1, 10, 10, 0.01), config, "drawn")
    with pytest.raises(UserError, match="Nothing was written.*--max-difference"):
        check_verdict(Verdict(1, 10, 9, difference), config, "drawn")


def test_a_broken_file_is_seen_by_the_verdict():
    graph = graph_for(checkpoint_of())
    whole = of_modules(graph)

    def turned(image: np.ndarray, statistics: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        mask, probs = whole(image, statistics)
        return np.roll(mask, 1, 0), 1 - probs

    sample = noise(graph, (40, 50))
    found = verdict(graph, turned, [replace(sample, target=np.zeros((40, 50), np.uint8))])
    assert found.difference > 0.01
    assert found.dice is not None


def test_no_file_is_written_over(tmp_path):
    (tmp_path / "best.bin").touch()
    config = ExportConfig(weights=tmp_path, to="openvino")
    with pytest.raises(UserError, match=r"best\.bin exists already"):
        target_of(tmp_path / "best.pth", config)


def test_the_command_compares_on_the_validation_part(unet: Run, tmp_path):
    assert unet("sample", "data", "--count", 6).returncode == 0
    trained = unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "one")
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "checkpoints" / "one"
    failed = unet("export", "--weights", run, "--to", "torch", "--max-difference", 0, "--size", 40, "--check", "none")
    assert_failed(failed, 1, "--check none is no folder")
    done = unet("export", "--weights", run, "--to", "torch", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["images"] == "of the run's validation part"
    assert told["verdict"]["equal"] == told["verdict"]["pixels"]
    assert told["verdict"]["dice"] == pytest.approx(told["verdict"]["exported_dice"])
    assert Path(told["output"]).name == "best.pt2"
    assert_failed(unet("export", "--weights", run, "--to", "torch"), 1, "exists already")


def test_without_images_a_drawn_one_is_compared(unet: Run, tmp_path):
    save_checkpoint(tmp_path / "alone.pth", checkpoint_of(size=32))
    done = unet("export", "--weights", "alone.pth", "--to", "torch")
    assert done.returncode == 0, done.stderr
    assert "--check DIR" in done.stdout
    assert (tmp_path / "alone.pt2").exists()
