"""Losses from logits, worked by hand; the parts of a batch add up; float32 whatever comes in."""

import math
from inspect import signature
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from unet_cli.config.losses import LOSSES, check_loss, parse_class_weights, parse_loss, spelled_now
from unet_cli.config.model import IGNORED
from unet_cli.errors import UserError
from unet_cli.training.losses.distances import border_weights, radius, signed_distances
from unet_cli.training.losses.loss import (
    Denominators,
    Loss,
    balanced_weights,
    class_weights_for,
    downsample_target,
    loss_for,
    term_of,
)
from unet_cli.training.losses.region import (
    boundary,
    cldice,
    dice,
    focal_tversky,
    jaccard,
    lovasz,
    soft_skeleton,
    tversky,
)

REGION_TERMS = {name: term_of(name) for name, term in LOSSES.items() if term.kind == "region"}
WEIGHTED = [name for name in LOSSES if name not in REGION_TERMS]
ALONE = [name for name in LOSSES if name != "boundary"]
EXPRESSIONS = [*ALONE, "bce+dice", "dice+boundary"]  # the last one whole, so that its second term shows


def make(expression: str, num_classes: int) -> Loss:
    """The loss, of classes that weigh 1, 2, 3, ..."""
    return loss_for(expression, num_classes, range(1, num_classes + 1))


def random_batch(num_classes: int, images: int = 4) -> tuple[Tensor, Tensor]:
    """Logits that want a gradient and a target: the first image hardly known, the last not at all."""
    generator = torch.Generator().manual_seed(0)
    channels = 1 if num_classes == 2 else num_classes
    logits = torch.randn(images, channels, 6, 8, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.randint(0, num_classes, (images, 6, 8), generator=generator)
    mask[0, 1:] = IGNORED
    mask[-1] = IGNORED
    return logits, mask


def random_regions(*spatial: int) -> tuple[Tensor, Tensor, Tensor]:
    """probs, truth and known of two images and three classes, the last of which is absent in the first image."""
    generator = torch.Generator().manual_seed(1)
    spatial = spatial or (6, 7)
    target = torch.randint(0, 4, (2, *spatial), generator=generator)
    target[0][target[0] == 3] = 0
    known = (torch.rand(2, 1, *spatial, generator=generator) < 0.9).double()
    classes = torch.arange(1, 4).view(3, *[1] * len(spatial))
    truth = (target[:, None] == classes).double() * known
    return torch.rand(2, 3, *spatial, generator=generator, dtype=torch.float64), truth, known


def row(*values: float) -> Tensor:
    """One image of one class and one row."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


ALL = row(1)  # every pixel is known


def test_each_row_has_a_meaning_and_a_function_in_the_file_of_its_kind():
    for name, term in LOSSES.items():
        assert term.help
        assert term_of(name).__module__.rpartition(".")[2] == ("region" if term.kind == "region" else "pixel")
        assert term.is_weighted == ("weights" in signature(term_of(name)).parameters)


def test_former_spellings_are_written_as_what_they_are_called_now():
    assert spelled_now("bce-dice") == "bce+dice"
    assert spelled_now("0.5*ce + BCE-dice ") == "0.5*ce +bce+dice"
    assert spelled_now("0.5*bce + dyce") == "0.5*bce + dyce"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("dice", [(1, "dice")]),
        ("bce+dice", [(1, "bce"), (1, "dice")]),
        (" 0.5 * bce + dice ", [(0.5, "bce"), (1, "dice")]),
        ("dice+1e-2*boundary", [(1, "dice"), (0.01, "boundary")]),
        ("2*focal-tversky+top-k", [(2, "focal-tversky"), (1, "top-k")]),
        ("bce-dice", [(1, "bce"), (1, "dice")]),
        ("CE+.5*clDice", [(1, "ce"), (0.5, "cldice")]),
    ],
)
def test_expressions_are_read(text, terms):
    assert list(parse_loss(text)) == terms
    assert list(loss_for(text, 2).terms) == terms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bce+dyce", "there is no loss 'dyce': did you mean dice?"),
        ("focal_tversky", "'focal_tversky' can't be read: write names joined by +"),
        ("xyzzy", "there are bce, ce, dice"),
        ("balanced", "is now --loss bce\\+dice --class-weights auto"),
        ("boundary", "add it to another one, such as dice\\+0.01\\*boundary"),
        ("boundary+0.5*boundary", "boundary is no loss of its own"),
        ("0*bce", "a factor has to be from 1e-06"),
        ("1e999*bce", "a factor has to be from 1e-06"),
        ("-1*bce", "can't be read"),
        ("1.2.3*bce", "'1.2.3' is no number"),
        ("bce+", "'' can't be read"),
        ("", "can't be read"),
    ],
)
def test_what_cannot_be_read_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_loss(text)


def test_class_weights_are_read():
    shares = [0.8, 0.15, 0.05]
    assert class_weights_for("none", shares) is None
    assert class_weights_for("auto", shares) == balanced_weights(shares)
    assert class_weights_for("1, 5,2.5", shares) == (1, 5, 2.5)
    assert parse_class_weights("auto") == "auto"
    check_loss("dice+top-k", "1,5")
    check_loss("dice", "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,5", "these are 2, but there are 3 classes"),
        ("1,5,x", "write none, auto, or a number for each class"),
        ("balanced", "write none, auto"),
        ("1,-5,2", "have to be 0, or from"),
        ("1,nan,2", "have to be 0, or from"),
        ("0,0,0", "not all 0"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        class_weights_for(text, [0.8, 0.15, 0.05])


def test_class_weights_that_nothing_uses_are_refused():
    with pytest.raises(UserError, match="of which --loss dice has none"):
        check_loss("dice", "auto")


def test_dice_by_hand():
    assert dice(row(0.5, 1), row(1, 0), ALL).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1.5 + 1 + 1))


def test_dice_is_the_mean_over_images_and_foreground_classes():
    mask = torch.zeros(2, 1, 4, dtype=torch.long)
    mask[0] = 1  # image 0: all class 1, and found; image 1: all background, but class 2 is seen everywhere
    logits = torch.full((2, 3, 1, 4), -50.0)
    logits[0, 1] = logits[1, 2] = 50
    assert loss_for("dice", 3)(logits, mask).item() == pytest.approx((1 - 1 / 5) / 4)


def test_jaccard_by_hand():
    probs, truth = row(1, 1, 0, 0), row(1, 0, 1, 1)
    assert jaccard(probs, truth, ALL).item() == pytest.approx(1 - (1 + 0.5) / (4 + 0.5))
    score = 1 - dice(probs, truth, ALL).item()
    assert jaccard(probs, truth, ALL).item() == pytest.approx(1 - score / (2 - score))


def test_tversky_counts_a_miss_for_more_than_a_false_alarm():
    probs, truth = row(1, 1, 0, 0), row(1, 0, 1, 1)
    assert tversky(probs, truth, ALL).item() == pytest.approx(1 - (1 + 0.5) / (1 + 0.3 * 1 + 0.7 * 2 + 0.5))
    assert tversky(truth, probs, ALL).item() == pytest.approx(1 - (1 + 0.5) / (1 + 0.3 * 2 + 0.7 * 1 + 0.5))


def test_focal_tversky_is_the_root_of_it_with_a_bounded_gradient_at_zero():
    probs, truth = row(1, 1, 0, 0), row(1, 0, 1, 1)
    plain = tversky(probs, truth, ALL).item()
    assert focal_tversky(probs, truth, ALL).item() == pytest.approx(plain**0.75, rel=1e-4)
    found = row(1, 0, 1, 1).requires_grad_()
    loss = focal_tversky(found, truth, ALL)
    loss.sum().backward()
    assert loss.item() == 0
    assert found.grad.abs().max() < 10
    assert found.grad.any()


def test_lovasz_by_hand():
    """Errors 0.6 (a miss), 0.5 (a false alarm) and 0.2 (a miss): IoU is 1, 1/2, 1/3 and 0 as they are made in turn."""
    probs, truth = row(0.8, 0.5, 0.4, 0), row(1, 0, 1, 0)
    expected = 0.6 * (1 - 1 / 2) + 0.5 * (1 / 2 - 1 / 3) + 0.2 * (1 / 3 - 0)
    assert lovasz(probs, truth, ALL).item() == pytest.approx(expected)
    assert lovasz(probs, row(0, 0, 0, 0), ALL).item() == pytest.approx(0.8)  # absent: the largest error


def test_boundary_by_hand():
    """Distances of an object in the middle three of seven pixels, the last of which is ignored: 2 1 0 -1 0 1 (2)."""
    truth, known = row(0, 0, 1, 1, 1, 0, 0), row(1, 1, 1, 1, 1, 1, 0)
    probs = row(0.5, 0.25, 1, 1, 1, 0, 1)
    assert boundary(probs, truth, known).item() == pytest.approx((0.5 * 2 + 0.25 * 1 - 1) / 6)
    assert boundary(probs, row(0, 0, 0, 0, 0, 0, 0), known).item() == 0
    assert boundary(probs, row(1, 1, 1, 1, 1, 1, 0), known).item() == 0


def test_a_skeleton_is_the_centre_line():
    bar = torch.zeros(1, 1, 9, 13, dtype=torch.float64)
    bar[..., 2:7, 2:11] = 1
    line = soft_skeleton(bar, torch.ones_like(bar), torch.tensor([[3]]))
    assert line[0, 0, 4, 4:9].tolist() == [1] * 5
    assert line.sum() < 20
    assert not soft_skeleton(bar, torch.ones_like(bar), torch.tensor([[2]]))[0, 0, 4, 5:8].any()  # too early to see it


def test_cldice_by_hand():
    """A line three pixels wide from border to border; the prediction has the right half of its middle row only."""
    truth, known = torch.zeros(1, 1, 7, 8, dtype=torch.float64), torch.ones(1, 1, 7, 8, dtype=torch.float64)
    truth[..., 2:5, :] = 1
    probs = torch.zeros_like(truth)
    probs[..., 3, 4:] = 1
    precision, sensitivity = 1, (4 + 1) / (8 + 1)
    centre = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    overlap = 1 - (2 * 4 + 1) / (4 + 24 + 1)
    assert cldice(probs, truth, known).item() == pytest.approx((centre + overlap) / 2)


def test_cldice_does_not_depend_on_the_neighbours_in_the_batch():
    probs, truth, known = random_regions(24, 24)
    truth[1, 0], known[1] = 0, 1
    truth[1, 0, 2:20, 3:19] = 1  # far thicker than anything in the other image
    together = cldice(probs, truth, known)
    alone = torch.cat([cldice(probs[[index]], truth[[index]], known[[index]]) for index in range(2)])
    torch.testing.assert_close(together, alone)


def test_cross_entropy_and_dice_by_hand():
    logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 0]]])
    each = 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert loss_for("bce+dice", 2)(logits, target).item() == pytest.approx(math.log(2) + each)
    assert loss_for("0.5*ce+2*dice", 2)(logits, target).item() == pytest.approx(0.5 * math.log(2) + 2 * each)
    logits, target = torch.zeros(1, 3, 1, 3), torch.tensor([[[0, 1, 2]]])
    each = 1 - (2 / 3 + 1) / (1 + 1 + 1)
    assert loss_for("bce+dice", 3)(logits, target).item() == pytest.approx(math.log(3) + each)


def test_focal_by_hand():
    logits, target = torch.tensor([[[[math.log(3)]]]]), torch.tensor([[[0]]])  # probability 3/4 of what isn't there
    assert loss_for("focal", 2)(logits, target).item() == pytest.approx(0.75**2 * math.log(4))
    two = torch.cat([torch.zeros_like(logits), logits], 1)  # the same with an output for the background
    assert loss_for("focal", 2)(two, target).item() == pytest.approx(0.75**2 * math.log(4))


def test_top_k_by_hand():
    """Of 11 known pixels the two hardest, of the second image's single one that one; ignored ones are the hardest."""
    logits = torch.zeros(2, 1, 1, 12)
    logits[0, 0, 0, :3] = torch.tensor([2.0, 1.0, 9.0])
    logits[1, 0, 0, 1:] = 9
    target = torch.zeros(2, 1, 12, dtype=torch.long)
    target[0, 0, 2] = target[1, 0, 1:] = IGNORED
    first = (math.log1p(math.exp(2)) + math.log1p(math.exp(1))) / 2
    assert loss_for("top-k", 2)(logits, target).item() == pytest.approx((first + math.log(2)) / 2)
    of_ten = loss_for("top-k", 2)(logits[:1, ..., :11], target[:1, :, :11])
    assert of_ten.item() == pytest.approx(math.log1p(math.exp(2)))
    logits[0, 0, 0, 2] = -9
    target[0, 0, 2] = 1  # as hard, and it counts 4
    first = (4 * math.log1p(math.exp(9)) + math.log1p(math.exp(2))) / 5
    assert loss_for("top-k", 2, (1, 4))(logits, target).item() == pytest.approx((first + math.log(2)) / 2)


def test_top_k_takes_pixels_that_cost_nothing_rather_than_ignored_ones():
    logits, target = torch.full((1, 1, 1, 40), -200.0), torch.zeros(1, 1, 40, dtype=torch.long)
    logits[..., 20], target[..., :10], target[..., 30:] = 0, IGNORED, IGNORED
    assert loss_for("top-k", 2)(logits, target).item() == pytest.approx(math.log(2) / 2)


def test_paper_by_hand():
    """Two objects, a gap of one pixel between them, background that counts 2 and objects that count 3."""
    target, logits = torch.tensor([[[1, 0, 1, 0]]]), torch.zeros(1, 1, 1, 4)
    weight = 2 * 2 + 2 * 3
    border = 10 * math.exp(-((1 + 1) ** 2) / 50) + 10 * math.exp(-((1 + 3) ** 2) / 50)
    assert loss_for("paper", 2, (2, 3))(logits, target).item() == pytest.approx(math.log(2) * (1 + border / weight))
    target[0, 0, 2] = IGNORED
    assert loss_for("paper", 2, (2, 3))(logits, target).item() == pytest.approx(math.log(2))


def test_class_weights_by_hand():
    logits, target = torch.zeros(1, 3, 1, 4), torch.tensor([[[0, 0, 1, IGNORED]]])
    logits[0, 0, 0, 2] = math.log(2)  # the third pixel: probability 1/4 of its class
    entropy = (2 * 1 * math.log(3) + 5 * math.log(4)) / (2 * 1 + 5)
    plain = loss_for("dice", 3)(logits, target).item()
    assert loss_for("bce+dice", 3, (1, 5, 2))(logits, target).item() == pytest.approx(entropy + plain)


@pytest.mark.parametrize("name", WEIGHTED)
def test_only_the_ratio_of_class_weights_counts_and_a_weight_of_zero_leaves_a_class_out(name):
    logits, mask = random_batch(3)
    some, more = (loss_for(name, 3, weights)(logits, mask).item() for weights in ((1, 5, 2), (10, 50, 20)))
    if name != "paper":  # whose second term has its own weight
        assert some == pytest.approx(more, rel=1e-6)
    nothing = loss_for(name, 3, (0, 0, 1))(logits, torch.where(mask == 2, 1, mask))
    assert torch.isfinite(nothing)
    if name != "paper":
        assert nothing == 0


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ([0.5, 0.5], [1, 1]),
        ([0.8, 0.2], [5 / 6, 10 / 6]),  # 1 to 2, and 0.8 of the one and 0.2 of the other make 1
        ([0.8, 0.2, 0], [5 / 6, 10 / 6, 10 / 6]),  # what isn't there weighs as much as the rarest
        ([1, 0], [1, 1]),
        ([0, 0], [1, 1]),
    ],
)
def test_classes_weigh_the_inverse_root_of_their_share_with_a_mean_of_one(shares, weights):
    assert balanced_weights(shares) == pytest.approx(weights)


def test_no_class_weighs_more_than_ten_times_the_commonest():
    weights = balanced_weights([0.95, 0.05, 1e-9])
    assert [weight / weights[0] for weight in weights] == pytest.approx([1, math.sqrt(19), 10])


def slow_lovasz(probs: np.ndarray, truth: np.ndarray) -> float:
    """The largest sum, over orders, of errors times what each adds to the loss: the Lovász extension as a maximum.

    1 - IoU is a submodular function of the set of wrong pixels, whose extension is this.
    """

    def cost(wrong: tuple[int, ...]) -> float:
        found = [bool(value) != (index in wrong) for index, value in enumerate(truth)]
        union = sum(f or bool(t) for f, t in zip(found, truth, strict=True))
        return 1 - sum(f and bool(t) for f, t in zip(found, truth, strict=True)) / union if union else 0.0

    errors = np.abs(truth - probs)
    return max(
        sum(errors[order[n]] * (cost(order[: n + 1]) - cost(order[:n])) for n in range(len(order)))
        for order in permutations(range(len(probs)))
    )


def test_lovasz_agrees_with_its_definition():
    generator = np.random.default_rng(0)
    for present in (0, 1, 3, 6):
        probs = generator.random(6)
        truth = generator.permutation(np.arange(6) < present).astype(float)
        assert lovasz(row(*probs), row(*truth), ALL).item() == pytest.approx(slow_lovasz(probs, truth))


def test_region_terms_agree_with_plain_loops():
    probs, truth, known = random_regions()
    found = {name: term(probs, truth, known) for name, term in REGION_TERMS.items()}
    for image, kind in np.ndindex(2, 3):
        seen = known[image, 0].numpy() > 0
        p, t = probs[image, kind].numpy()[seen], truth[image, kind].numpy()[seen]
        hits, alarms, misses = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
        inside = truth[image, kind].numpy() > 0
        distances = signed_distances(inside, seen & ~inside)[seen]
        slow = {
            "dice": 1 - (2 * hits + 1) / (2 * hits + alarms + misses + 1),
            "jaccard": 1 - (hits + 0.5) / (hits + alarms + misses + 0.5),
            "tversky": 1 - (hits + 0.5) / (hits + 0.3 * alarms + 0.7 * misses + 0.5),
            "boundary": (p * distances).mean(),
        }
        slow["focal-tversky"] = slow["tversky"] ** 0.75
        for name, value in slow.items():
            assert found[name][image, kind].item() == pytest.approx(value, rel=1e-3 if "focal" in name else 1e-6), name


def eroded(image: np.ndarray, seen: np.ndarray, corners: bool, largest: bool) -> np.ndarray:
    """The smallest (largest) known value of each pixel and its four (eight) neighbours."""
    result = np.zeros_like(image)
    for y, x in np.ndindex(image.shape):
        values = [
            image[y + dy, x + dx]
            for dy, dx in product((-1, 0, 1), repeat=2)
            if (corners or not dy or not dx)
            and 0 <= y + dy < image.shape[0]
            and 0 <= x + dx < image.shape[1]
            and seen[y + dy, x + dx]
        ]
        result[y, x] = (max if largest else min)(values, default=0)
    return result


def slow_skeleton(image: np.ndarray, seen: np.ndarray, rounds: int) -> np.ndarray:
    """Algorithm 1 of the paper as it is printed."""
    skeleton = np.zeros_like(image)
    for _ in range(rounds):
        thinner = eroded(image, seen, corners=False, largest=False)
        delta = np.maximum(image - eroded(thinner, seen, corners=True, largest=True), 0) * seen
        skeleton = skeleton + np.maximum(delta - skeleton * delta, 0)
        image = thinner
    return skeleton


def test_cldice_agrees_with_plain_loops():
    probs, truth, known = random_regions(9, 10)
    truth[0, 0, 2:7, 2:8] = known[0, 0, 2:7, 2:8]
    found, overlap = cldice(probs, truth, known), dice(probs, truth, known)
    for image, kind in np.ndindex(2, 3):
        seen, p, t = known[image, 0].numpy() > 0, probs[image, kind].numpy(), truth[image, kind].numpy()
        rounds = max(1, radius(t > 0, seen & (t == 0)))
        of_p, of_t = slow_skeleton(p * seen, seen, rounds), slow_skeleton(t, seen, rounds)
        precision, sensitivity = ((s * o).sum() + 1 for s, o in ((of_p, t), (of_t, p)))
        precision, sensitivity = precision / (of_p.sum() + 1), sensitivity / (of_t.sum() + 1)
        slow = 1 - 2 * precision * sensitivity / (precision + sensitivity)
        assert found[image, kind].item() == pytest.approx((overlap[image, kind].item() + slow) / 2)


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_pixel_terms_agree_with_plain_loops(name, num_classes):
    logits, mask = random_batch(num_classes, images=2)
    mask[1, 2:] = 0
    mask[1, 3, 3:6:2] = 1
    class_weights = [1.0, 5.0, 2.0][:num_classes]
    total, whole = 0.0, 0.0
    of_images = []
    for one, target in zip(logits.detach().numpy(), mask.numpy(), strict=True):
        scores = np.concatenate([np.zeros_like(one), one]) if num_classes == 2 else one
        probs, borders, each = np.exp(scores) / np.exp(scores).sum(0), border_weights(target.astype(np.uint8)), []
        for place in zip(*np.nonzero(target != IGNORED), strict=True):
            p, weight = probs[(target[place], *place)], class_weights[target[place]]
            extra = borders[place] if name == "paper" else 0
            cost = (weight + extra) * -math.log(p) * ((1 - p) ** 2 if name == "focal" else 1)
            total, whole = total + cost, whole + weight
            each.append((cost, weight))
        hardest = sorted(each, reverse=True)[: math.ceil(len(each) / 10)]
        of_images.append(sum(cost for cost, _ in hardest) / sum(weight for _, weight in hardest))
    expected = np.mean(of_images) if name == "top-k" else total / whole
    assert loss_for(name, num_classes, class_weights)(logits, mask).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", REGION_TERMS)
@pytest.mark.parametrize("spatial", [(3, 4), (2, 2, 3)])
def test_gradients_are_those_of_the_values(name, spatial):
    probs, truth, known = random_regions(*spatial)
    assert torch.autograd.gradcheck(lambda p: REGION_TERMS[name](p, truth, known), probs.requires_grad_())


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_pixel_terms_are_those_of_the_values(name, channels):
    logits, mask = random_batch(2 if channels == 1 else 3, images=2)
    weights = (mask != IGNORED).double()
    assert torch.autograd.gradcheck(lambda values: term_of(name)(values, mask, weights), logits)


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_perfect_logits_cost_nothing_and_wrong_ones_a_lot(name, num_classes):
    mask = torch.randint(0, num_classes, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    if num_classes == 2:
        logits = (mask[:, None] * 2 - 1) * 50.0
    else:
        logits = torch.nn.functional.one_hot(mask, num_classes).movedim(-1, 1) * 50.0
    loss = make(name, num_classes)
    has_pixels = any(term not in REGION_TERMS for _, term in loss.terms)
    assert loss(logits, mask).item() == pytest.approx(0, abs=1e-4 if "boundary" not in name else 0.1)
    assert loss(-logits, mask).item() > (5 if has_pixels else 0.8)


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_empty_against_empty_is_zero(name, num_classes):
    channels = 1 if num_classes == 2 else num_classes
    logits = torch.full((1, channels, 4, 4), -100.0)
    if channels > 1:
        logits[:, 0] = 100
    assert make(name, num_classes)(logits, torch.zeros(1, 4, 4, dtype=torch.uint8)).item() == 0


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_a_float32_loss_that_cannot_overflow(name, dtype):
    logits = torch.full((1, 1, 512, 512), 8.0, dtype=dtype)
    loss = make(name, 2)(logits, torch.ones(1, 512, 512))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss < 0.01


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_ignored_pixels_change_nothing(name, num_classes):
    logits, mask = random_batch(num_classes)
    loss = make(name, num_classes)
    mask[..., 5:] = IGNORED
    without = loss(logits[..., :5], mask[..., :5])
    assert loss(logits, mask).item() == pytest.approx(without.item(), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss(logits, mask), logits)
    assert gradient[..., :5].any()
    assert not gradient[..., 5:].any()


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_volume_is_no_different(name, num_classes):
    """One slice that is seen as a volume, and a volume that has more."""
    logits, mask = random_batch(num_classes)
    loss = make(name, num_classes)
    if "cldice" in name:  # a slice alone is 0 thick, and so has other neighbours
        assert torch.isfinite(loss(logits[:, :, None].expand(-1, -1, 3, -1, -1), mask[:, None].expand(-1, 3, -1, -1)))
    else:
        assert loss(logits[:, :, None], mask[:, None]).item() == pytest.approx(loss(logits, mask).item(), rel=1e-6)


def in_parts(target: Tensor, loss: Loss) -> Denominators:
    """Those of a batch of five, summed over its parts."""
    wholes = [loss.denominators(target[part]) for part in PARTS]
    return Denominators(sum(one.images for one in wholes), sum(one.weight for one in wholes))


PARTS = (slice(0, 1), slice(1, 3), slice(3, 5))


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_parts_of_a_batch_add_up_to_it(name, num_classes):
    loss = make(name, num_classes)
    logits, mask = random_batch(num_classes, images=5)
    together = loss(logits, mask)
    (gradient,) = torch.autograd.grad(together, logits)
    whole = in_parts(mask, loss)
    expected = loss.denominators(mask)
    assert (whole.images, whole.weight) == (expected.images, pytest.approx(expected.weight))
    summed = torch.stack([loss(logits[part], mask[part], whole) for part in PARTS]).sum()
    assert summed.item() == pytest.approx(together.item(), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(summed, logits)[0], gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_sample_that_is_ignored_everywhere_adds_exactly_nothing(name, num_classes):
    loss = make(name, num_classes)
    logits, mask = random_batch(num_classes)
    ghost, nowhere = logits[-1:], mask[-1:]
    none = loss.denominators(nowhere, images=0)
    assert (none.images, none.weight) == (0, 0)
    for whole in (none, loss.denominators(mask)):
        value = loss(ghost, nowhere, whole)
        assert value.item() == 0
        (gradient,) = torch.autograd.grad(value, logits)
        assert not gradient.any()
    kept = loss(logits[:-1], mask[:-1])
    assert loss(logits, mask, loss.denominators(mask, images=3)).item() == pytest.approx(kept.item(), rel=1e-6)


def heads_of(logits: Tensor) -> list[Tensor]:
    """Three heads: as fine as the target, coarser by 2 and by 4."""
    return [logits[..., ::factor, ::factor] for factor in (1, 2, 4)]


def test_a_coarse_head_sees_the_middle_of_each_cell():
    rows = torch.arange(10).view(1, 10, 1).expand(1, 10, 6)
    assert downsample_target(rows, (5, 3))[0, :, 0].tolist() == [1, 3, 5, 7, 9]
    assert downsample_target(rows, (3, 2))[0, :, 0].tolist() == [2, 6, 9]
    assert downsample_target(rows, (4, 2))[0, :, 0].tolist() == [1, 4, 7, 9]
    assert downsample_target(rows, (10, 6)) is rows
    with pytest.raises(ValueError, match="not coarser"):
        downsample_target(rows, (5, 6))
    assert downsample_target(rows[:, :5, :5], (2, 2))[0, :, 0].tolist() == [2, 4]  # by 4, though 3 would fit too
    volume = torch.arange(5).view(1, 5, 1, 1).expand(1, 5, 4, 4)
    assert downsample_target(volume, (3, 2, 2))[0, :, 0, 0].tolist() == [1, 3, 4]
    assert downsample_target(volume, (5, 2, 2))[0, :, 0, 0].tolist() == [0, 1, 2, 3, 4]  # an axis that is kept
    assert downsample_target(volume.movedim(1, 3), (2, 2, 5))[0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="not coarser"):
        downsample_target(volume, (6, 2, 2))


def test_deep_supervision_by_hand():
    """Cross-entropy of each head divided by its own share of the pixels."""
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    mask[0, 1::2, 1::2] = 1  # all that the coarse head sees
    fine, coarse = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 2, 2), math.log(3))
    loss = loss_for("bce", 2)
    value = loss.deep([fine, coarse], (0.75, 0.25), mask, loss.denominators(mask))
    assert value.item() == pytest.approx(0.75 * math.log(2) + 0.25 * math.log(4 / 3))
    assert loss.deep([fine, coarse], (1, 0), mask).item() == pytest.approx(math.log(2))


def test_a_head_of_no_weight_has_a_gradient_of_zero():
    logits, mask = random_batch(2)
    heads = [head.detach().requires_grad_() for head in heads_of(logits)]
    loss_for("bce+dice", 2).deep(heads, (1, 0.5, 0), mask).backward()
    assert heads[0].grad.any()
    assert heads[1].grad.any()
    assert heads[2].grad is not None
    assert not heads[2].grad.any()


@pytest.mark.parametrize("name", EXPRESSIONS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_parts_add_up_for_several_heads_too(name, num_classes):
    loss, head_weights = make(name, num_classes), (0.5, 0.3, 0.2)
    logits, mask = random_batch(num_classes, images=5)
    together = loss.deep(heads_of(logits), head_weights, mask)
    (gradient,) = torch.autograd.grad(together, logits)
    whole = in_parts(mask, loss)
    summed = torch.stack([loss.deep(heads_of(logits[part]), head_weights, mask[part], whole) for part in PARTS]).sum()
    assert summed.item() == pytest.approx(together.item(), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(summed, logits)[0], gradient, rtol=1e-5, atol=1e-8)
    ghost = loss.deep(heads_of(logits[-1:]), head_weights, mask[-1:], whole)
    assert ghost.item() == 0
    assert not torch.autograd.grad(ghost, logits)[0].any()


def test_one_head_is_no_different_from_none():
    logits, mask = random_batch(3)
    loss = make("bce+dice", 3)
    assert loss.deep([logits], (1.0,), mask, loss.denominators(mask)) == loss(logits, mask)


def test_where_no_class_is_background_regions_of_the_first_count_too():
    logits = torch.zeros(1, 3, 1, 4)
    logits[0, 0, 0, :] = 50  # the first class everywhere
    mask = torch.tensor([[[0, 0, 1, 2]]])
    nothing = 1 - 1 / 2  # of a single pixel that isn't found, with a smooth of 1
    assert loss_for("dice", 3)(logits, mask).item() == pytest.approx(nothing)
    first = 1 - (2 * 2 + 1) / (2 + 4 + 1)
    assert loss_for("dice", 3, first=0)(logits, mask).item() == pytest.approx((first + 2 * nothing) / 3)
