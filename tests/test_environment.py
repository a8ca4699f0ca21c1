"""Limits of the environment are no defects: each is set for real, around a process of its own.

User and mount namespaces need the system's leave; where it isn't given, a test is skipped.
"""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import TINY, assert_failed, write_pairs

from unet_cli.system import threads
from unet_cli.system.threads import SETTINGS, compute_alone_where_limited, startable

UNET = [sys.executable, "-B", "-m", "unet_cli"]
TRAIN = ("train", "--data", "data", *TINY, "--epochs", 1, "--name", "r", "--output", "out")
HOMES = ("HOME", "UNET_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "TMPDIR", "USER", "LOGNAME")


def run(prefix: list[str], *arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`unet ARGUMENTS` behind a command that limits it, without a home unless one is given."""
    known = {name: value for name, value in os.environ.items() if name not in HOMES} | environment
    words = [*prefix, *UNET, *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, env=known, capture_output=True, text=True, timeout=300, check=False)


def needs(*command: str) -> list[str]:
    """The command, where this system lets it be run."""
    if not shutil.which(command[0]) or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip(f"this system doesn't allow {' '.join(command[:2])}")
    return list(command)


@pytest.fixture
def nobody() -> list[str]:
    """A user without an entry and without rights over what others have locked, whom files belong to as before."""
    return needs("unshare", "--user", "--map-user=54321")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "data")
    (tmp_path / "out").mkdir()
    return tmp_path


def test_a_user_without_a_home_trains(nobody, folder):
    trained = run(nobody, *TRAIN, cwd=folder)
    assert trained.returncode == 0, trained.stderr
    assert "without a cache: this user has no home folder (UNET_CACHE" in trained.stderr
    assert (folder / "out/r/report.html").exists()
    assert "Matplotlib" not in trained.stderr
    assert not (folder / "~").exists()


def test_a_cache_that_can_not_be_looked_into_is_done_without(nobody, folder):
    (folder / "cache").mkdir(mode=0)
    done = run(nobody, "check", "--data", "data", cwd=folder, UNET_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    assert "without a cache" in done.stderr
    assert "Permission denied" in done.stderr


def test_check_that_lacks_memory_advises_on_what_it_has(folder):
    told = []
    for limit in range(80, 160, 10):  # megabytes, from where Python hardly starts to where it is enough
        limited = needs("prlimit", f"--as={limit * 10**6}")
        done = run(limited, "check", "--data", "data", "--workers", 1, cwd=folder, UNET_CACHE=str(folder))
        # Where not even an exception can be allocated, Python itself fails with these words.
        assert done.returncode < 70 or "error return without exception set" in done.stderr, done.stderr
        assert "--batch-size" not in done.stderr
        told += ["out of memory: try fewer --workers" in done.stderr]
    assert any(told)


@pytest.mark.parametrize("allowed", [2, *(pytest.param(more, marks=pytest.mark.slow) for more in (3, 6))])
def test_few_threads_are_enough(folder, allowed):
    """As another user, since no limit of processes holds for root, and ours has processes that aren't ours."""
    rights = [f"--{kind}-caps=-all,+dac_read_search" for kind in ("inh", "ambient")]  # to read this Python
    other = needs("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *rights)
    for path in (folder, folder / "out"):
        path.chmod(0o777)
    limited = [*other, "prlimit", f"--nproc={allowed}"]
    two = {"OMP_NUM_THREADS": "2", "UNET_CACHE": str(folder / "cache")}
    done = run(limited, *TRAIN, cwd=folder, **two)
    assert done.returncode == 0, done.stderr
    assert "the system allows no more here (ulimit -u" in done.stderr
    assert "CPU (1 thread)" in done.stderr
    found = run(limited, "predict", "--weights", "out/r", "--input", "data/images", "--output", "m", cwd=folder, **two)
    assert found.returncode == 0, found.stderr


def test_a_container_without_a_folder_for_temporary_files_is_told_what_to_set(trained, folder, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch.compile sets it, and torch then needs no other
    inside = needs("unshare", "--user", "--map-root-user", "--mount")
    locked = [path for path in ("/tmp", "/var/tmp", "/usr/tmp", str(folder)) if os.path.isdir(path)]
    lines = [f"mount --bind {path} {path}" for path in (*locked, folder / "out")]
    lines += [f"mount -o remount,bind,ro {path}" for path in locked]
    locking = [*inside, "sh", "-c", " && ".join([*lines, f'cd {folder}; exec "$@"']), "sh"]
    predict = ("predict", "--weights", trained, "--input", "data/images", "--output", "out/masks")
    assert run(locking, *predict, cwd=folder, HOME=str(folder)).returncode == 0
    done = run(locking, *TRAIN, cwd=folder, HOME=str(folder))
    assert_failed(done, 1, "unet: there is no folder for temporary files: set TMPDIR")
    (folder / "out/tmp").mkdir()
    done = run(locking, *TRAIN, cwd=folder, HOME=str(folder), TMPDIR=str(folder / "out/tmp"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("allowed", "alone"), [(3, True), (100, False)])
def test_torch_computes_in_one_thread_where_not_all_can_be_started(monkeypatch, allowed, alone):
    real, running = threading.Thread.start, []

    def start(thread):
        if len(running) == allowed:
            raise RuntimeError("can't start new thread")
        running.append(thread)
        real(thread)

    monkeypatch.setattr(threads.threading.Thread, "start", start)
    for name in SETTINGS:
        monkeypatch.setenv(name, "4")
    assert compute_alone_where_limited(workers=2) == alone
    assert [os.environ[name] for name in SETTINGS] == ["1" if alone else "4"] * 3
    running.clear()
    assert startable(5) == min(allowed, 5)
