"""Weights of a network for one set begin a network for another: what fits is kept, by name, and the rest is new."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, assert_failed, split_foreground, write_pairs
from PIL import Image
from test_foreign import Milesial, drawn

from unet_cli.checkpoint import Checkpoint, load_checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.model import ModelConfig
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import CHANNEL_WORDS
from unet_cli.errors import UserError
from unet_cli.foreign import recognised
from unet_cli.models import MODELS, build_model
from unet_cli.runs.initial import (
    _sized_by_channels,
    _sized_by_outputs,
    kept_channels,
    kept_classes,
    start_from,
)

CELLS = LabelMap((0, 255), ("background", "cell"))
OBJECTS = replace(CELLS, kind="instances", cores=True)
ORGANS = LabelMap((0, 1, 2, 3), ("background", "lung", "heart", "liver"))
LAYERS = replace(ORGANS, overlapping=True)
TISSUES = LabelMap((0, 1, 2), ("stroma", "gland", "heart"), background=False)
SMALL = {"base_channels": 4, "depth": 2}


def checkpoint(labels: LabelMap = CELLS, channels: int = 3, name: str = "unet", **others: object) -> Checkpoint:
    """Of a network with random weights, in evaluation mode not that of a fresh one. others: of the preprocessing, and
    `words` of the channels."""
    words = others.pop("words", [])
    model = ModelConfig(
        name=name, in_channels=channels, num_classes=labels.num_classes, overlapping=labels.overlapping,
        cores=labels.cores, **SMALL,
    )  # fmt: skip
    rule = Preprocessing(size=32, in_channels=channels, dtype="uint8", mean=(0.0,) * channels, std=(1.0,) * channels)
    torch.manual_seed(len(labels.names) + channels)
    weights = build_model(model).state_dict()
    return Checkpoint(model, replace(rule, **others), labels, weights, training={CHANNEL_WORDS: words})


def begun(initial: Checkpoint, now: Checkpoint, freeze: bool = False) -> tuple[torch.nn.Module, str]:
    """A network for `now` with the initial weights, in evaluation mode, and what was said."""
    torch.manual_seed(9)
    model = build_model(now.model)
    if freeze:
        model.freeze(model.encoder_parts)
    said = start_from(model, initial, now)
    return model.eval(), said


def logits_of(model: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(image)


def image_of(channels: int) -> torch.Tensor:
    """Random, of channels that are all alike."""
    gray = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return gray.expand(-1, channels, -1, -1)


def assert_close(*both: torch.Tensor) -> None:
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ classes


@pytest.mark.parametrize("name", ["unet", "unet++", "nnunet", "attention-oktay"])
def test_classes_are_found_by_their_names_and_new_ones_do_not_disturb_them(name):
    now = LabelMap((0, 5, 6, 7, 8), ("nothing", "Liver", "spleen", "lung", "heart"))
    initial = checkpoint(ORGANS, name=name)
    model, said = begun(initial, checkpoint(now, name=name))
    before, after = (logits_of(one, image_of(3)) for one in (initial.build(), model))
    assert_close(after[:, [0, 1, 3, 4]], before[:, [0, 3, 1, 2]])
    assert all((after[:, 2] - logits).abs().max() > 0.01 for logits in before.unbind(1))
    assert said == (
        "kept: encoder, decoder, the head's outputs for nothing, Liver, lung and 1 more; new: the head's outputs for "
        "spleen"
    )
    fewer = begun(checkpoint(now), checkpoint(ORGANS))[0]
    assert_close(logits_of(fewer, image_of(3)), logits_of(checkpoint(now).build(), image_of(3))[:, [0, 3, 4, 1]])


def test_a_class_with_a_sigmoid_keeps_its_probability_beside_the_background_in_a_softmax():
    initial = checkpoint(LabelMap((0, 255), ("background", "heart")))
    (before, after) = (logits_of(one, image_of(3)) for one in (initial.build(), begun(initial, checkpoint(ORGANS))[0]))
    assert_close(after[:, 2] - after[:, 0], before[:, 0])


def test_a_class_of_a_softmax_keeps_its_probability_beside_the_background_with_a_sigmoid():
    for now in (LabelMap((0, 255), ("background", "heart")), LAYERS):
        initial = checkpoint(ORGANS)
        before, after = (logits_of(one, image_of(3)) for one in (initial.build(), begun(initial, checkpoint(now))[0]))
        heart = after[:, now.names.index("heart") - 1]
        assert_close(heart, before[:, 2] - before[:, 0])


def test_without_a_background_a_class_is_measured_against_the_mean_of_the_others():
    mix = kept_classes(TISSUES, LabelMap((0, 255), ("background", "heart")))
    assert mix.rows.tolist() == [[-0.5, -0.5, 1]]
    mix = kept_classes(TISSUES, ORGANS)
    assert mix.is_kept == [False, False, True, False]


@pytest.mark.parametrize(
    ("before", "now", "rows", "kept"),
    [
        pytest.param(CELLS, OBJECTS, [[1], [1]], [True, True], id="cores begin as their objects"),
        pytest.param(OBJECTS, CELLS, [[1, 0]], [True], id="cores are left out"),
        pytest.param(OBJECTS, OBJECTS, [[1, 0], [0, 1]], [True, True], id="cores are kept"),
        pytest.param(
            LabelMap((0, 1), ("0", "1")), CELLS, [[1]], [True], id="of two networks with one foreground it is the same"
        ),
        pytest.param(
            OBJECTS, LabelMap((0, 1, 2), ("background", "wall", "cell")), [[0, 0], [0, 0], [1, 0]], [True, False, True],
            id="from objects to several classes",
        ),
        pytest.param(
            LAYERS, replace(LAYERS, names=("background", "heart", "lung", "x")), [[0, 1, 0], [1, 0, 0], [0, 0, 0]],
            [True, True, False], id="overlapping, in another order",
        ),
        pytest.param(
            CELLS, LabelMap((0, 1, 2), ("background", "cell", "x"), cores=True), [[0], [1], [0], [0]],
            [True, True, False, False], id="cores of several classes are new",
        ),
        pytest.param(
            LabelMap((0, 1, 2), ("background", "a", "cell"), cores=True), OBJECTS, [[-1, 0, 1, 0], [0, 0, 0, 1]],
            [True, True], id="cores of several classes are those of one",
        ),
        pytest.param(CELLS, ORGANS, [[0]] * 4, [False] * 4, id="a background alone is nothing to keep"),
        pytest.param(
            LabelMap((0, 1, 2, 3), ORGANS.names), LabelMap((0, 1, 2), ORGANS.names[:3]),
            [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], [True] * 3, id="the last class is left out",
        ),
    ],
)  # fmt: skip
def test_logits_are_made_of_those_before(before, now, rows, kept):
    mix = kept_classes(before, now)
    assert mix.rows.tolist() == rows
    assert mix.is_kept == kept
    begun(checkpoint(before), checkpoint(now))  # and fit into the network
    assert mix.is_same == (now is before or before.names == ("0", "1"))


# ----------------------------------------------------------------------------------------------------------- channels


@pytest.mark.parametrize("name", ["unet", "resunet", "nnunet"])
@pytest.mark.parametrize(("before", "now"), [(3, 1), (1, 3), (5, 7), (5, 2)])
def test_channels_that_are_all_alike_give_the_same_logits(name, before, now):
    initial = checkpoint(channels=before, name=name)
    model, said = begun(initial, checkpoint(channels=now, name=name))
    assert_close(logits_of(model, image_of(now)), logits_of(initial.build(), image_of(before)))
    assert f"its first convolution, of {before} channel" in said
    assert "new: nothing" in said


def test_a_network_whose_layers_depend_on_the_number_of_channels_is_refused():
    four, five = (
        checkpoint(channels=count, name="resunet") for count in (4, 5)
    )  # a shortcut from 4 to 4 has no weights
    with pytest.raises(UserError, match="resunet has other layers for 5 channels than for 4.*convert the images to 4"):
        begun(four, five)


def test_channels_of_files_are_found_by_their_words_and_new_ones_are_not_seen_at_first():
    initial = checkpoint(channels=3, words=["flair", "t1", "t2"])
    now = checkpoint(channels=4, words=["dti", "t1", "t2", "flair"])
    model, said = begun(initial, now)
    image = torch.randn(1, 4, 32, 32)
    assert_close(logits_of(model, image), logits_of(initial.build(), image[:, [3, 1, 2]]))
    assert "new: what the first convolution makes of channel dti" in said
    model.train()(image).sum().backward()
    assert model.stem[0].weight.grad[:, 0].abs().sum() > 0  # but are learned
    with pytest.raises(UserError, match="--freeze: the encoder has not been trained on channel dti"):
        begun(initial, now, freeze=True)
    begun(now, initial, freeze=True)  # which knows more than it needs


def test_slices_are_kept_by_their_distance_from_the_middle():
    one, three, five = (checkpoint(channels=2 * count, slices=count) for count in (1, 3, 5))
    image = torch.randn(1, 10, 32, 32)
    assert_close(logits_of(begun(three, five)[0], image), logits_of(three.build(), image[:, 2:8]))
    assert_close(logits_of(begun(one, five)[0], image), logits_of(one.build(), image[:, 4:6]))
    same = image[:, 4:6]
    assert_close(logits_of(begun(five, one)[0], same), logits_of(five.build(), same.repeat(1, 5, 1, 1)))


def test_alpha_is_no_colour():
    gray, colour = checkpoint(channels=2, keep_alpha=True), checkpoint(channels=4, keep_alpha=True)
    mix = kept_channels(colour, gray)
    assert mix.rows.tolist() == [[1, 1, 1, 0], [0, 0, 0, 1]]
    assert kept_channels(checkpoint(channels=3), colour).is_kept == [True, True, True, False]


@pytest.mark.parametrize("name", MODELS)
def test_every_network_takes_weights_for_other_classes_and_channels(name):
    """All of whose tensors that follow from classes or channels have been found, or loading would fail."""
    few, many = (
        ModelConfig(name=name, in_channels=channels, num_classes=classes) for channels, classes in ((1, 2), (3, 4))
    )
    with torch.device("meta"):
        networks = [build_model(config) for config in (few, many)]
    names = {
        name
        for name, tensor in networks[0].state_dict().items()
        if tensor.shape != networks[1].state_dict()[name].shape
    }
    assert names == _sized_by_channels(few).keys() | _sized_by_outputs(few).keys()
    assert all(dims == [1] for dims in _sized_by_channels(many).values())
    assert all(dims in ([0], [0, 1]) for dims in _sized_by_outputs(many).values())
    first = next(iter(_sized_by_channels(few)))
    assert first.startswith(networks[0].encoder_parts)


def test_weights_of_other_tools_take_the_same_way():
    theirs = drawn(Milesial(channels=3, classes=3))
    initial = Checkpoint(**vars(recognised(theirs.state_dict() | {"mask_values": [0, 1, 2]})))
    labels = LabelMap((0, 2, 3), ("background", "2", "3"))
    model, said = begun(initial, replace(checkpoint(labels, channels=1), model=replace(initial.model, in_channels=1)))
    assert_close(logits_of(model, image_of(1))[:, :2], logits_of(theirs, image_of(3))[:, [0, 2]])
    assert said.endswith("decoder, the head's outputs for background, 2; new: the head's outputs for 3")


# ------------------------------------------------------------------------------------------------------------ by hand


def gray_set(root: Path) -> Path:
    """Pairs of gray images with three classes: 0, 1 and 2."""
    write_pairs(root)
    split_foreground(root / "masks")
    for path in (root / "images").iterdir():
        Image.fromarray(np.asarray(Image.open(path).convert("L"))).save(path)
    return root


STILL = ("--size", 32, "--epochs", 1, "--device", "cpu", "--lr", 1e-8, "--augment", "none")


def test_from_two_classes_in_colour_to_three_in_gray_and_back(unet: Run, data, trained, tmp_path):
    gray_set(tmp_path / "gray")
    there = unet("train", "--data", "gray", "--init", trained, *STILL, "--name", "there")
    assert there.returncode == 0, there.stderr
    channels = "encoder (its first convolution, of 3 channels, is now of 1)"
    assert f"--init {trained}: kept: {channels}, decoder; new: the head's outputs for 0, 1, 2" in there.stderr
    old, new = load_checkpoint(trained), load_checkpoint(tmp_path / "checkpoints" / "there" / "best.pth")
    assert (new.model.in_channels, new.model.num_classes, new.model.base_channels, new.model.depth) == (1, 3, 4, 2)
    assert_close(new.weights["stem.0.weight"], old.weights["stem.0.weight"].sum(1, keepdim=True))
    assert_close(new.weights["decoder.1.convs.3.weight"], old.weights["decoder.1.convs.3.weight"])
    back = unet("train", "--data", "data", "--init", "checkpoints/there", *STILL, "--name", "back")
    assert back.returncode == 0, back.stderr
    assert "is now of 3" in back.stderr
    again = load_checkpoint(tmp_path / "checkpoints" / "back" / "best.pth")
    assert_close(again.weights["stem.0.weight"].sum(1), new.weights["stem.0.weight"][:, 0])


def test_another_architecture_is_refused_by_its_flags(unet: Run, data, trained):
    for flags, said in (
        (("--depth", 3), "holds another network: depth 2 there, 3 here: leave --depth out"),
        (("--width", 8, "--norm", "group"), "leave --width, --norm out, or train without --init"),
        (("--model", "unet++"), "holds a network unet, and --model is unet++: give --model unet, or leave it out"),
    ):
        assert_failed(unet("train", "--data", "data", "--init", trained, "--size", 32, *flags), 1, said)
    done = unet("train", "--data", "data", "--init", trained, *STILL, "--dropout", 0.1)  # which has no weights
    assert done.returncode == 0, done.stderr
    assert "all weights are kept" in done.stderr
