"""Tiny data sets that our own code draws, and the real command line in a subprocess.

What takes long to import is imported where it is used: the process that hands out the tests reads this file too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unet_cli

# The fastest settings with which a network still learns something: for tests about everything but quality.
TINY = [
    "--size",
    "32",
    "--width",
    "4",
    "--depth",
    "2",
    "--batch-size",
    "2",
    "--device",
    "cpu",
    "--precision",
    "float32",
]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need a GPU are skipped without one."""
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")


@cache  # it takes a tenth of a second, and hundreds of tests want the same few
def drawn(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    from unet_cli.data.synthetic import draw_pair

    return draw_pair(seed=seed, index=index)


Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Started:
    """A command line in a process of its own, with the part of Popen that tests of stopped and killed ones need."""

    returncode: int | None = None

    def __init__(
        self,
        server: Prepared,
        arguments: list[str],
        cwd: Path,
        stdin: str | None,
        torchrun: list[str] | None,
        **to: str,
    ) -> None:
        """torchrun: its options, where it starts the command line in several processes.

        to: where stdout or stderr goes, if it isn't wanted.
        """
        self._server, self._folder = server, tempfile.mkdtemp()
        names = [to.get(name, os.path.join(self._folder, name)) for name in ("stdin", "stdout", "stderr")]
        Path(names[0]).write_text(stdin or "")
        self._kept = ["" if name in to.values() else name for name in names[1:]]
        self.pid = server.ask(
            arguments=[str(Path(unet_cli.__file__).parent / "__main__.py"), *arguments],
            cwd=str(cwd),
            environment=dict(os.environ),
            streams=names,
            torchrun=torchrun,
        )
        assert self.pid is not None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask(poll=self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300) -> int | None:
        self.communicate(timeout)
        return self.returncode

    def said(self) -> str:
        """stderr so far."""
        return Path(self._kept[1]).read_text(errors="surrogateescape")

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end; stdout and stderr. It is killed where it takes longer."""
        killer = threading.Timer(timeout, os.kill, (self.pid, signal.SIGKILL))
        killer.start()
        if self.returncode is None:
            self.returncode = self._server.ask(wait=self.pid)
        killer.cancel()
        out, err = (Path(name).read_text(errors="surrogateescape") if name else "" for name in self._kept)
        shutil.rmtree(self._folder)
        return out, err


class Prepared:
    """The command line in processes of their own, forked from one that has imported torch already: see prepared.py."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(
        self, arguments: list[str], cwd: Path, stdin: str | None = None, torchrun: list[str] | None = None, **to: str
    ) -> Started:
        return Started(self, arguments, cwd, stdin, torchrun, **to)

    def close(self) -> None:
        """With what tests that failed have left running."""
        if self._process is not None:
            self._process.communicate("")

    def ask(self, **request: object) -> int | None:
        if self._process is None:
            command = [sys.executable, str(Path(__file__).with_name("prepared.py"))]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        assert answer is None or isinstance(answer, int)
        return answer


PREPARED = Prepared()


def run_unet(*arguments: object, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """`unet ARGUMENTS` in a process of its own, as a user would call it."""
    words = [*map(str, arguments)]
    process = PREPARED.start(words, cwd, stdin)
    out, err = process.communicate(timeout=300)
    assert process.returncode is not None
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def kill_midway(*arguments: object, part: Path, least: int, cwd: Path) -> None:
    """`unet ARGUMENTS`, killed once its unfinished file `part` has more than `least` bytes."""
    process = start_unet(*arguments, cwd=cwd)
    while process.poll() is None and not (part.exists() and part.stat().st_size > least):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert part.exists()


def start_unet(*arguments: object, cwd: Path, **to: str) -> Started:
    """Likewise, but without waiting for its end. to: where stdout or stderr goes, if it isn't wanted."""
    return PREPARED.start([*map(str, arguments)], cwd, **to)


def wait_for(path: Path, process: Started | subprocess.Popen[str]) -> None:
    """Until the process has written the file."""
    while not path.exists():
        assert process.poll() is None, process.communicate(timeout=10)
        time.sleep(0.01)


@pytest.fixture(autouse=True, scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of data sets stays out of the user's own cache, in subprocesses too.

    These, and the tests, take one thread each: tiny networks gain nothing from more, and tests run side by side.
    """
    import torch

    os.environ["UNET_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    yield
    PREPARED.close()


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line draws its figures, which it otherwise leaves blank: see prepared.py."""
    monkeypatch.setenv("UNET_DRAWS", "1")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are left blank in this process too."""
    from prepared import Blank

    monkeypatch.setattr("matplotlib.figure.Figure", Blank)


@pytest.fixture
def unet(tmp_path: Path) -> Run:
    """Call the command line in an empty folder."""

    def call(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return run_unet(*arguments, cwd=tmp_path, stdin=stdin)

    return call


def write_pairs(folder: Path, count: int = 6, side: int = 40, mask_suffix: str = "", extension: str = ".png") -> Path:
    """folder/images and folder/masks with crops of sample images: RGB, masks of 0 and 255; side x (side + index)."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for index in range(count):
        image, mask = drawn(seed=1, index=index)
        top, left = (
            int(place[0]) for place in np.nonzero(mask[: -2 * side, : -2 * side])
        )  # where the first cell begins
        image, mask = (pixels[top : top + side, left : left + side + index] for pixels in (image, mask))
        Image.fromarray(image).save(folder / "images" / f"cell{index}{extension}")
        Image.fromarray(mask).save(folder / "masks" / f"cell{index}{mask_suffix}.png")
    return folder


def split_foreground(masks: Path) -> None:
    """Make the foreground of each mask two classes: 2 in the upper half, 1 below."""
    for path in masks.iterdir():
        mask = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        mask[: len(mask) // 2] *= 2
        Image.fromarray(mask).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six small pairs in data/images and data/masks."""
    return write_pairs(tmp_path / "data")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.pth of a tiny network, trained once for all tests through the command line."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_pairs(folder / "data", count=6, side=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNET_DRAWS", "1")
        done = run_unet("train", "--data", data, *TINY, "--epochs", 3, "--output", folder, "--name", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run" / "best.pth"


@pytest.fixture(scope="session")
def run_of_one_epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six small pairs in data, and checkpoints/run, trained on them once for all tests."""
    folder = tmp_path_factory.mktemp("begun")
    write_pairs(folder / "data")
    done = run_unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def begun(run_of_one_epoch: Path, tmp_path: Path) -> Path:
    """checkpoints/run, of one epoch on the pairs in data beside it: a copy, to go on with and to spoil."""
    shutil.copytree(run_of_one_epoch, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "checkpoints" / "run"
    settings = (run / "config.toml").read_text()
    assert f'"{run_of_one_epoch}/data"' in settings
    (run / "config.toml").write_text(settings.replace(f"{run_of_one_epoch}/", f"{tmp_path}/"))
    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three small RGB images of different sizes in imgs/, one of them in a sub-folder."""
    folder = tmp_path / "imgs"
    (folder / "deeper").mkdir(parents=True)
    for name, side in (("a", 30), ("b", 45), ("deeper/c", 70)):
        Image.fromarray(drawn(seed=2, index=side)[0][:side, : side + 9]).save(folder / f"{name}.png")
    return folder


def assert_failed(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """The exit code, every part of the message, and no traceback."""
    assert done.returncode == code, done.stderr
    for part in parts:
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" not in done.stdout


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def full_disk(tmp_path: Path) -> Run:
    """Call the command line where no file can grow beyond a number of bytes: a write then fails as on a full disk."""

    def call(limit: int, *arguments: object) -> subprocess.CompletedProcess[str]:
        resource = pytest.importorskip("resource")
        command = [sys.executable, "-B", "-m", "unet_cli", *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )

    return call


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody can write to: by its permissions, or for root by an attribute."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    locked_for_root = os.access(folder, os.W_OK) and subprocess.run(["chattr", "+i", folder]).returncode == 0
    if os.access(folder, os.W_OK) and not locked_for_root:
        pytest.skip("this system lets root write everywhere")
    yield folder
    if locked_for_root:
        subprocess.run(["chattr", "-i", folder], check=True)
    folder.chmod(0o700)
