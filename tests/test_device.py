"""What computes: 'auto' resolves to what is there, and what isn't there is refused with what to do."""

from dataclasses import replace

import pytest
import torch

from unet_cli.errors import UserError
from unet_cli.system import device
from unet_cli.system.device import Compute, choose_compute


def test_a_missing_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: torch sees no NVIDIA GPU.*--device cpu"):
        choose_compute("cuda", "auto")
    assert choose_compute("auto", "float32").device.type in ("cpu", "mps")


@pytest.mark.parametrize(
    ("has", "speedup", "precision"), [(True, 2.0, "bf16"), (True, 0.6, "float32"), (False, 2.0, "float32")]
)
def test_bf16_on_a_cpu_that_has_it_and_is_fast_at_it(monkeypatch, has, speedup, precision):
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: has)
    monkeypatch.setattr(device, "bf16_speedup", lambda: speedup)
    assert choose_compute("cpu", "auto").precision == precision


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "float16")])
def test_float16_only_for_gpus_without_bf16(monkeypatch, has, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has)
    assert choose_compute("auto", "auto") == Compute(torch.device("cuda"), precision)


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(UserError, match="use bf16 or float32"):
        choose_compute("cpu", "float16")


def test_the_speed_of_bf16_is_measured():
    assert device.bf16_speedup(size=64, rounds=2) > 0


@pytest.mark.parametrize(("capability", "channels_last"), [("AVX2", False), ("AVX512", True), ("DEFAULT", True)])
def test_without_a_trial_the_processor_decides_on_the_layout(monkeypatch, capability, channels_last):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert choose_compute("cpu", "float32").channels_last is channels_last


def test_volumes_have_a_layout_of_their_own():
    compute = Compute(torch.device("cpu"), "float32")
    assert compute.memory_format(2) is torch.channels_last
    assert compute.memory_format(3) is torch.channels_last_3d
    plain = replace(compute, channels_last=False)
    assert plain.memory_format(2) is plain.memory_format(3) is torch.contiguous_format


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "float32")])
def test_without_a_clock_bf16_is_for_processors_with_amx(monkeypatch, has, precision):
    monkeypatch.setattr(device, "cpu_has_amx", lambda: has)
    monkeypatch.setattr(device, "bf16_speedup", lambda: pytest.fail("timed"))
    assert choose_compute("cpu", "auto", by_trial=False).precision == precision


def test_autocast_computes_in_the_precision():
    matrix = torch.ones(4, 4)
    with Compute(torch.device("cpu"), "bf16").autocast():
        assert (matrix @ matrix).dtype == torch.bfloat16
    with Compute(torch.device("cpu"), "float32").autocast():
        assert (matrix @ matrix).dtype == torch.float32


def test_each_of_torchruns_processes_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert choose_compute("cuda", "bf16").device == torch.device("cuda", 2)
    assert choose_compute("cpu", "float32").device == torch.device("cpu")
