"""What is timed by `unet bench`, each beside the plain way of doing the same."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from unet_cli.checkpoint import Checkpoint
from unet_cli.config import Inference, ModelConfig, PredictConfig, Preprocessing
from unet_cli.data.labels import LabelMap
from unet_cli.data.sample import draw_pair
from unet_cli.device import Compute
from unet_cli.files import writable_folder
from unet_cli.inference.batch import predict_all
from unet_cli.inference.jobs import find_jobs
from unet_cli.inference.member import make_member
from unet_cli.inference.predictor import Predictor
from unet_cli.models import build_model
from unet_cli.pace import Pace
from unet_cli.training.losses import bce_dice

Timed = Callable[[], object]

SIZE = 512
PHOTO = (1024, 768)  # width and height of the images that are predicted from disk to disk
MEAN, STD = 128.0, 64.0


def steps(width: int, compute: Compute) -> tuple[Timed, Timed]:
    """Forward, loss, backward and step in the layout and format of `unet train`, and the plain ones."""

    def step_of(tuned: bool) -> Timed:
        layout = torch.channels_last if tuned else torch.contiguous_format
        model = build_model(ModelConfig(base_channels=width)).to(compute.device).to(memory_format=layout)
        optimizer = torch.optim.Adam(model.parameters(), fused=tuned and compute.device.type in ("cpu", "cuda") or None)
        image = torch.randn(2, 3, 256, 256, device=compute.device).contiguous(memory_format=layout)
        mask = torch.rand(2, 256, 256, device=compute.device) > 0.5

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with compute.autocast() if tuned else torch.autocast(compute.device.type, enabled=False):
                logits = model(image)
            bce_dice(logits, mask).backward()
            optimizer.step()

        return step

    return step_of(True), step_of(False)


def forwards(width: int, compute: Compute) -> tuple[Timed, Timed]:
    """A forward pass in the form that `unet predict` gives the network, and the plain one."""
    checkpoint = untrained(width)
    tuned = make_member(checkpoint, compute, Inference()).model
    plain = checkpoint.build().to(compute.device).eval()
    image = torch.randn(1, 3, SIZE, SIZE, device=compute.device)
    ready = image.to(next(tuned.parameters()).dtype).contiguous(memory_format=torch.channels_last)
    return _inferring(tuned, ready), _inferring(plain, image)


def disk_to_disk(width: int, compute: Compute, images: int) -> dict[str, float]:
    """Seconds an image takes from a JPEG to a mask: 'plain_loop', 'predict', and of it the 'network' alone.

    The plain loop opens, resizes, computes in float32, resizes, thresholds and saves one image after the other, as a
    script would; it goes first, before anything is tuned.
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
        jobs, _ = find_jobs(config, "resize", (), (), checkpoint.preprocessing)
        list(predict_all(predictor, config, jobs[:1], Pace("writing")))
        start = time.perf_counter()
        list(predict_all(predictor, config, jobs[1:], Pace("writing")))
        predict = time.perf_counter() - start

        view = next(predictor.read(jobs[0].image).views())
        batches = -(-images // predictor.batch_size)
        start = time.perf_counter()
        for _ in range(batches):
            predictor.probabilities([view] * predictor.batch_size)
        network = (time.perf_counter() - start) / (batches * predictor.batch_size)
    return {"plain_loop": plain_loop / images, "predict": predict / images, "network": network}


def untrained(width: int) -> Checkpoint:
    """A network for colour images of 8 bits with fresh weights."""
    model = ModelConfig(base_channels=width)
    preprocessing = Preprocessing(size=SIZE, in_channels=3, dtype="uint8", mean=(MEAN,) * 3, std=(STD,) * 3)
    labels = LabelMap((0, 255), ("background", "foreground"))
    return Checkpoint(model, preprocessing, labels, build_model(model).state_dict())


def seconds(function: Timed, compute: Compute) -> float:
    """What one call takes, on a GPU to its end."""
    start = time.perf_counter()
    function()
    if compute.device.type != "cpu":
        torch.get_device_module(compute.device).synchronize()
    return time.perf_counter() - start


def _inferring(model: torch.nn.Module, image: torch.Tensor) -> Timed:
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
def _plain_loop(model: torch.nn.Module, paths: Sequence[Path], folder: Path, compute: Compute) -> None:
    for path in paths:
        with Image.open(path) as photo:
            image = torch.from_numpy(np.array(photo.convert("RGB").resize((SIZE, SIZE)))).permute(2, 0, 1)[None].float()
        probs = model(((image - MEAN) / STD).to(compute.device)).sigmoid()
        probs = F.interpolate(probs, size=PHOTO[::-1], mode="bilinear")
        mask = (probs[0, 0] >= 0.5).cpu().numpy()
        Image.fromarray((mask * 255).astype(np.uint8)).save(folder / f"{path.stem}.png")
