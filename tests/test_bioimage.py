"""Models of bioimage.io: checked by its own specification, run as other programs would, and compared with our
prediction. The networks are tiny, with weights as drawn."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_quantise import CPU, checkpoint_of

from unet_cli.errors import UserError
from unet_cli.export import bioimage
from unet_cli.export.bioimage import About, bioimage_zip
from unet_cli.export.graph import graph_of
from unet_cli.export.images import drawn_sample
from unet_cli.export.yaml import to_yaml
from unet_cli.inference.predictor import Predictor

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages that write and read the files

ABOUT = About("Cells in a test", ("Ada", "Ben"), "CC-BY-4.0")


@pytest.fixture(scope="module")
def stretched() -> tuple[Any, bytes]:
    checkpoint = replace(checkpoint_of(channels=3), temperature=1.7)
    graph = graph_of(checkpoint, Predictor([checkpoint], CPU))
    return graph, bioimage_zip(graph, ABOUT, drawn_sample(graph).pixels)


@pytest.fixture(scope="module")
def in_tiles() -> tuple[Any, bytes]:
    checkpoint = checkpoint_of("tile", 64)
    graph = graph_of(checkpoint, Predictor([checkpoint], CPU))
    picture = np.random.default_rng(0).integers(0, 256, (1, 40, 90), np.uint8)
    return graph, bioimage_zip(graph, ABOUT, picture)


def opened(content: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(content))


def array(content: bytes, name: str) -> np.ndarray:
    return np.load(io.BytesIO(opened(content).read(name)))


def checked(content: bytes, folder: Path) -> Any:
    spec = pytest.importorskip("bioimageio.spec")
    path = folder / "model.zip"
    path.write_bytes(content)
    model = spec.load_description(path)  # with the sizes of its test tensors
    assert not isinstance(model, spec.InvalidDescr), model.validation_summary.format()
    return model


@pytest.mark.parametrize("made", ["stretched", "in_tiles"])
def test_the_specification_accepts_it_and_its_networks_give_the_test_output(made, request, tmp_path):
    _, content = request.getfixturevalue(made)
    model = checked(content, tmp_path)
    assert [one.name for one in model.authors] == ["Ada", "Ben"]
    assert str(model.license) == "CC-BY-4.0"
    image, probs = array(content, "test_input.npy"), array(content, "test_output.npy")
    assert image.dtype == probs.dtype == np.float32
    session = onnxruntime.InferenceSession(opened(content).read("weights.onnx"))
    np.testing.assert_allclose(session.run(None, {"image": image})[0], probs, atol=1e-4)
    script = torch.jit.load(io.BytesIO(opened(content).read("weights.pt")))
    np.testing.assert_allclose(script(torch.from_numpy(image)).numpy(), probs, atol=1e-4)


def test_whole_images_of_any_size_get_the_probabilities_of_predict(stretched, tmp_path):
    graph, content = stretched
    pixels = np.random.default_rng(1).integers(0, 256, (47, 90, 3), np.uint8)
    predictor = graph.predictor
    Image.fromarray(pixels).save(tmp_path / "image.png")
    band = next(predictor.bands(predictor.picture(np.moveaxis(pixels, -1, 0))))
    ours = predictor.calibrated(predictor.finished(band)).numpy()
    image = np.moveaxis(pixels, -1, 0)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(opened(content).read("weights.onnx"))
    np.testing.assert_allclose(session.run(None, {"image": image})[0][0], ours, atol=1e-3)


def test_tiles_have_one_size_and_a_halo(in_tiles, tmp_path):
    _, content = in_tiles
    model = checked(content, tmp_path)
    assert [axis.size for axis in model.inputs[0].axes[2:]] == [64, 64]
    assert [axis.halo for axis in model.outputs[0].axes[2:]] == [8, 8]
    assert array(content, "test_input.npy").shape == (1, 1, 64, 64)
    text = opened(content).read("README.md").decode()
    assert "Tiles of 64 x 64 pixels" in text
    assert "8 pixels at either end" in text


def test_the_documentation_says_how_images_have_to_be_given(stretched):
    text = opened(stretched[1]).read("README.md").decode()
    assert "stretched to 32 x 32 pixels in the network" in text
    assert "What differs from `unet predict`" in text
    assert "## Validation" in text
    assert Image.open(io.BytesIO(opened(stretched[1]).read("cover.png"))).size[0] > 100


def test_a_network_that_comes_out_otherwise_is_refused(stretched):
    graph, content = stretched
    networks = {name: opened(content).read(name) for name in ("weights.pt", "weights.onnx")}
    tool = bioimage.Tool(graph).eval()
    bioimage._check(networks, tool, [torch.zeros(1, 3, 50, 60)], 1e-3)
    with torch.no_grad():
        list(tool.parameters())[-1].add_(1)
    with pytest.raises(UserError, match=r"weights.pt gives probabilities that differ by"):
        bioimage._check(networks, tool, [torch.zeros(1, 3, 50, 60)], 1e-3)
    with torch.no_grad():
        list(tool.parameters())[-1].sub_(1)


def test_slices_with_their_neighbours_are_refused():
    checkpoint = checkpoint_of(channels=3)
    checkpoint = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, slices=3))
    graph = graph_of(checkpoint, Predictor([checkpoint], CPU))
    with pytest.raises(UserError, match="3 neighbouring slices"):
        bioimage_zip(graph, ABOUT, np.zeros((3, 40, 40), np.uint8))


def test_yaml_is_read_back_as_it_was():
    values = {
        "plain": "word", "y": "yes", "number": "1e5", "quotes": 'a "b": #c', "lines": "one\ntwo", "umlaut": "Zelle ü",
        "empty": [], "nothing": None, "bools": [True, False], "floats": [0.5, 1e-05, 1e22, 3.0], "ints": (1, -2),
        "nested": [{"a": [1, [2, 3]], "b": {"c": {}}}, [], [[1]]], "a key": {"": ""},
    }  # fmt: skip
    yaml = pytest.importorskip("ruyaml")
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    for version in ("1.1", "1.2"):
        reader = yaml.YAML(typ="safe", pure=True)
        reader.version = version
        assert reader.load(to_yaml(values)) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"bytes"])
def test_yaml_of_other_values_is_refused(value):
    with pytest.raises(ValueError, match="is no"):
        to_yaml({"value": value})
