"""Two real processes under torchrun: what they exchange, and that their gradients are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unet_cli.config.losses import LOSSES
from unet_cli.config.model import IGNORED, ModelConfig
from unet_cli.models import build_model
from unet_cli.system.distributed import World, elastic_identity, restarts, together
from unet_cli.training.losses.loss import Denominators, Loss, loss_for

CPU = torch.device("cpu")
NETWORK = ModelConfig(num_classes=3, base_channels=4, depth=1, norm="group")
LAST_BATCH = [0, 1, 2]  # of one process; of two processes with two samples each, the second one lacks one
WEIGHTS = [0.7, 1.5, 3.0]
LOSSES_TRIED = [name if name != "boundary" else "dice+0.5*boundary" for name in LOSSES]


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """Three images and targets; ignored are most pixels of the first, none of the second, some of the third."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(3, 3, 12, 10, generator=generator)
    mask = torch.randint(0, 3, (3, 12, 10), generator=generator)
    mask[0, 1:] = IGNORED
    mask[2, :, :3] = IGNORED
    return image, mask


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(NETWORK).to(memory_format=torch.channels_last)


def gradients(world: World, loss: Loss, part_size: int, checkpointing: bool) -> dict[str, list[float]]:
    """Of this process's share of the last batch, in parts; all have as many samples, the missing are ghosts."""
    image, mask = samples()
    indices = world.share(LAST_BATCH)
    real = len(indices)
    indices += [0] * (-(-len(LAST_BATCH) // world.count) - real)
    image, mask = image[indices], mask[indices]
    mask[real:] = IGNORED
    mine = loss.denominators(mask, images=real)
    whole = Denominators(world.sum(mine.images), world.sum(mine.weight))

    model = network(seed=world.rank)  # DistributedDataParallel starts all with the first one's
    model.gradient_checkpointing = checkpointing
    wrapped = world.distributed(model, CPU)
    parts = list(zip(image.split(part_size), mask.split(part_size), strict=True))
    for part_image, part_mask in parts[:-1]:
        with world.accumulating(wrapped):
            (loss(wrapped(part_image), part_mask, whole) * world.count).backward()
    (loss(wrapped(parts[-1][0]), parts[-1][1], whole) * world.count).backward()
    return {name: parameter.grad.flatten().tolist() for name, parameter in model.named_parameters()}


def all_gradients(world: World, part_size: int) -> dict[str, dict[str, list[float]]]:
    losses = {name: loss_for(name, NETWORK.num_classes, WEIGHTS) for name in LOSSES_TRIED}
    return {name: gradients(world, loss, part_size, name == "ce") for name, loss in losses.items()}


def what_a_process_sees() -> dict[str, Any]:
    with together(CPU) as world:
        norm = nn.BatchNorm1d(2)
        norm.running_mean[:] = world.rank
        norm.num_batches_tracked += 4
        world.average_buffers(norm.buffers())
        wrapped = world.distributed(network(seed=world.rank), CPU)
        seen = {
            "rank": world.rank,
            "count": world.count,
            "is_first": world.is_first,
            "sum": world.sum(torch.tensor([1.0, 10.0 * world.rank])).tolist(),
            "any": [world.any(False), world.any(world.rank == 1), world.any(True)],
            "gathered": world.gathered({"rank": world.rank}),
            "first": world.first(["a", None] if world.is_first else None),
            "lowest": world.lowest(7 - world.rank),
            "share": world.share([5, 6, 7]),
            "identity": elastic_identity(),
            "restarts": restarts(),
            "running": [norm.running_mean.tolist(), norm.num_batches_tracked.item()],
            "weights": sum(parameter.sum().item() for parameter in wrapped.parameters()),
            "gradients": [all_gradients(world, part_size) for part_size in (1, 2)],
        }
        world.wait()
    return seen | {"left": not torch.distributed.is_initialized()}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder in which each of two processes wrote what it saw, before the first one failed; and how that ended."""
    folder = tmp_path_factory.mktemp("processes")
    return folder, launch(folder)


@pytest.fixture(scope="module")
def seen(job) -> list[dict[str, Any]]:
    """What each of two processes saw, in order of rank."""
    return [json.loads((job[0] / f"{rank}.json").read_text()) for rank in range(2)]


def launch(folder: Path) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*torchrun, __file__, str(folder)],
        cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_values_are_exchanged(seen):
    assert [each["rank"] for each in seen] == [0, 1]
    assert [each["is_first"] for each in seen] == [True, False]
    assert [each["share"] for each in seen] == [[5, 7], [6]]
    for each in seen:
        assert each["count"] == 2
        assert each["sum"] == [2, 10]
        assert each["any"] == [False, True, True]
        assert each["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert each["first"] == ["a", None]
        assert each["lowest"] == 6
        assert each["running"] == [[0.5, 0.5], 4]
        assert each["restarts"] == 0
        assert each["left"]
    assert seen[0]["identity"] == seen[1]["identity"]
    assert seen[0]["identity"]


def test_all_processes_start_with_the_weights_of_the_first(seen):
    expected = sum(parameter.sum().item() for parameter in network(seed=0).parameters())
    assert [each["weights"] for each in seen] == [pytest.approx(expected, rel=1e-6)] * 2


@pytest.mark.parametrize("name", LOSSES_TRIED)
def test_the_gradients_of_two_processes_are_those_of_one(seen, name):
    """Also in parts of one image, with ignored pixels unevenly spread, and with a ghost in the second process."""
    expected = gradients(World(), loss_for(name, NETWORK.num_classes, WEIGHTS), part_size=3, checkpointing=False)
    assert max(abs(value) for value in expected["head.weight"]) > 1e-3
    for each in seen:
        for gradient in each["gradients"]:
            assert gradient[name].keys() == expected.keys()
            for parameter, values in expected.items():
                assert gradient[name][parameter] == pytest.approx(values, rel=1e-4, abs=1e-6), parameter


def test_a_process_that_fails_ends_the_job(job):
    _, done = job
    assert done.returncode != 0
    assert "ValueError: on purpose" in done.stderr


def test_a_world_of_one_exchanges_nothing(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with together(CPU) as world:
        assert world == World(rank=0, count=1)
        assert world.is_first
        assert world.sum(torch.tensor(3)) == 3
        assert (world.any(False), world.any(True)) == (False, True)
        assert (world.first("a"), world.gathered("a"), world.lowest(4)) == ("a", ["a"], 4)
        assert world.share([3, 1, 2]) == [3, 1, 2]
        model = nn.Linear(1, 1)
        assert world.distributed(model, CPU) is model
        with world.accumulating(model):
            world.wait()
        world.average_buffers(model.buffers())
        assert not torch.distributed.is_initialized()


def test_a_job_is_known_by_its_name_or_by_the_process_that_runs_it(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert (elastic_identity(), restarts()) == (None, 0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job7")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert (elastic_identity(), restarts()) == ("job7", 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    unnamed = elastic_identity()
    assert unnamed is not None
    assert unnamed.endswith(f"-{os.getppid()}")


def fail() -> None:
    """The first process fails where the second one waits for it."""
    with together(CPU) as world:
        if not world.is_first:
            world.sum(torch.ones(1))
            world.sum(torch.ones(1))
        world.sum(torch.ones(1))
        raise ValueError("on purpose")


if __name__ == "__main__":
    result = what_a_process_sees()
    (Path(sys.argv[1]) / f"{result['rank']}.json").write_text(json.dumps(result))
    fail()
