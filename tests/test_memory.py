"""What is free, by files that a kernel could have written; what a step needs, by counting; the search, by tables."""

import platform
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from unet_cli.config.model import ModelConfig
from unet_cli.models import Geometry, Network
from unet_cli.system import memory as system
from unet_cli.system.device import Compute
from unet_cli.system.memory import total_memory
from unet_cli.training import batch_size as memory
from unet_cli.training.batch_size import (
    activation_bytes,
    available_bytes,
    cpu_batch_size,
    fastest_batch_size,
    plain_loss,
    step_bytes,
    trial,
)
from unet_cli.training.optimizers import make_optimizer

CPU = torch.device("cpu")
FLOAT32 = Compute(CPU, "float32")
GIB = 2**30
NARROW = ModelConfig(base_channels=16, depth=4)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Files in place of the kernel's: call with what MemAvailable is, and (folder, limit, used, inactive_file)."""

    def write(available=None, own="/", groups=()):
        for name in ("MEMINFO", "OWN_CGROUP", "CGROUPS"):
            monkeypatch.setattr(system, name, tmp_path / name)
        (tmp_path / "OWN_CGROUP").write_text(f"4:memory:/old\n0::{own}\n")
        if available is not None:
            (tmp_path / "MEMINFO").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available // 1024} kB\n")
        for folder, limit, used, inactive in groups:
            (group := tmp_path / "CGROUPS" / folder).mkdir(parents=True, exist_ok=True)
            (group / "memory.max").write_text(f"{limit}\n")
            (group / "memory.current").write_text(f"{used}\n")
            (group / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")

    return write


def test_free_memory_is_what_the_kernel_says(kernel):
    kernel(available=3 * GIB)
    assert available_bytes(CPU) == 3 * GIB


def test_a_container_has_what_its_limit_leaves(kernel):
    kernel(available=8 * GIB, groups=[("", 4 * GIB, 3 * GIB, GIB)])
    assert available_bytes(CPU) == 2 * GIB


def test_a_container_without_a_limit_has_what_the_machine_has(kernel):
    kernel(available=8 * GIB, groups=[("", "max", 3 * GIB, GIB)])
    assert available_bytes(CPU) == 8 * GIB


@pytest.mark.parametrize(("outer", "inner"), [(4, 2), (2, 4)])
def test_of_nested_limits_the_narrowest_counts(kernel, outer, inner):
    groups = [("slurm", outer * GIB, GIB, 0), ("slurm/job", inner * GIB, GIB, 0), ("other", GIB, GIB, 0)]
    kernel(available=8 * GIB, own="/slurm/job", groups=groups)
    assert available_bytes(CPU) == GIB


def test_a_limit_that_is_passed_leaves_nothing(kernel):
    kernel(available=8 * GIB, groups=[("", GIB, 2 * GIB, 0)])
    assert available_bytes(CPU) == 0


@pytest.mark.parametrize("own", ["/slurm/job", "/"])  # in a container the root is its own group
def test_all_the_memory_is_that_of_the_narrowest_limit_that_we_are_under(kernel, own):
    kernel(available=8 * GIB, own=own, groups=[("", 3 * GIB, 0, 0), ("slurm", 2 * GIB, 0, 0), ("slurm/job", GIB, 0, 0)])
    assert total_memory() == (GIB if own == "/slurm/job" else 3 * GIB)


def test_limits_of_control_groups_of_version_1_count_too(kernel, tmp_path):
    kernel(available=8 * GIB)
    for folder, limit, used in (("old", 2 * GIB, GIB), ("", 2**63 - 4096, 7 * GIB)):
        (group := tmp_path / "CGROUPS" / "memory" / folder).mkdir(parents=True, exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (group / "memory.usage_in_bytes").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"inactive_file 7\ntotal_inactive_file {GIB // 2}\n")
    assert (total_memory(), available_bytes(CPU)) == (2 * GIB, 2 * GIB - GIB // 2)


def test_a_limit_counts_where_what_is_used_is_not_shown(kernel, tmp_path):
    kernel(available=8 * GIB, groups=[("", 2 * GIB, GIB, 0)])
    for name in ("memory.current", "memory.stat"):
        (tmp_path / "CGROUPS" / name).unlink()
    assert (total_memory(), available_bytes(CPU)) == (2 * GIB, 2 * GIB)


def test_a_system_that_does_not_say_has_all_its_memory(kernel):
    kernel()
    assert available_bytes(CPU) == total_memory()


def test_this_machine_has_some_memory():
    assert 0 < available_bytes(CPU) <= total_memory()


def test_free_memory_of_a_gpu_includes_what_torch_holds_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert available_bytes(torch.device("cuda")) == 15


def test_what_is_alive_at_a_time_is_counted_once():
    with memory._PeakMemory() as ledger:
        one = torch.empty(100)
        two = one + 1  # 800 bytes
        two.add_(1)
        view = two[:50]
        del one, two  # 400: the view keeps its tensor
        three = view * 2  # 600
        del view  # 200
        four = torch.empty(120)  # 680
        assert ledger.peak == 800
        five = torch.empty(40)  # 840
        assert ledger.peak == 840
        del three, four, five


def kept_for_the_gradient(config, side):
    """By hand: four tensors of each double convolution (before and after each norm), and what it is given."""
    width, total = config.base_channels, 0
    for level in range(config.depth + 1):
        pixels, channels = (side // 2**level) ** 2, width * 2**level
        total += 4 * channels * pixels * (1 if level == config.depth else 2)
        total += channels // 2 * pixels if level else 0  # the pooled input, without its indices
        total += 2 * channels * pixels if level < config.depth else 0  # skip and upsampled, concatenated
    return 4 * total


def test_activations_are_those_that_the_gradient_needs_and_little_more():
    kept = kept_for_the_gradient(NARROW, 128)
    assert kept < activation_bytes(NARROW, (3, 128, 128)) < 1.25 * kept


def test_activations_grow_with_pixels_and_width_not_with_weights():
    usual = activation_bytes(NARROW, (3, 128, 128))
    assert activation_bytes(NARROW, (3, 256, 256)) == pytest.approx(4 * usual, rel=0.01)
    assert activation_bytes(ModelConfig(base_channels=32), (3, 128, 128)) == pytest.approx(2 * usual, rel=0.02)


def test_checkpointing_needs_less_but_the_block_at_hand():
    usual, less = (activation_bytes(NARROW, (3, 128, 128), flag) for flag in (False, True))
    last_block = 4 * 128**2 * 4 * 16  # bytes of what the widest double convolution keeps
    assert last_block < less < 0.65 * usual


def test_counting_computes_nothing():
    wide = ModelConfig(base_channels=64, num_classes=5)
    assert activation_bytes(wide, (3, 8192, 8192)) > 300 * GIB


@pytest.mark.parametrize(("classes", "channels"), [(2, 1), (5, 5)])
def test_loss_of_each_kind_of_logits(classes, channels):
    target = torch.arange(2 * 3 * 3).reshape(2, 3, 3) % classes
    certain = nn.functional.one_hot(target, classes).movedim(-1, 1).float()[:, -channels:] * 200 - 100
    assert plain_loss(certain, target) == pytest.approx(0, abs=1e-6)
    assert plain_loss(-certain, target) > 10


@pytest.mark.parametrize("images", [4, 3, 2, 1, 0.5])
def test_a_cpu_takes_the_usual_batch_or_what_fits(monkeypatch, images):
    """Memory for so many images; at least one is tried in any case."""
    shape = (3, 64, 64)
    needed = step_bytes(NARROW, shape, 1, False) + (images - 1) * memory.FACTOR * activation_bytes(NARROW, shape)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed / memory.CPU_SHARE + 1)
    assert cpu_batch_size(NARROW, shape, 4, False) == max(1, int(images))
    assert cpu_batch_size(NARROW, shape, 1, False) == 1


def test_more_images_fit_with_checkpointing(monkeypatch):
    shape = (3, 256, 256)
    monkeypatch.setattr(memory, "available_bytes", lambda device: step_bytes(NARROW, shape, 4, True) / 0.79)
    assert cpu_batch_size(NARROW, shape, 4, True) == 4
    assert cpu_batch_size(NARROW, shape, 4, False) < 4


@pytest.mark.parametrize(
    ("speeds", "most", "best", "tried"),
    [
        pytest.param([10, 20, 40, 80, None], 100, 8, [1, 2, 4, 8, 16], id="as large as memory allows"),
        pytest.param([10, 20, 21, 21, 20, None], 100, 2, [1, 2, 4, 8, 16], id="no more once nothing is gained"),
        pytest.param([10, 17.9, 20, None], 100, 4, [1, 2, 4, 8], id="more than 10 % slower"),
        pytest.param([10, 18, 20, None], 100, 2, [1, 2, 4, 8], id="10 % slower"),
        pytest.param([10, 20, 15, None], 100, 2, [1, 2, 4, 8], id="slower again"),
        pytest.param([10, 20, 40, 80, 160], 7, 4, [1, 2, 4], id="a small data set"),
        pytest.param([10, 20, 40, 80, 160], 8, 8, [1, 2, 4, 8], id="a data set of exactly a batch"),
        pytest.param([10], 1, 1, [1], id="a single image"),
        pytest.param([None], 100, 1, [1], id="nothing fits"),
        pytest.param([10, None, 100], 100, 1, [1, 2], id="nothing is tried beyond what fails"),
    ],
)
def test_the_smallest_batch_that_is_nearly_fastest(speeds, most, best, tried):
    asked = []

    def throughput(size):
        asked.append(size)
        return speeds[len(asked) - 1]

    assert fastest_batch_size(throughput, most) == best
    assert asked == tried


class Watched(Network):
    """A network that notes what it was given, and can run out of memory."""

    geometry = Geometry()
    seen = []

    def __init__(self, channels=1, fails=None):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Conv2d(4, channels, 1)
        self.fails = fails

    def forward(self, image):
        if self.fails and (not self.training or not self.fails[1]):
            raise RuntimeError(self.fails[0])
        self.seen.append((self.training, torch.is_inference_mode_enabled(), tuple(image.shape)))
        return self.head(self.body(image))


@pytest.fixture(autouse=True)
def nothing_seen():
    Watched.seen.clear()


def adam(parameters):
    return make_optimizer("adam", parameters, 0.1, 0.0, CPU)


@pytest.mark.parametrize(("classes", "channels"), [(2, 1), (3, 3)])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_trial_trains_and_predicts_a_whole_batch(classes, channels, precision):
    speed = trial(Watched(channels), Compute(CPU, precision), (3, 8, 8), classes, adam)(2)
    assert speed > 0
    steps = memory.WARMUP_STEPS + memory.TIMED_STEPS
    assert Watched.seen == [(True, False, (2, 3, 8, 8))] * steps + [(False, True, (2, 3, 8, 8))]


def test_throughput_is_images_a_second(monkeypatch):
    times = iter([10.0, 12.0, 13.0])
    monkeypatch.setattr(memory, "_time", lambda device: next(times))
    assert trial(Watched(), FLOAT32, (3, 8, 8), 2, adam)(3) == memory.TIMED_STEPS * 3 / 2.0


def test_a_trial_leaves_network_and_random_state_alone():
    model = Watched().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    assert trial(model, FLOAT32, (3, 8, 8), 2, adam)(2) > 0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


@pytest.mark.parametrize("only_validation", [False, True])
def test_out_of_memory_is_no_throughput(only_validation):
    model = Watched(fails=("CUDA out of memory. Tried to allocate 2 GiB", only_validation))
    state = torch.random.get_rng_state()
    assert trial(model, FLOAT32, (3, 8, 8), 2, adam)(2) is None
    assert torch.equal(torch.random.get_rng_state(), state)


def test_another_error_is_not_hidden():
    with pytest.raises(RuntimeError, match="no such kernel"):
        trial(Watched(fails=("no such kernel", False)), FLOAT32, (3, 8, 8), 2, adam)(2)


def test_a_gpu_keeps_a_tenth_of_its_memory_free(monkeypatch):
    """Of 100 bytes others use 15 and this process 25, of which 5 are held unused: it may have 75 in all."""
    for name, value in {"mem_get_info": (60, 100), "memory_reserved": 25, "memory_allocated": 20}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    assert memory._reservable_bytes(torch.device("cuda")) == 100 - 15 - 10


STEP = """
import re, sys, torch
from unet_cli.config.model import ModelConfig
from unet_cli.system.device import Compute, keep_freed_memory
from unet_cli.models import build_model
from unet_cli.training.ema import Average
from unet_cli.training.batch_size import plain_loss
from unet_cli.training.optimizers import make_optimizer

def bytes_of(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

width, side, batch, checkpointing = map(int, sys.argv[1:])
cpu = torch.device("cpu")
keep_freed_memory(Compute(cpu, "float32"))
before = bytes_of("VmRSS")
model = build_model(ModelConfig(base_channels=width), bool(checkpointing)).to(memory_format=torch.channels_last)
optimizer, average = make_optimizer("adam", model.parameters(), 1e-3, 0.0, cpu), Average(model)
image = torch.rand(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
target = torch.randint(2, (batch, side, side))
for step in (1, 2):
    optimizer.zero_grad()
    plain_loss(model(image), target).backward()
    optimizer.step()
    average.update(model, step)
print(bytes_of("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="reads /proc, and other allocators take other amounts")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("width", "side", "batch"), [(16, 256, 1), (16, 512, 4), (32, 256, 4), (32, 512, 2)])
def test_what_a_step_is_said_to_need_is_what_it_takes(width, side, batch, checkpointing):
    """The table of step_bytes: `pytest -m slow -s tests/test_memory.py`."""
    arguments = [str(int(value)) for value in (width, side, batch, checkpointing)]
    done = subprocess.run([sys.executable, "-c", STEP, *arguments], capture_output=True, text=True, check=True)
    taken = int(re.findall(r"\d+", done.stdout)[0])
    said = step_bytes(ModelConfig(base_channels=width), (3, side, side), batch, checkpointing)
    print(f"{width} {side} {batch} {checkpointing}: takes {taken / 2**20:.0f} MiB, said {said / 2**20:.0f} MiB")
    assert 0.95 * taken < said < 1.5 * taken
