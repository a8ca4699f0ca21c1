"""Pretrained weights of torchvision's classifiers for our encoders, from a file or downloaded."""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unet_cli.errors import UserError, explain
from unet_cli.system.console import few
from unet_cli.system.tensors import Unreadable, load_tensors

TIMEOUT = 20.0  # seconds without an answer of the server


def encoder_state(encoder: str, weights: str) -> dict[str, Tensor]:
    """The state dict of torchvision's classifier, for load_encoder.

    encoder: name in ENCODERS. weights: a file, or imagenet for torchvision's default weights, cached or downloaded.
    Raises UserError where the weights aren't available, or the file is damaged or of another kind.
    """
    if weights.lower() == "imagenet":
        return _imagenet_state(encoder)
    path = Path(weights)
    remedy = f"give --encoder-weights the state dict of torchvision's {encoder}, or imagenet"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}: {remedy}")
    try:
        state = load_tensors(path)
    except OSError as error:
        raise explain(error, path) from error
    except Unreadable as error:
        raise UserError(f"{path} is damaged, or holds more than tensors and plain values: {remedy}") from error
    if not _is_state_dict(state):
        what = "holds " + few(state) if isinstance(state, dict) and state else f"is a {type(state).__name__}"
        raise UserError(f"{path} is not a state dict, names with a tensor each, but {what}: {remedy}")
    return state


def _imagenet_state(encoder: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    source = get_model_weights(encoder).DEFAULT
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cached = folder / source.url.rpartition("/")[2]
    remedy = f"fetch {source.url} elsewhere, and put it into {folder} or give it with --encoder-weights FILE"
    try:
        with redirect_stdout(sys.stderr), _timeout():  # torch.hub prints to stdout, which is for results
            return source.get_state_dict(
                progress=sys.stderr.isatty(), check_hash=True, map_location="cpu", weights_only=True
            )
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"the weights of {encoder} could not be downloaded ({error}): {remedy}") from error
    except Exception as error:  # a wrong hash, or a file that torch can't read
        what = (
            f"{cached} is damaged: delete it" if cached.exists() else f"the download was damaged ({error}): try again"
        )
        raise UserError(f"{what}, or {remedy}") from error


@contextmanager
def _timeout() -> Iterator[None]:
    """Set a timeout for downloads, for firewalls that drop packets silently; torch.hub itself has no timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _is_state_dict(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and bool(state)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items())
    )
