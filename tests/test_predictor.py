"""The network in prediction: one shape of batch, whatever is in it; several networks; Python calls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import pixels
from PIL import Image

from unet_cli import load
from unet_cli.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Inference
from unet_cli.data.labels import LabelMap
from unet_cli.errors import UserError
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.sheet import most_confident_pixel
from unet_cli.inference.views import Band, Stretched
from unet_cli.metrics.calibration import calibrated_number
from unet_cli.models import build_model
from unet_cli.system.device import Compute

CPU = Compute(torch.device("cpu"), "float32")
NOISE = np.random.default_rng(0).integers(0, 255, (3, 50, 61), np.uint8)


def predictor_of(trained, **settings) -> Predictor:
    return Predictor([load_checkpoint(trained)], CPU, Inference(**settings))


def probabilities(predictor: Predictor, image: np.ndarray) -> torch.Tensor:
    return torch.cat([band.combined() for band in predictor.bands(predictor.picture(image, ()))], 1)


def has_threshold(predictor: Predictor, threshold: float) -> bool:
    """Among the probabilities of the networks themselves, of which masks are made."""
    around = torch.tensor([threshold - 1e-6, threshold + 1e-6]).view(1, 1, 2)
    return predictor.classes(around).tolist() == [[0, 1]]


def another(checkpoint: Checkpoint, seed: int = 1, **preprocessing) -> Checkpoint:
    """A network of other weights, width and size for the same classes."""
    torch.manual_seed(seed)
    model = replace(checkpoint.model, base_channels=3)
    return replace(
        checkpoint,
        model=model,
        weights=build_model(model).state_dict(),
        preprocessing=replace(checkpoint.preprocessing, **preprocessing),
    )


def test_batches_are_filled_to_one_shape_so_that_no_mask_depends_on_its_neighbours(trained):
    predictor = predictor_of(trained, batch_size=3)
    shapes = []
    predictor.members[0].model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    rng = np.random.default_rng(0)
    views = [next(Stretched(predictor.members, rng.integers(0, 255, (3, 32, 32), np.uint8)).views()) for _ in range(3)]
    together, alone = predictor.probabilities(views), predictor.probabilities(views[:1])
    assert shapes == [(3, 3, 32, 32)] * 2
    assert torch.equal(together[0][0], alone[0][0])


def test_the_folded_network_gives_the_probabilities_of_the_trained_one(trained):
    predictor = predictor_of(trained)
    view = next(Stretched(predictor.members, NOISE).views())
    checkpoint = load_checkpoint(trained)
    mean, std = (
        torch.tensor(value).view(1, -1, 1, 1) for value in (checkpoint.preprocessing.mean, checkpoint.preprocessing.std)
    )
    with torch.inference_mode():
        expected = checkpoint.build().eval()((view.inputs[0][None].float() - mean) / std).sigmoid()
    assert torch.allclose(predictor.probabilities([view])[0][0], expected[0], atol=1e-5)


def test_probabilities_are_brought_to_any_size_and_stay_between_0_and_1():
    probs = torch.rand(2, 8, 8)
    for size in ((3, 5), (8, 8), (40, 17)):
        resized = Band(0, size, [probs]).combined()
        assert resized.shape == (2, *size)
        assert 0 <= resized.min() <= resized.max() <= 1
    sure = [torch.ones(1, 64, 64), torch.full((1, 48, 48), 1 - 2**-23)]
    assert Band(0, (7, 9), sure).combined().max() <= 1  # stretched, 1 becomes 1 and a few roundings more


def test_flips_average_over_the_eight_symmetries_so_that_the_answer_turns_with_the_image(trained):
    predictor, plain = predictor_of(trained, flips=True), predictor_of(trained)
    square = NOISE[:, :32, :32]  # of the network's size
    probs = probabilities(predictor, square)
    for turned in (lambda x: np.rot90(x, 1, (1, 2)), lambda x: x[:, ::-1], lambda x: x[:, :, ::-1]):
        other = probabilities(predictor, np.ascontiguousarray(turned(square)))
        assert np.allclose(other, turned(probs.numpy()), atol=1e-5)
    mean = np.mean(
        [
            np.rot90(
                probabilities(plain, np.rot90(square, k, (1, 2))[:, :, ::flip].copy()).numpy()[:, :, ::flip], -k, (1, 2)
            )
            for k in range(4)
            for flip in (1, -1)
        ],
        axis=0,
    )
    assert np.allclose(probs, mean, atol=1e-4)


def test_flips_of_upright_images_average_over_the_mirror_image_alone(trained):
    first = load_checkpoint(trained)
    upright = replace(first, preprocessing=replace(first.preprocessing, orientation="upright"))
    square = NOISE[:, :32, :32]
    plain = predictor_of(trained)
    itself, mirrored = probabilities(plain, square), probabilities(plain, square[:, :, ::-1].copy()).flip(-1)
    probs = probabilities(Predictor([upright], CPU, Inference(flips=True)), square)
    assert torch.allclose(probs, (itself + mirrored) / 2, atol=1e-6)
    # Of several networks each sees what it knows.
    both = probabilities(Predictor([upright, first], CPU, Inference(flips=True)), square)
    other = probabilities(predictor_of(trained, flips=True), square)
    assert torch.allclose(both, (probs + other) / 2, atol=1e-6)


@pytest.mark.parametrize("mode", ["resize", "tile"])
def test_networks_of_different_sizes_are_averaged(trained, mode):
    first = load_checkpoint(trained)
    second = another(first, size=48)
    settings = Inference(mode=mode)
    each = [probabilities(Predictor([one], CPU, settings), NOISE) for one in (first, second)]
    both = probabilities(Predictor([first, second], CPU, settings), NOISE)
    assert both.shape == (1, 50, 61)
    if mode == "resize":  # in tiles, both see tiles of the larger one
        assert torch.allclose(both, (each[0] + each[1]) / 2, atol=1e-6)


def test_networks_that_do_not_go_together_are_refused(trained):
    first = load_checkpoint(trained)
    classes = replace(first, labels=LabelMap((0, 7), ("background", "cell")))
    with pytest.raises(UserError, match="different classes"):
        Predictor([first, classes], CPU)
    tiles = another(first, mode="tile")
    with pytest.raises(UserError, match="--mode"):
        Predictor([first, tiles], CPU)
    assert Predictor([first, tiles], CPU, Inference(mode="tile")).mode == "tile"


def test_the_threshold_that_was_best_on_validation(trained):
    first = replace(load_checkpoint(trained), best_threshold=0.3, temperature=1.0)
    assert Predictor([first], CPU).threshold == 0.5
    assert Predictor([first], CPU, Inference(threshold="auto")).threshold == pytest.approx(0.3)
    assert Predictor([first], CPU, Inference(threshold=0.7)).threshold == 0.7
    both = [first, replace(first, best_threshold=0.5)]
    assert Predictor(both, CPU, Inference(threshold="auto")).threshold == pytest.approx(0.4)
    with pytest.raises(UserError, match="no best threshold"):
        Predictor([replace(first, best_threshold=None)], CPU, Inference(threshold="auto"))
    with pytest.raises(UserError, match="threshold"):
        Inference(threshold=1.5)


def test_thresholds_that_were_best_are_averaged_as_the_networks_own_probabilities(trained):
    first = replace(load_checkpoint(trained), best_threshold=0.3, temperature=1.0)
    other = replace(first, best_threshold=calibrated_number(0.3, 4.0), temperature=4.0)
    predictor = Predictor([first, other], CPU, Inference(threshold="auto"))
    assert has_threshold(predictor, 0.3)
    assert predictor.threshold == pytest.approx(calibrated_number(0.3, 2.0))


def test_a_mask_is_cut_where_the_calibrated_probability_reaches_the_threshold(trained):
    first = replace(load_checkpoint(trained), temperature=2.0)
    raw = probabilities(Predictor([first], CPU), NOISE)
    threshold = float((raw.logit() / 2).sigmoid().quantile(0.3))
    for setting in ("auto", threshold):
        predictor = Predictor([replace(first, best_threshold=threshold)], CPU, Inference(threshold=setting))
        assert predictor.threshold == threshold
        assert has_threshold(predictor, threshold**2 / (threshold**2 + (1 - threshold) ** 2))  # odds squared
        shown = predictor.calibrated(raw)
        assert torch.allclose(shown, (raw.logit() / 2).sigmoid(), atol=1e-6)
        clear = ((shown - threshold).abs() > 1e-5)[0].numpy()
        mask = predictor(NOISE.transpose(1, 2, 0)) == 255
        assert (mask == (shown[0] >= threshold).numpy())[clear].all()
        assert mask.mean() == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("temperature", [0.3, 1.7, 20.0])
def test_at_the_usual_threshold_no_temperature_changes_a_mask(trained, temperature):
    first = load_checkpoint(trained)
    hotter = Predictor([replace(first, temperature=temperature)], CPU)
    assert has_threshold(hotter, 0.5)
    assert (hotter(NOISE.transpose(1, 2, 0)) == Predictor([first], CPU)(NOISE.transpose(1, 2, 0))).all()


def test_the_temperature_of_several_networks_lies_between_theirs(trained):
    first, second, third = (replace(load_checkpoint(trained), temperature=value) for value in (1.3, 2.0, 8.0))
    assert Predictor([first], CPU).temperature == 1.3
    assert Predictor([second, third], CPU).temperature == pytest.approx(4)
    assert Predictor([first], CPU).identity != Predictor([second], CPU).identity


def test_the_surest_pixel_is_that_of_the_highest_foreground_probability():
    assert most_confident_pixel(torch.tensor([[[0.1, 0.3], [0.9, 0.2]]]), 1).tolist() == pytest.approx([0.9])
    three = torch.tensor([[[0.9, 0.5, 0.2]], [[0.1, 0.1, 0.3]], [[0.0, 0.4, 0.5]]])
    assert most_confident_pixel(three, 2).tolist() == pytest.approx([0.2, 0.3, 0.5])


@pytest.mark.parametrize("intensity", ["image", "percentile"])
@pytest.mark.parametrize("mode", ["resize", "tile"])
def test_intensities_are_those_of_the_whole_image_not_of_a_tile(trained, intensity, mode):
    first = load_checkpoint(trained)
    first = replace(first, preprocessing=replace(first.preprocessing, intensity=intensity))
    predictor = Predictor([first], CPU, Inference(mode=mode))
    uneven = NOISE.copy()
    uneven[:, :, :30] //= 8
    doubled = (
        probabilities(predictor, uneven // 2 * 2),
        probabilities(predictor, uneven // 2),
    )  # the same but for a factor
    assert torch.allclose(*doubled, atol=0.05 if mode == "resize" else 0.02)
    if mode == "tile":
        views = list(predictor.picture(uneven, ()).views())
        assert len(views) > 1
        assert all(torch.equal(view.intensities[0], views[0].intensities[0]) for view in views)
        assert views[0].intensities[0][2] == pytest.approx(uneven.mean(), rel=0.02)


def test_tiles_whose_overlap_covers_the_reach_agree_with_one_that_holds_the_whole_image(trained):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (3, 150, 170), np.uint8)
    small, large, poor = (
        probabilities(predictor_of(trained, mode="tile", size=size, overlap=overlap), image)
        for size, overlap in ((64, 0.75), (256, 0.25), (64, 0.0))
    )
    assert torch.allclose(small, large, atol=1e-5)
    assert not torch.allclose(poor, large, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"mode": "tile", "flips": True}])
def test_python_gives_the_commands_mask_for_a_path_an_image_and_an_array(unet, trained, images, tmp_path, settings):
    flags = [
        word for key, value in settings.items() for word in ([f"--{key}"] if value is True else [f"--{key}", value])
    ]
    done = unet("predict", "--weights", trained, "--input", "imgs", "--precision", "float32", *flags)
    assert done.returncode == 0, done.stderr
    predictor = load(trained.parent, precision="float32", **settings)
    for name in ("a", "deeper/c"):
        path, expected = images / f"{name}.png", pixels(tmp_path / "imgs_masks" / f"{name}.png")
        with Image.open(path) as image:
            assert (predictor(image) == expected).all()
        assert (predictor(path) == expected).all()
        assert (predictor(str(path)) == expected).all()
        assert (predictor(pixels(path)) == expected).all()
    with pytest.raises(UserError, match="nowhere.png"):
        predictor("nowhere.png")
    with pytest.raises(UserError, match="shape"):
        predictor(np.zeros((2, 3, 4, 5)))


def test_folds_in_one_folder_are_averaged(trained, tmp_path):
    for number in range(2):
        folder = tmp_path / "folds" / f"fold-{number}"
        folder.mkdir(parents=True)
        save_checkpoint(folder / "best.pth", another(load_checkpoint(trained), seed=number))
    assert len(load(tmp_path / "folds").members) == 2
    assert len(load([tmp_path / "folds", trained]).members) == 3


def test_importing_the_package_imports_nothing_heavy(tmp_path):
    import subprocess
    import sys

    code = "import sys, unet_cli; unet_cli.load; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_three_classes_in_tiles(trained):
    first = load_checkpoint(trained)
    model = ModelConfig(base_channels=2, depth=2, num_classes=3)
    weights = build_model(model).state_dict()
    three = replace(first, model=model, weights=weights, labels=LabelMap((0, 1, 10), ("0", "1", "10")))
    probs = probabilities(Predictor([three], CPU, Inference(mode="tile")), NOISE)
    assert probs.shape == (3, 50, 61)
    assert torch.allclose(probs.sum(0), torch.ones(50, 61), atol=1e-5)
