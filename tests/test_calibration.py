"""Calibration, against formulas in double precision, scikit-learn, and pixels drawn with a known temperature."""

import math

import numpy as np
import pytest
import torch

from unet_cli.metrics.calibration import (
    PixelSample,
    Reliability,
    calibrated,
    calibrated_number,
    calibration_error,
    fit_temperature,
    reliability,
    sample_pixels,
    uncalibrated,
)

TEMPERATURES = [0.05, 0.7, 3.0, 20.0]


def drawn(logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """(P, K) logits -> (P) uint8: a class of each pixel, drawn from their softmax."""
    probs = torch.from_numpy(logits).softmax(1).numpy()
    places = np.random.default_rng(seed).random((len(logits), 1))
    return (probs.cumsum(1)[:, :-1] < places).sum(1).astype(np.uint8)


def softmaxed(logits: np.ndarray, target: np.ndarray) -> PixelSample:
    return PixelSample(torch.from_numpy(logits).softmax(1).float().numpy(), target)


def binary(logits: np.ndarray, target: np.ndarray) -> PixelSample:
    return PixelSample(torch.from_numpy(logits).sigmoid().float().numpy()[:, None], target)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_calibrated_is_softmax_of_logits_over_the_temperature(temperature):
    probs = torch.rand(1, 40, 50, generator=torch.manual_seed(0))
    expected = torch.sigmoid(torch.logit(probs.double()) / temperature)
    assert (calibrated(probs, temperature) - expected).abs().max() < 1e-6
    probs = (3 * torch.randn(4, 40, 50, generator=torch.manual_seed(0))).softmax(0)
    expected = torch.softmax(probs.double().log() / temperature, 0)
    assert (calibrated(probs, temperature) - expected).abs().max() < 1e-6
    assert calibrated(probs, temperature).dtype == torch.float32


def test_calibrated_by_hand():
    # Odds of 1 : 9 are squared by T = 1/2; a third, a third and a third stay what they are.
    assert calibrated(torch.tensor([[0.1]]), 0.5).item() == pytest.approx(1 / 82)
    assert calibrated(torch.tensor([[0.5, 1 / 3], [0.25, 1 / 3], [0.25, 1 / 3]]), 0.5).tolist() == [
        pytest.approx([4 / 6, 1 / 3]),
        pytest.approx([1 / 6, 1 / 3]),
        pytest.approx([1 / 6, 1 / 3]),
    ]
    probs = torch.rand(3, 2, 2)
    assert calibrated(probs, 1.0) is probs


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_no_pixel_changes_its_class(temperature):
    half = torch.tensor(0.5)
    below, above = torch.nextafter(half, torch.tensor(0.0)), torch.nextafter(half, torch.tensor(1.0))
    edges = torch.stack([below, half, above, torch.tensor(0.0), torch.tensor(1e-40), torch.tensor(1 - 2.0**-24)])
    found = calibrated(edges[None], temperature)[0]
    assert (found >= 0.5).tolist() == [False, True, True, False, False, True]

    draw = torch.manual_seed(1)
    probs = (0.01 * torch.randn(5, 3000, generator=draw)).softmax(0)
    near = probs.amax(0)
    for class_index in range(5):  # a second class that is as near to the first as float32 goes
        probs[class_index] = torch.where(probs[class_index] == near, near, torch.nextafter(near, torch.tensor(0.0)))
    assert (calibrated(probs, temperature).argmax(0) == probs.argmax(0)).all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_nothing_and_certainty_stay(temperature):
    assert calibrated(torch.tensor([[0.0, 1.0, 0.5]]), temperature).tolist() == [[0, 1, 0.5]]
    assert calibrated(torch.tensor([[0.0, 0.5], [1.0, 0.5], [0.0, 0.0]]), temperature).tolist() == [
        [0, 0.5],
        [1, 0.5],
        [0, 0],
    ]
    for number in (0.0, 0.5, 1.0):
        assert calibrated_number(number, temperature) == uncalibrated(number, temperature) == number


def test_numbers_and_their_way_back():
    assert calibrated_number(0.1, 0.5) == pytest.approx(1 / 82)
    assert uncalibrated(1 / 82, 0.5) == pytest.approx(0.1)
    assert uncalibrated(0.45, 1.0) == calibrated_number(0.45, 1.0) == 0.45
    for number in (1e-300, 0.05, 0.3, 0.95):
        assert uncalibrated(calibrated_number(number, 3.0), 3.0) == pytest.approx(number, rel=1e-9)


def test_sample_is_spread_evenly_over_what_is_not_ignored():
    target = np.zeros((64, 64), dtype=np.uint8)
    target[:, 32:] = 1
    target[::2] = 255
    probs = torch.arange(2 * 64 * 64, dtype=torch.float32).view(2, 64, 64)
    found = sample_pixels(probs, target, 256)
    assert found.probs.shape == (256, 2)
    assert (found.probs.dtype, found.target.dtype) == (np.float32, np.uint8)
    places = found.probs[:, 0].astype(int)
    assert len(set(places)) == 256
    assert (found.probs[:, 1] == places + 64 * 64).all()
    assert (target.ravel()[places] == found.target).all()
    assert set(found.target) == {0, 1}
    assert (np.bincount(places // 64, minlength=64)[1::2] == 8).all()  # rows
    assert np.bincount(places % 64).min() >= 2  # columns: 4 each on average
    assert (sample_pixels(probs, target, 256).probs == found.probs).all()


def test_sample_takes_all_where_there_are_no_more():
    target = np.array([[0, 255, 1]], dtype=np.uint8)
    found = sample_pixels(torch.tensor([[[0.1, 0.2, 0.3]]]), target, 2)
    assert found.probs.ravel().tolist() == pytest.approx([0.1, 0.3])
    assert found.target.tolist() == [0, 1]
    assert len(sample_pixels(torch.rand(1, 1, 1), np.array([[255]], dtype=np.uint8), 5).target) == 0


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature):
    logits = np.random.default_rng(0).normal(0, 2, (10_000, 3))
    target = drawn(logits)
    assert fit_temperature(softmaxed(temperature * logits, target)) == pytest.approx(temperature, rel=0.04)
    logits = np.random.default_rng(1).normal(0, 2, 10_000)
    target = drawn(np.stack([np.zeros_like(logits), logits], axis=1))
    assert fit_temperature(binary(temperature * logits, target)) == pytest.approx(temperature, rel=0.04)


def test_temperature_by_hand():
    # 3 of 4 are right with p = 0.9: logit(0.9) / T has to be logit(0.75), which is log 9 / T = log 3.
    sample = PixelSample(np.full((4, 1), 0.9, dtype=np.float32), np.array([1, 1, 1, 0], dtype=np.uint8))
    assert fit_temperature(sample) == pytest.approx(2, rel=1e-3)


def test_a_few_that_are_sure_and_wrong_do_not_decide():
    logits = np.random.default_rng(1).normal(0, 2, 10_000)
    sample = binary(logits, drawn(np.stack([np.zeros_like(logits), logits], axis=1)))
    probs = sample.probs.copy()
    probs[np.flatnonzero(sample.target == 0)[:10]] = 1
    probs[np.flatnonzero(sample.target == 1)[:10]] = 0
    assert 1 < fit_temperature(PixelSample(probs, sample.target)) < 1.2


@pytest.mark.parametrize(
    ("probs", "target"),
    [([], []), ([0.2, 0.9], [1, 1]), ([0.2, 0.9], [0, 0]), ([0.5, 0.5], [0, 1])],
    ids=["empty", "foreground alone", "background alone", "nothing to gain"],
)
def test_nothing_to_fit_is_a_temperature_of_one(probs, target):
    sample = PixelSample(np.array(probs, dtype=np.float32).reshape(-1, 1), np.array(target, dtype=np.uint8))
    assert fit_temperature(sample) == 1


def test_temperature_stays_in_bounds_where_all_or_none_are_right():
    probs, target = np.array([[0.1], [0.9]], dtype=np.float32), np.array([0, 1], dtype=np.uint8)
    assert 0.25 <= fit_temperature(PixelSample(probs, target)) < 0.26
    assert 9.9 < fit_temperature(PixelSample(probs, 1 - target)) <= 10


def test_reliability_is_that_of_scikit_learn():
    from sklearn.calibration import calibration_curve

    draw = np.random.default_rng(0)
    probs = np.round(draw.random((2000, 1)), 2).astype(np.float32)
    probs[:300] = 1 / 3
    probs[300:320], probs[320:340] = 0, 1
    target = (draw.random(2000) < probs[:, 0] ** 2).astype(np.uint8)
    found = reliability(PixelSample(probs, target))
    frequency, confidence = calibration_curve(target, probs[:, 0].astype(np.float64), n_bins=15)
    assert found.confidence[0] == pytest.approx(confidence, abs=1e-12)
    assert found.frequency[0] == pytest.approx(frequency, abs=1e-12)
    assert found.count.sum() == 2000


def test_reliability_of_several_classes_leaves_background_out():
    from sklearn.calibration import calibration_curve

    sample = softmaxed(np.random.default_rng(0).normal(0, 2, (3000, 3)), np.arange(3000, dtype=np.uint8) % 3)
    found = reliability(sample, 2.0)
    assert found.count.shape == (2, 15)
    scaled = calibrated(torch.from_numpy(sample.probs).T, 2.0).double().numpy()
    for row, of_class in enumerate((1, 2)):
        frequency, confidence = calibration_curve(sample.target == of_class, scaled[of_class], n_bins=15)
        full = found.count[row] > 0
        assert found.confidence[row, full] == pytest.approx(confidence, abs=1e-12)
        assert found.frequency[row, full] == pytest.approx(frequency, abs=1e-12)


def test_calibration_error_by_hand():
    # Bin of 0.3: one of four, off by 0.05. Bin of 0.9: one of two, off by 0.4. The other bins are empty.
    probs = np.array([[0.3]] * 4 + [[0.9]] * 2, dtype=np.float32)
    found = reliability(PixelSample(probs, np.array([1, 0, 0, 0, 1, 0], dtype=np.uint8)))
    assert np.flatnonzero(found.count).tolist() == [4, 13]
    assert np.isnan(found.confidence).sum() == np.isnan(found.frequency).sum() == 13
    assert calibration_error(found) == pytest.approx([(4 * 0.05 + 2 * 0.4) / 6])


def test_calibration_error_of_nothing_is_nan():
    found = reliability(PixelSample(np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.uint8)))
    assert isinstance(found, Reliability)
    assert [math.isnan(error) for error in calibration_error(found)] == [True, True]


def test_the_temperature_mends_the_calibration_error():
    logits = np.random.default_rng(1).normal(0, 2, 10_000)
    sample = binary(3 * logits, drawn(np.stack([np.zeros_like(logits), logits], axis=1)))
    assert calibration_error(reliability(sample)) > 0.1
    assert calibration_error(reliability(sample, fit_temperature(sample))) < 0.02
