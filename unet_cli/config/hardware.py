"""Settings of what computes: device, precision, batch size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from unet_cli.config.base import setting
from unet_cli.config.data import Reading
from unet_cli.errors import UserError

CPU_TRAIN_BATCH, CPU_PREDICT_BATCH, GPU_PREDICT_BATCH = 4, 1, 8  # images
Precision = Literal["float32", "bf16", "float16"]  # that networks compute in


def parse_batch_size(text: str) -> int | None:
    """'8' -> 8; 'auto' -> None. Raises UserError."""
    if str(text) == "auto":
        return None
    if not re.fullmatch(r"\d{1,9}", str(text)):
        raise UserError(f"'{text}' is no batch size: write a whole number, or auto")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class Hardware(Reading):
    """What computes, and how. The same in every command that runs a network."""

    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto", help="Device to compute on; auto takes a GPU if there is one.", panel="Hardware"
    )
    precision: Literal["auto", "float32", "bf16", "float16"] = setting(
        "auto", help="Number format of the network's arithmetic. auto: bf16 on GPUs that have it, else "
        "float16 there; bf16 on CPUs that are fast at it, else float32.", panel="Hardware",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Batches(Hardware):
    """How many images the network sees at once. The same in training and prediction."""

    batch_size: int | None = setting(
        None, help="Batch size of each process. auto: in training "
        f"{CPU_TRAIN_BATCH} on a CPU, or fewer if memory is short, and on a GPU the smallest that a trial finds nearly "
        f"the fastest; in prediction {CPU_PREDICT_BATCH} on a CPU and {GPU_PREDICT_BATCH} on a GPU.  [default: auto]",
        panel="Hardware", minimum=1, parse=parse_batch_size, metavar="NUMBER",
    )  # fmt: skip
    compile: bool = setting(
        False, help="Compile the network first (a minute or more): pays off for thousands of images.", panel="Hardware"
    )


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Hardware):
    """What `unet bench` can be told."""

    rounds: int = setting(5, help="Number of times that each is timed, in turn.", panel="Benchmark", minimum=1)
    width: int = setting(64, help="Channels of the network's first level.", panel="Benchmark", minimum=1)
    images: int = setting(8, help="Number of images to predict from disk to disk.", panel="Benchmark", minimum=1)
    masks: int = setting(16, help="Number of masks to evaluate.", panel="Benchmark", minimum=1)
