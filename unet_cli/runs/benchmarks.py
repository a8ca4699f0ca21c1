"""The benchmarks of `unet bench`, each compared with a plain implementation of the same task."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors
from torchvision.transforms import v2

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.evaluation import Scoring
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Cleaning, Inference, PredictConfig
from unet_cli.data.labels import LabelMap
from unet_cli.data.samples.augment import AUGMENTATIONS, Augmentation, augment
from unet_cli.data.source import Pair, Source
from unet_cli.data.synthetic import draw_pair
from unet_cli.evaluation.answers import of_masks
from unet_cli.evaluation.evaluate import evaluate
from unet_cli.evaluation.ruler import Ruler
from unet_cli.evaluation.scores import sampled
from unet_cli.inference.jobs import find_jobs
from unet_cli.inference.member import make_member
from unet_cli.inference.pipeline import predict_all
from unet_cli.inference.predictor import Predictor
from unet_cli.models import build_model
from unet_cli.system.console import Console
from unet_cli.system.device import Compute, compiling, finish
from unet_cli.system.files import writable_folder
from unet_cli.system.stage_times import StageTimes
from unet_cli.training.losses.loss import loss_for

Timed = Callable[[], object]

SIZE = 512
PHOTO = (1024, 768)  # (width, height) of the images that are predicted from disk to disk
MEAN, STD = 128.0, 64.0
AUGMENTED_BATCHES, AUGMENTED_BATCH = 2, 4  # number of batches, and images in each
BILINEAR = v2.InterpolationMode.BILINEAR


def steps(width: int, compute: Compute) -> tuple[Timed, Timed]:
    """A training step (forward, loss, backward, step) in the memory layout and precision of `unet train`, and a plain
    one."""
    tuned, plain = (_step_of(_network(width, compute, tuned), compute, 2, 256, tuned) for tuned in (True, False))
    return tuned, plain


def forwards(width: int, compute: Compute) -> tuple[Timed, Timed]:
    """A forward pass of the network as `unet predict` prepares it, and a plain one."""
    checkpoint = untrained(width)
    tuned = make_member(checkpoint, compute, Inference(), "resize").model
    plain = checkpoint.build().to(compute.device).eval()
    image = torch.randn(1, 3, SIZE, SIZE, device=compute.device)
    ready = image.to(next(tuned.parameters()).dtype).contiguous(memory_format=torch.channels_last)
    return _inferring(tuned, ready), _inferring(plain, image)


def disk_to_disk(width: int, compute: Compute, images: int) -> dict[str, float]:
    """Seconds for an image from JPEG to mask: 'plain_loop', 'predict', and the part of the 'network' in the latter.

    The plain loop opens, resizes, computes in float32, resizes, thresholds and saves one image after the other, as a
    script would; it runs first, before any global setting is tuned.
    """
    checkpoint = untrained(width)
    with tempfile.TemporaryDirectory() as folder:
        paths = _photos(writable_folder(Path(folder) / "images"), images + 1)
        model = checkpoint.build().to(compute.device).eval()
        plain_folder = writable_folder(Path(folder) / "plain")
        _plain_loop(model, paths[:1], plain_folder, compute)
        start = time.perf_counter()
        _plain_loop(model, paths[1:], plain_folder, compute)
        plain_loop = time.perf_counter() - start

        config = PredictConfig(weights=(), input=str(paths[0].parent), output=Path(folder) / "masks")
        predictor = Predictor([checkpoint], compute, config)
        jobs, *_ = find_jobs(config, "resize", (), (), checkpoint.preprocessing)
        list(predict_all(predictor, config, jobs[:1], StageTimes("writing")))
        start = time.perf_counter()
        list(predict_all(predictor, config, jobs[1:], StageTimes("writing")))
        predict = time.perf_counter() - start

        view = next(predictor.read(jobs[0].image).views())
        batches = -(-images // predictor.batch_size)
        start = time.perf_counter()
        for _ in range(batches):
            predictor.probabilities([view] * predictor.batch_size)
        network = (time.perf_counter() - start) / (batches * predictor.batch_size)
    return {"plain_loop": plain_loop / images, "predict": predict / images, "network": network}


def augmentations(compute: Compute, size: int = SIZE) -> tuple[Timed, Timed]:
    """`full` augmentation of a few batches of RGB images and their masks, and the same with torchvision's transforms,
    sample by sample. Each call draws new parameters."""
    strength = AUGMENTATIONS["full"]
    assert strength is not None
    image = torch.rand(AUGMENTED_BATCH, 3, size, size, device=compute.device)
    mask = (image[:, 0] > 0.5).long()
    transforms = _torchvision_transforms(strength, size)
    calls = count()

    def ours() -> None:
        for _ in range(AUGMENTED_BATCHES):
            call = next(calls)
            augment(image, mask, strength, [(0, call, index) for index in range(AUGMENTED_BATCH)])

    def torchvision() -> None:
        for _ in range(AUGMENTED_BATCHES):
            pairs = [
                transforms(tv_tensors.Image(one), tv_tensors.Mask(two)) for one, two in zip(image, mask, strict=True)
            ]
            torch.stack([one for one, _ in pairs]), torch.stack([two for _, two in pairs])

    return ours, torchvision


def evaluations(folder: Path, count: int) -> tuple[Timed, Timed]:
    """All metrics of `unet evaluate` for masks on disk, and a plain loop that computes only the surface metrics with
    scipy. folder: empty folder for the masks."""
    pairs = _mask_files(folder, count)
    labels = LabelMap((0, 255), ("background", "cell"))

    def ours() -> None:
        answers = of_masks(pairs, labels, labels, Cleaning(), None, Console(quiet=True))
        sampled(evaluate(answers, labels, list(pairs), Scoring()))

    def plain() -> None:
        for pair, source in pairs.items():
            pred, target = (np.asarray(Image.open(one.path)) > 0 for one in (source, pair.mask))
            _plain_surfaces(pred, target)

    return ours, plain


def _plain_surfaces(pred: np.ndarray, target: np.ndarray) -> tuple[float, float, float, float]:
    """The metrics of compare_surfaces, computed with the usual scipy calls."""
    borders = [mask & ~binary_erosion(mask) for mask in (pred, target)]
    to_target = distance_transform_edt(~borders[1])[borders[0]]
    to_pred = distance_transform_edt(~borders[0])[borders[1]]
    both = np.concatenate([to_target, to_pred])
    width = Ruler().band_of("", pred.shape)
    bands = [mask & (distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] <= width) for mask in (pred, target)]
    overlap = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    hd95 = max(np.percentile(to_target, 95), np.percentile(to_pred, 95))
    return float(hd95), float(both.mean()), float((both <= Ruler().tolerance).mean()), float(overlap)


def _mask_files(folder: Path, count: int) -> dict[Pair, Source]:
    """Pairs with masks of the sample data, 512 x 512, and for each a prediction: the same mask, shifted by a few
    pixels."""
    pairs = {}
    for index in range(count):
        mask = np.asarray(
            Image.fromarray(draw_pair(seed=0, index=index % 50)[1]).resize((SIZE, SIZE), Image.Resampling.NEAREST)
        )
        paths = [folder / f"{index:05d}_{kind}.png" for kind in ("truth", "pred")]
        for path, pixels in zip(paths, (mask, np.roll(mask, (index % 5 - 2, 1 + index % 3), (0, 1))), strict=True):
            Image.fromarray(pixels).save(path)
        truth, pred = (Source((path,)) for path in paths)
        pairs[Pair(str(index), truth, truth)] = pred
    return pairs


def training_pace(
    width: int, compute: Compute, compiled: bool, batch_size: int = 16, size: int = SIZE, rounds: int = 10
) -> dict[str, float]:
    """Training on random images: 'images_per_second'; 'flops', floating-point operations for an image, forward and
    backward; 'bytes', peak GPU memory, 0 on other devices.

    Raises UserError where the network can't be compiled.
    """
    model = _network(width, compute, tuned=True)
    step = _step_of(model, compute, batch_size, size, tuned=True)
    with FlopCounterMode(display=False) as counter:  # before compilation, since it counts eager operators
        step()
    if compiled:
        model.compile(dynamic=False)
    on_gpu = compute.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(compute.device)
    with compiling():  # the first step compiles
        step()
    step()  # a second one to warm up
    seconds_each = seconds(lambda: [step() for _ in range(rounds)], compute) / rounds
    return {
        "images_per_second": batch_size / seconds_each,
        "flops": counter.get_total_flops() / batch_size,
        "bytes": torch.cuda.max_memory_allocated(compute.device) if on_gpu else 0,
    }


def matrix_peak(compute: Compute, size: int = 8192, rounds: int = 10) -> float:
    """Floating-point operations a second in products of large bf16 matrices, the best of 5 trials."""
    matrix = torch.randn(size, size, device=compute.device, dtype=torch.bfloat16)

    def products() -> None:
        for _ in range(rounds):
            torch.mm(matrix, matrix)

    seconds(products, compute)
    return rounds * 2 * size**3 / min(seconds(products, compute) for _ in range(5))


def untrained(width: int) -> Checkpoint:
    """A checkpoint for 8-bit colour images with random weights."""
    model = ModelConfig(base_channels=width)
    preprocessing = Preprocessing(size=SIZE, in_channels=3, dtype="uint8", mean=(MEAN,) * 3, std=(STD,) * 3)
    labels = LabelMap((0, 255), ("background", "foreground"))
    return Checkpoint(model, preprocessing, labels, build_model(model).state_dict())


def seconds(function: Timed, compute: Compute) -> float:
    """Seconds of one call, including the queued work on a GPU."""
    start = time.perf_counter()
    function()
    finish(compute.device)
    return time.perf_counter() - start


def _network(width: int, compute: Compute, tuned: bool) -> nn.Module:
    layout = torch.channels_last if tuned else torch.contiguous_format
    return build_model(ModelConfig(base_channels=width)).to(compute.device).to(memory_format=layout)


def _step_of(model: nn.Module, compute: Compute, batch_size: int, size: int, tuned: bool) -> Timed:
    layout = torch.channels_last if tuned else torch.contiguous_format
    optimizer = torch.optim.Adam(model.parameters(), fused=tuned and compute.device.type in ("cpu", "cuda") or None)
    image = torch.randn(batch_size, 3, size, size, device=compute.device).contiguous(memory_format=layout)
    mask = torch.randint(2, (batch_size, size, size), device=compute.device)
    loss = loss_for("bce+dice", num_classes=2)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with compute.autocast() if tuned else torch.autocast(compute.device.type, enabled=False):
            logits = model(image)
        loss(logits, mask).backward()
        optimizer.step()

    return step


def _turned(image: torch.Tensor, turns: int) -> torch.Tensor:
    """The image rotated by quarter turns; torchvision's type, image or mask, is kept."""
    return tv_tensors.wrap(torch.rot90(image, turns, (-2, -1)), like=image)


def _torchvision_transforms(strength: Augmentation, size: int) -> v2.Compose:
    """The changes of `full` with the same probabilities, for images in [0, 1] with a standard deviation of 1/4.

    It is the least work that torchvision offers: the crop zooms in, the other affine changes are one transform, and the
    displacements are torchvision's default; displacements as smooth as ours would take several times as long.
    """
    scale, chance = strength.scale, strength.chance
    zoomed = chance / 2  # probability of zooming in; that of zooming out is the same
    affine = v2.RandomAffine(strength.rotation, scale=(1 / scale, 1), shear=strength.shear, interpolation=BILINEAR)
    gamma = (1 / strength.gamma, strength.gamma)
    changes: list[tuple[v2.Transform, float]] = [
        (affine, 1 - (1 - chance) ** 2 * (1 - zoomed)),
        (v2.RandomResizedCrop(size, scale=(1 / scale**2, 1), ratio=(1, 1)), zoomed),
        (v2.ElasticTransform(), chance),
        (v2.Lambda(lambda image: v2.functional.adjust_gamma(image, random.uniform(*gamma)), tv_tensors.Image), chance),
        (v2.ColorJitter(contrast=(1 / strength.contrast, strength.contrast)), chance),
        (v2.ColorJitter(brightness=strength.brightness / 4), chance),
        (v2.GaussianBlur(7, (0.2 * strength.blur, strength.blur)), chance),
        (v2.GaussianNoise(sigma=strength.noise / 8), chance),
    ]
    turns = v2.RandomChoice([v2.Lambda(partial(_turned, turns=turns)) for turns in range(4)])
    by_chance = [v2.RandomApply([change], p=share) for change, share in changes]
    return v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), turns, *by_chance])


def _inferring(model: nn.Module, image: torch.Tensor) -> Timed:
    def forward() -> None:
        with torch.inference_mode():
            model(image)

    return forward


def _photos(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{index:03d}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        Image.fromarray(draw_pair(seed=0, index=index)[0]).resize(PHOTO).save(path, quality=90)
    return paths


@torch.inference_mode()
def _plain_loop(model: nn.Module, paths: Sequence[Path], folder: Path, compute: Compute) -> None:
    for path in paths:
        with Image.open(path) as photo:
            image = torch.from_numpy(np.array(photo.convert("RGB").resize((SIZE, SIZE)))).permute(2, 0, 1)[None].float()
        probs = model(((image - MEAN) / STD).to(compute.device)).sigmoid()
        probs = F.interpolate(probs, size=PHOTO[::-1], mode="bilinear")
        mask = (probs[0, 0] >= 0.5).cpu().numpy()
        Image.fromarray((mask * 255).astype(np.uint8)).save(folder / f"{path.stem}.png")
