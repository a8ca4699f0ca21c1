"""Device and precision."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from unet_cli.config.hardware import Precision
from unet_cli.errors import UserError
from unet_cli.system.distributed import local_number

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}
WORTHWHILE = 1.3  # minimum speedup of bf16 on a CPU, since it costs precision


@dataclass(frozen=True)
class Compute:
    """A device and the autocast precision; losses, and weights in training, stay float32.

    channels_last: the memory format; it changes results only by rounding.
    """

    device: torch.device
    precision: Precision
    channels_last: bool = True

    def memory_format(self, spatial_dims: int) -> torch.memory_format:
        """The memory format of networks of so many dimensions, and of their images.

        Of volumes none is much faster on a processor with AVX2: seconds of a training step, one thread, a volume of
        32x32x32, channels last and contiguous: unet3d of width 16 1.02 and 1.04, nnunet3d of width 16 0.83 and 0.81.
        """
        if not self.channels_last:
            return torch.contiguous_format
        return torch.channels_last if spatial_dims == 2 else torch.channels_last_3d

    def autocast(self) -> AbstractContextManager[object]:
        """Autocast context in `precision`."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def usual(self, on_cpu: int, on_gpu: int) -> int:
        """The default for this device."""
        return on_cpu if self.device.type == "cpu" else on_gpu

    @property
    def kind(self) -> str:
        return "CPU" if self.device.type == "cpu" else "GPU"

    def describe(self) -> str:
        """'CPU (2 threads), float32' or 'NVIDIA H100, bf16'."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        if self.device.type == "cpu":
            threads = torch.get_num_threads()
            return f"CPU ({threads} thread{'s' * (threads > 1)}), {self.precision}"
        return f"{self.device.type}, {self.precision}"


def choose_compute(
    device: str, precision: Literal["auto", "float32", "bf16", "float16"], by_trial: bool = True
) -> Compute:
    """Resolve 'auto', and check that the requested device exists. Raises UserError.

    by_trial: whether to choose the precision by timing, which may vary between calls; else by the processor's features.
    """
    chosen = torch.device(_best_device() if device == "auto" else device)
    number = local_number()
    if chosen.type == "cuda" and number is not None:  # one GPU per process
        chosen = torch.device("cuda", number)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch sees no NVIDIA GPU here; check the driver with nvidia-smi, or use --device cpu"
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch sees no Apple GPU here; use --device cpu")
    if precision == "auto":
        precision = _best_precision(chosen, by_trial)
    if precision == "float16" and chosen.type != "cuda":
        raise UserError("--precision float16 is for NVIDIA GPUs: use bf16 or float32")
    return Compute(chosen, precision, chosen.type != "cpu" or cpu_likes_channels_last())


def processor_name() -> str:
    """The processor's model, such as 'AMD EPYC 7763 64-Core Processor': measured speeds are those of one model."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_saturates_int8() -> bool:
    """Whether sums of two products of 8 bits are cut off at 16 bits, as on x86 processors without VNNI, so that one of
    the factors should have 7 bits. True where the processor can't be asked."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return False
    return not {"avx512_vnni", "avx_vnni"} & set(_cpu_info("flags").split())


def _cpu_info(name: str) -> str:
    """What Linux says of the first processor; '' where it says nothing, and on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")


def cpu_likes_channels_last() -> bool:
    """Whether channels last is faster on this CPU: not with AVX2, but with AVX-512 and AMX.

    GFLOP/s of convolution, batch norm and ReLU, forward and backward, on an AMD processor with AVX2, channels last and
    contiguous: 32 channels at 512x512 45 and 52; 64 at 256 48 and 72; 128 at 128 68 and 132; 256 at 64 97 and 156.
    """
    return torch.backends.cpu.get_cpu_capability() != "AVX2"


def be_deterministic() -> None:
    """Restrict torch to deterministic operations; it raises a RuntimeError that names an operation without such a form:
    https://docs.pytorch.org/docs/stable/notes/randomness.html. Must be called before the GPU is used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


@contextmanager
def compiling() -> Iterator[None]:
    """Context for the first run of a compiled network: raises UserError with the reason if torch can't compile it."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--compile: torch can't compile the network here ({reason}): install a C++ compiler, or omit --compile"
        ) from error


@contextmanager
def same_threads() -> Iterator[None]:
    """Restore torch's number of threads after the block."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def finish(device: torch.device) -> None:
    """Synchronize the device."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def free_memory(device: torch.device) -> None:
    """Release torch's unused device memory, and the allocator's unused host memory."""
    gc.collect()
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
    if is_glibc():
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def keep_freed_memory(compute: Compute) -> None:
    """For CPU training, let glibc's allocator keep freed memory for the next step.

    By default it returns it to the system: each activation, of tens of megabytes, is mapped, cleared page by page, and
    unmapped again, which took a third of a training step. One arena, since the backward pass runs in another thread.
    Does nothing elsewhere than on Linux with glibc.
    """
    if compute.device.type != "cpu" or not is_glibc():
        return
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_mmap_max, 0)
    mallopt(m_arena_max, 1)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _best_precision(device: torch.device, by_trial: bool) -> Precision:
    """The default precision; on a CPU bf16 if it has AMX, or by trial if a benchmark finds it WORTHWHILE times as
    fast."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "cpu" and (cpu_has_bf16() and bf16_speedup() >= WORTHWHILE if by_trial else cpu_has_amx()):
        return "bf16"
    return "float32"


def cpu_has_bf16() -> bool:
    """Whether the processor has instructions for bf16 products (AVX512-BF16 or AMX; ARM's are not considered)."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def cpu_has_amx() -> bool:
    """Whether the processor has AMX tiles for bf16, always several times as fast as float32."""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def bf16_speedup(size: int = 768, rounds: int = 5) -> float:
    """Speedup of a bf16 matrix product over a float32 one, the best of a few alternating rounds.

    Having the instructions doesn't make them fast: with AMX or on AMD's Zen 4, bf16 is 2 to 8 times as fast; Intel
    processors with AVX512-BF16 but no AMX are so slow that float32 wins (measured: 0.6 times as fast). Takes some 50
    ms.
    """
    matrix = torch.ones(size, size)
    times: dict[torch.dtype, float] = {}
    for _ in range(rounds):
        for dtype in (torch.float32, torch.bfloat16):
            operand = matrix.to(dtype)
            start = time.perf_counter()
            torch.mm(operand, operand)
            times[dtype] = min(time.perf_counter() - start, times.get(dtype, float("inf")))
    return times[torch.float32] / times[torch.bfloat16]
