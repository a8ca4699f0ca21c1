"""`unet predict` through the real command line: what is written, what is said, and what bad input does."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import PREPARED, Run, assert_failed, json_lines, kill_midway, pixels, run_unet, start_unet, wait_for
from PIL import Image

from unet_cli.checkpoint import load_checkpoint, save_checkpoint
from unet_cli.cli.predict import _still_there
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Inference, PredictConfig
from unet_cli.data.class_names import MAX_CLASS_BYTES, file_names
from unet_cli.data.folder.walk import walk
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import Source
from unet_cli.data.synthetic import draw_pair
from unet_cli.errors import UserError
from unet_cli.inference.inputs import listed_paths
from unet_cli.inference.jobs import Job, Outcome
from unet_cli.inference.pipeline import predict_all
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.views import Tiled
from unet_cli.models import build_model
from unet_cli.system.device import Compute
from unet_cli.system.stage_times import StageTimes


def test_a_folder_is_mirrored_with_masks_of_the_original_sizes(unet: Run, trained, images, tmp_path):
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert done.returncode == 0, done.stderr
    for name in ("a", "b", "deeper/c"):
        mask, image = pixels(tmp_path / "imgs_masks" / f"{name}.png"), pixels(images / f"{name}.png")
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
    assert "3 masks written to" in done.stdout
    assert "--overlay" in done.stdout


def test_the_printed_next_command_works(unet: Run, trained, images):
    first = unet("predict", "--weights", trained, "--input", "imgs")
    words = first.stdout.strip().splitlines()[-1].split()
    assert words[0] == "unet"
    assert unet(*words[1:]).returncode == 0


def test_file_glob_and_list(unet: Run, trained, images, tmp_path):
    assert unet("predict", "--weights", trained.parent, "--input", "imgs/a.png").returncode == 0
    assert (tmp_path / "imgs_masks" / "a.png").is_file()
    assert unet("predict", "--weights", trained, "--input", "imgs/*.png", "--output", "glob").returncode == 0
    assert sorted(path.name for path in (tmp_path / "glob").iterdir()) == ["a.png", "b.png"]
    listed = unet(
        "predict", "--weights", trained, "--input", "-", "--output", "list", stdin="imgs/b.png\nimgs/deeper/c.png\n"
    )
    assert listed.returncode == 0, listed.stderr
    assert sorted(path.name for path in (tmp_path / "list").iterdir()) == ["b.png", "c.png"]
    assert (pixels(tmp_path / "glob" / "b.png") == pixels(tmp_path / "list" / "b.png")).all()
    assert_failed(unet("predict", "--weights", trained, "--input", "-", stdin="a.png\n"), 1, "--output")


@pytest.mark.parametrize(
    "content",
    [b"a.png\n\nb.png", b"a.png\r\nb.png\r\n", b"\xef\xbb\xbfa.png\nb.png\n", b"a.png\0b.png\0"]
    + ["a.png\r\nb.png\r\n".encode(encoding) for encoding in ("utf-8-sig", "utf-16")],
)
def test_a_list_is_read_as_whatever_program_wrote_it(content):
    assert [path for path in listed_paths(content) if path.strip()] == ["a.png", "b.png"]


def test_paths_of_a_list_are_as_the_system_has_them():
    assert listed_paths(b"new\nline.png\0b\xff.png") == ["new\nline.png", os.fsdecode(b"b\xff.png")]


def test_a_mask_does_not_depend_on_its_neighbours(unet: Run, trained, images, tmp_path):
    unet("predict", "--weights", trained, "--input", "imgs", "--output", "all", "--batch-size", 2)
    unet("predict", "--weights", trained, "--input", "imgs/deeper/c.png", "--output", "one", "--batch-size", 2)
    assert (tmp_path / "all" / "deeper" / "c.png").read_bytes() == (tmp_path / "one" / "c.png").read_bytes()


def test_overlay_and_probabilities(unet: Run, trained, images, tmp_path):
    done = unet("predict", "--weights", trained, "--input", "imgs", "--overlay", "--probabilities", "--threshold", 0.4)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "imgs_masks"
    probability = pixels(out / "a_probability.png")
    assert probability.dtype == np.uint16
    clear = np.abs(probability / 65535 - 0.4) > 1e-4
    assert ((probability / 65535 >= 0.4) == (pixels(out / "a.png") == 255))[clear].all()
    assert pixels(out / "a_overlay.png").shape == pixels(images / "a.png").shape


def network_file(trained: Path, folder: Path, **settings: object) -> Path:
    """As the trained one, but with another, fresh network."""
    model = ModelConfig(base_channels=2, **settings)
    torch.manual_seed(1)
    path = folder / f"{model.name}.pth"
    save_checkpoint(path, replace(load_checkpoint(trained), model=model, weights=build_model(model).state_dict()))
    return path


@pytest.mark.parametrize("mode", ["resize", "tile"])
def test_attention_maps_are_written_for_each_gate(unet: Run, trained, images, tmp_path, mode):
    weights = network_file(trained, tmp_path, name="attention", depth=2)
    plainly = ("predict", "--weights", weights, "--input", "imgs", "--mode", mode, "--precision", "float32")
    done = unet(*plainly, "--attention-maps", "--probabilities")
    assert done.returncode == 0, done.stderr
    without = unet(*plainly, "--output", "plain")
    assert without.returncode == 0, without.stderr
    for name in ("a", "deeper/c"):
        mask = pixels(tmp_path / "imgs_masks" / f"{name}.png")
        assert (mask == pixels(tmp_path / "plain" / f"{name}.png")).all()
        probability = pixels(tmp_path / "imgs_masks" / f"{name}_probability.png")
        assert ((probability >= 32768) == (mask > 0)).mean() > 0.999
        for gate in (1, 2):
            found = pixels(tmp_path / "imgs_masks" / f"{name}_attention_{gate}.png")
            assert (found.shape, found.dtype) == (mask.shape, np.uint16)
            assert found.min() < found.max()
    assert not (tmp_path / "imgs_masks" / "a_attention_3.png").exists()


def test_a_pruned_network_uses_one_head(unet: Run, trained, images, tmp_path):
    weights = network_file(trained, tmp_path, name="unet++", depth=3)
    maps = []
    for head in ("1", "3", None):
        pruned = ["--prune", head] if head else []
        predict = ["predict", "--weights", weights, "--input", "imgs/a.png", "--output", f"out{head}"]
        done = unet(*predict, "--probabilities", *pruned)
        assert done.returncode == 0, done.stderr
        maps.append(pixels(tmp_path / f"out{head}" / "a_probability.png"))
    assert (maps[0] != maps[1]).any()
    assert (maps[1] != maps[2]).any()
    assert_failed(unet("predict", "--weights", weights, "--input", "imgs", "--prune", 4), 1, "--prune")


def test_what_a_network_cannot_do_is_refused(unet: Run, trained, images, tmp_path):
    predict = ["predict", "--weights", trained, "--input", "imgs"]
    assert_failed(unet(*predict, "--prune", 1), 1, "--prune is for unet++", "of unet:")
    assert_failed(unet(*predict, "--attention-maps"), 1, "--attention-maps is for attention U-Nets")
    published = network_file(trained, tmp_path, name="unet-dilated-published")
    done = unet("predict", "--weights", published, "--input", "imgs", "--mode", "tile")
    assert_failed(done, 1, "unet-dilated-published predicts whole images only")
    saved = load_checkpoint(trained)
    half = tmp_path / "half.pth"
    save_checkpoint(half, replace(saved, preprocessing=replace(saved.preprocessing, scale=0.5)))
    assert_failed(unet("predict", "--weights", half, "--input", "imgs", "--mode", "tile"), 1, "at 0.5 times it")


def test_a_network_that_knows_a_scale_sees_each_image_at_its_own_size(unet: Run, trained, images, tmp_path):
    saved = load_checkpoint(trained)
    path = tmp_path / "scaled.pth"
    save_checkpoint(path, replace(saved, preprocessing=replace(saved.preprocessing, scale=1.0), temperature=1.0))
    done = unet("predict", "--weights", path, "--input", "imgs", "--probabilities", "--precision", "float32")
    assert done.returncode == 0, done.stderr
    assert "at 1 times the image's size" in done.stderr
    image = torch.from_numpy(np.array(Image.open(images / "b.png"))).movedim(-1, 0)[None].float()
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (saved.preprocessing.mean, saved.preprocessing.std)
    )
    with torch.inference_mode():
        probs = saved.build().eval()((image - mean) / std).sigmoid()[0, 0].numpy()
    assert np.abs(pixels(tmp_path / "imgs_masks" / "b_probability.png") / 65535 - probs).max() < 1e-3


def test_json_has_a_line_for_each_file(unet: Run, trained, images):
    (images / "bad.png").write_text("text")
    done = unet("predict", "--weights", trained, "--input", "imgs", "--json")
    assert done.returncode == 3
    rows = {Path(row["input"]).name: row for row in json_lines(done.stdout)}
    assert "not an image" in rows["bad.png"]["error"]
    assert rows["a.png"]["size"] == [39, 30]
    assert list(rows["a.png"]["classes"]) == ["background", "foreground"]
    assert sum(rows["a.png"]["classes"].values()) == pytest.approx(1, abs=1e-5)
    assert 0 < rows["a.png"]["highest_probability"] <= 1
    assert rows["a.png"]["seconds"] > 0


def test_bad_files_are_named_and_skipped_and_leave_no_mask_of_an_earlier_run(unet: Run, trained, images, tmp_path):
    unet("predict", "--weights", trained, "--input", "imgs")
    before = (tmp_path / "imgs_masks" / "b.png").read_bytes()
    whole = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(images / "deep16.png")
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert_failed(done, 3, "a.png is damaged", "deep16.png holds 16-bit values", "8-bit")
    assert "2 masks written" in done.stdout
    assert "2 images failed" in done.stdout
    assert "--input imgs/b.png" in done.stdout  # the next step is one that works
    assert sorted(path.name for path in (tmp_path / "imgs_masks").rglob("*.png")) == ["b.png", "c.png"]
    assert (tmp_path / "imgs_masks" / "b.png").read_bytes() == before


def test_gray_and_rgba_inputs_are_converted_and_it_is_said(unet: Run, trained, images, tmp_path):
    Image.open(images / "a.png").convert("L").save(images / "gray.png")
    Image.open(images / "b.png").convert("RGBA").save(images / "alpha.png")
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert done.returncode == 0, done.stderr
    assert "gray was repeated to three channels in 1 image" in done.stderr
    assert (pixels(tmp_path / "imgs_masks" / "alpha.png") == pixels(tmp_path / "imgs_masks" / "b.png")).all()


@pytest.fixture
def three_classes(tmp_path, trained) -> Path:
    """A checkpoint with classes 0, 1 and 10, as masks with small integers have them."""
    model = ModelConfig(base_channels=2, depth=2, num_classes=3)
    torch.manual_seed(1)
    base = load_checkpoint(trained)
    path = tmp_path / "three.pth"
    save_checkpoint(
        path,
        replace(
            base,
            model=model,
            weights=build_model(model).state_dict(),
            labels=LabelMap((0, 1, 10), ("0", "1", "10")),
        ),
    )
    return path


def test_classes_are_written_with_the_training_masks_values_and_visible_colours(
    unet: Run, three_classes, images, tmp_path
):
    done = unet("predict", "--weights", three_classes, "--input", "imgs", "--probabilities")
    assert done.returncode == 0, done.stderr
    mask = Image.open(tmp_path / "imgs_masks" / "a.png")
    assert mask.mode == "P"
    assert set(np.unique(np.asarray(mask))) <= {0, 1, 10}
    maps = [pixels(tmp_path / "imgs_masks" / f"a_probability_{name}.png").astype(int) for name in ("0", "1", "10")]
    assert (np.abs(sum(maps) - 65535) <= 3).all()
    winners = np.array([0, 1, 10])[np.argmax(maps, axis=0)]
    assert (winners == np.asarray(mask)).mean() > 0.99


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["background", "Cell wall", "nucleus"], ["background", "Cell-wall", "nucleus"]),
        (["#000000", "#00ff00", "a/b\\c:d*?"], ["000000", "00ff00", "a-b-c-d"]),
        (["leaf", "Leaf", "stem"], ["leaf-0", "Leaf-1", "stem"]),
        (["a b", "a/b", "a-b-1"], ["a-b-0", "a-b-1-1", "a-b-1"]),
        (["..", "///", "ok"], ["0", "1", "ok"]),
        (["Con", "lpt1", "console"], ["Con-0", "lpt1-1", "console"]),
        (["Zellkörper", "細胞", "u\u0308ber"], ["Zellkörper", "細胞", "über"]),
    ],
)
def test_names_of_classes_are_safe_and_different_in_file_names(classes, expected):
    assert file_names(classes) == expected


def test_long_names_of_classes_fit_into_file_names_and_stay_different():
    names = file_names(["細" * 200, "細" * 200 + "x", "a" * 200])
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= MAX_CLASS_BYTES + 2 for name in names)


def test_probability_files_are_named_by_class_and_removed_with_their_masks(unet: Run, three_classes, images, tmp_path):
    checkpoint = load_checkpoint(three_classes)
    for name, labels in (("first", ("soil", "crop_probability", "weed / other")), ("second", ("soil", "x", "y"))):
        labels = replace(checkpoint.labels, names=labels)
        save_checkpoint(tmp_path / f"{name}.pth", replace(checkpoint, labels=labels))
    call = ["--input", "imgs/a.png", "--output", "out", "--probabilities"]
    done = unet("predict", "--weights", "first.pth", *call)
    assert done.returncode == 0, done.stderr
    names = [f"a_probability_{name}.png" for name in ("crop_probability", "soil", "weed-other")]
    assert sorted(contents(tmp_path / "out")) == ["a.png", *names]
    done = unet("predict", "--weights", "second.pth", *call)  # with other classes: those are not of this mask
    assert done.returncode == 0, done.stderr
    assert sorted(contents(tmp_path / "out")) == [
        "a.png",
        *(f"a_probability_{name}.png" for name in ("soil", "x", "y")),
    ]


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_are_calibrated_and_masks_and_attention_stay(
    unet: Run, trained, three_classes, images, tmp_path, classes
):
    raw = network_file(trained, tmp_path, name="attention", depth=2) if classes == 2 else three_classes
    save_checkpoint(raw, replace(load_checkpoint(raw), temperature=1.0))
    save_checkpoint(tmp_path / "hot.pth", replace(load_checkpoint(raw), temperature=3.0))
    flags = ["--input", "imgs/a.png", "--probabilities", "--json", *(["--attention-maps"] if classes == 2 else [])]
    found, rows = [], []
    for weights, folder in ((raw, "raw"), (tmp_path / "hot.pth", "hot")):
        done = unet("predict", "--weights", weights, *flags, "--output", folder)
        assert done.returncode == 0, done.stderr
        maps = [pixels(path) / 65535 for path in sorted((tmp_path / folder).glob("*_probability*"))]
        found.append(np.stack([1 - maps[0], maps[0]] if classes == 2 else maps))
        rows.append(json_lines(done.stdout)[0])
    before, after = found
    powers = before ** (1 / 3)
    assert np.abs(after - powers / powers.sum(0)).max() < 1e-4
    assert np.abs(after - before).max() > 0.01
    for probs, row in zip(found, rows, strict=True):
        surest = before[1:].max(0).argmax()
        assert row["highest_probability"] == pytest.approx(probs[1:].max(0).ravel()[surest], abs=1e-4)
    names = [path.name for path in (tmp_path / "raw").iterdir() if "probability" not in path.name]
    assert len(names) == (3 if classes == 2 else 1)
    for name in names:
        assert (tmp_path / "raw" / name).read_bytes() == (tmp_path / "hot" / name).read_bytes()


def test_all_background_is_called_out(unet: Run, trained, images):
    done = unet("predict", "--weights", trained, "--input", "imgs", "--threshold", 1)
    assert "Every mask is all background; the highest foreground probability was" in done.stderr


def test_masks_below_the_input_folder_are_not_input_the_next_time(unet: Run, trained, images, tmp_path):
    for _ in range(2):
        done = unet("predict", "--weights", trained, "--input", "imgs", "--output", "imgs/masks")
        assert "3 masks written" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--input", "nowhere"], 1, ["nowhere does not exist"]),
        (["--input", "empty"], 1, ["empty holds no images", "it is empty"]),
        (["--input", "-", "--output", "out"], 1, ["no paths came in on stdin"]),
        (["--input", "imgs", "--output", "mask.png"], 1, ["mask.png looks like a file", "folder"]),
        (["--input", "imgs", "--mode", "stretch"], 2, ["--mode"]),
        (["--input", "imgs", "--shard", "4/3"], 2, ["--shard", "1/16"]),
        (["--input", "imgs", "--output", "imgs"], 1, ["would be written over the image", "choose another --output"]),
        (["--input", "imgs", "--threshold", "2"], 2, ["--threshold", "auto"]),
        (["--input", "imgs", "--threshold", "high"], 2, ["--threshold", "a number"]),
        (["--input", "imgs", "--thresold", "0.4"], 2, ["--thresold", "--threshold"]),
        (["--input", "imgs", "--device", "cuda"], 1, ["--device cuda", "--device cpu"]),
        (["--input", "imgs", "--output", "file.txt"], 1, ["file.txt", "a file is in the way"]),
        ([], 2, ["--input"]),
    ],
)
def test_bad_arguments(unet: Run, trained, images, tmp_path, monkeypatch, arguments, code, parts):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as on a machine without a GPU
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    assert_failed(unet("predict", "--weights", trained, *arguments), code, *parts)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and "imgs_masks" not in str(path)] == []


@pytest.mark.parametrize("name", ["missing.pth", "text.pth", "raw.pth"])
def test_weights_that_are_not_ours(unet: Run, images, tmp_path, name):
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "raw.pth")
    assert_failed(unet("predict", "--weights", name, "--input", "imgs"), 1, name, "unet train")
    assert not (tmp_path / "imgs_masks").exists()


def test_two_images_that_would_write_one_mask_are_refused(unet: Run, trained, images, tmp_path):
    shutil.copy(images / "a.png", images / "a.bmp")
    assert_failed(unet("predict", "--weights", trained, "--input", "imgs"), 1, "a.bmp", "a.png", "would both write")
    assert not (tmp_path / "imgs_masks").exists()


def test_rows_that_find_no_space_fail_their_image_alone(trained, tmp_path, full_disk):
    (tmp_path / "imgs").mkdir()
    for name, side in (("large", 200), ("small", 20)):
        noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "imgs" / f"{name}.tif")
    call = ["predict", "--weights", trained, "--input", "imgs", "--output", "out", "--mode", "tile", "--probabilities"]
    done = full_disk(8000, *call)
    assert_failed(done, 3, "1 image failed", ".large.tif.part: File too large")
    assert (tmp_path / "out" / "small.tif").exists()
    assert not (tmp_path / "out" / "large.tif").exists()


def test_a_full_disk_leaves_no_partial_mask(trained, images, tmp_path, full_disk):
    done = full_disk(200, "predict", "--weights", trained, "--input", "imgs", "--output", "out", "--overlay")
    assert_failed(done, 3, "free some space")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.stat().st_size > 200] == []
    assert list((tmp_path / "out").rglob("*.tmp")) == []


def test_a_folder_that_cannot_be_written(unet: Run, trained, images, read_only):
    done = unet("predict", "--weights", trained, "--input", "imgs", "--output", read_only)
    assert_failed(done, 1, str(read_only), "choose")
    assert os.listdir(read_only) == []


def test_files_that_are_not_ours_are_never_written_over(unet: Run, trained, images, tmp_path):
    out = tmp_path / "truth"
    out.mkdir()
    Image.new("L", (5, 5)).save(out / "a.png")
    before = (out / "a.png").read_bytes()
    done = unet("predict", "--weights", trained, "--input", "imgs", "--output", "truth")
    assert_failed(done, 1, "a.png already exists and was not written by unet", "--output")
    assert (out / "a.png").read_bytes() == before
    assert [path.name for path in out.rglob("*.png")] == ["a.png"]


def test_a_stop_finishes_the_files_at_hand_and_tells_of_each(trained, images, tmp_path):
    for index in range(300):
        shutil.copy(images / "a.png", images / f"copy{index:03d}.png")
    process = start_unet("predict", "--weights", trained, "--input", "imgs", "--json", cwd=tmp_path)
    wait_for(tmp_path / "imgs_masks" / "a.png", process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    written = {path.name for path in (tmp_path / "imgs_masks").rglob("*.png")}
    assert {Path(row["output"]).name for row in json_lines(out)} == written
    assert 1 <= len(written) < 303
    assert f"stopped after {len(written)} of 303" in err


def test_skip_existing_continues_a_killed_job_to_the_same_bytes(trained, images, tmp_path):
    for index in range(60):
        shutil.copy(images / "a.png", images / f"copy{index:02d}.png")
    (images / "bad.png").write_text("text")
    flags = ["predict", "--weights", str(trained), "--input", "imgs", "--probabilities", "--skip-existing"]
    assert run_unet(*flags, "--output", "unbroken", cwd=tmp_path).returncode == 3
    rng = np.random.default_rng(0)
    for _ in range(2):
        wanted = len(list((tmp_path / "broken").rglob("*.png"))) + int(rng.integers(5, 25))
        process = start_unet(*flags, "--output", "broken", cwd=tmp_path)
        while process.poll() is None and len(list((tmp_path / "broken").rglob("*.png"))) < wanted:
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL
    done = run_unet(*flags, "--output", "broken", cwd=tmp_path)
    assert_failed(done, 3, "bad.png is not an image")
    assert "already done" in done.stdout
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")
    again = run_unet(*flags, "--output", "broken", "--json", cwd=tmp_path)
    assert [Path(row["input"]).name for row in json_lines(again.stdout)] == ["bad.png"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_last_lines_list_what_failed_and_why(unet: Run, trained, images):
    (images / "bad1.png").write_text("text")
    (images / "bad2.tif").write_bytes(b"II*\0" + b"\1" * 50)
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert done.returncode == 3
    last = done.stderr.splitlines()[-3:]
    assert last[0] == "unet: 2 images failed:"
    assert "bad1.png" in last[1]
    assert "bad2.tif" in last[2]
    assert "3 masks written" in done.stdout
    assert "2 images failed" in done.stdout


def test_shards_and_processes_share_a_job_without_gap_or_overlap(unet: Run, trained, images, tmp_path, monkeypatch):
    for index in range(8):
        shutil.copy(images / "a.png", images / f"copy{index}.png")
    written: list[str] = []
    for shard in ("1/3", "2/3", "3/3"):
        done = unet("predict", "--weights", trained, "--input", "imgs", "--shard", shard, "--json")
        assert done.returncode == 0, done.stderr
        rows = [row["output"] for row in json_lines(done.stdout)]
        assert len(rows) in (3, 4)
        written += rows
    everything = [str(path.relative_to(tmp_path)) for path in (tmp_path / "imgs_masks").rglob("*.png")]
    assert sorted(written) == sorted(everything)
    assert len(everything) == 11
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does
    ranks = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        done = unet("predict", "--weights", trained, "--input", "imgs", "--shard", "2/3", "--json")
        ranks.append([row["output"] for row in json_lines(done.stdout)])
    assert len(ranks[0]) == len(ranks[1]) == 2
    assert sorted(ranks[0] + ranks[1]) == sorted(written[4:8])


def draw_scan(path: Path, height: int = 300, width: int = 200, **options) -> np.ndarray:
    """A tiled TIFF of cells, as a slide scanner would write it."""
    image = draw_pair(seed=3, index=5)[0]
    image = np.tile(image, (3, 3, 1))[:height, :width]
    settings = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb", "resolution": (4000, 4000)}
    tifffile.imwrite(path, image, **settings | {"resolutionunit": "CENTIMETER", "metadata": None} | options)
    return image


def test_a_tiff_in_tiles_becomes_a_tiff_at_the_same_place_with_the_mask_of_the_pixels(unet: Run, trained, tmp_path):
    geo = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (34737, 2, 0, "WGS 84|", True), (285, 2, 0, "slide 7", True)]
    image = draw_scan(tmp_path / "scan.tif", extratags=geo)
    Image.fromarray(image).save(tmp_path / "scan.png")
    for name in ("scan.tif", "scan.png"):
        done = unet(
            "predict", "--weights", trained, "--input", name, "--output", "out", "--mode", "tile", "--probabilities"
        )
        assert done.returncode == 0, done.stderr
    with tifffile.TiffFile(tmp_path / "out" / "scan.tif") as tif:
        page = tif.pages.first
        mask = page.asarray()
        assert page.is_tiled
        assert page.compression.name == "ADOBE_DEFLATE"
        assert page.tags[282].value == (4000, 1)
        assert page.tags[296].value == 3
        assert page.tags[33550].value == (0.5, 0.5, 0.0)
        assert page.tags[34737].value == "WGS 84|"
        assert page.tags[285].value == "slide 7"
    assert (mask == pixels(tmp_path / "out" / "scan.png")).all()
    in_bands, whole = (pixels(tmp_path / "out" / f"scan_probability.{suffix}") for suffix in ("tif", "png"))
    assert (in_bands == whole).all()
    assert len(np.unique(whole)) > 20
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if "prob" not in path.name) == [
        "scan.png",
        "scan.tif",
    ]


def test_a_scan_continues_where_it_was_killed_to_the_same_bytes(trained, tmp_path):
    draw_scan(tmp_path / "scan.tif", height=1500, width=700)
    flags = ["predict", "--weights", str(trained), "--input", "scan.tif", "--mode", "tile", "--probabilities"]
    assert run_unet(*flags, "--output", "unbroken", cwd=tmp_path).returncode == 0
    part = tmp_path / "broken" / ".scan.tif.part"
    kill_midway(*flags, "--output", "broken", part=part, least=20_000, cwd=tmp_path)
    done = run_unet(*flags, "--output", "broken", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows of a stopped call were used" in done.stdout
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")


def test_ctrl_c_pauses_a_scan(trained, tmp_path):
    draw_scan(tmp_path / "scan.tif", height=3000, width=700)
    flags = ["predict", "--weights", str(trained), "--input", "scan.tif", "--mode", "tile", "--output", "out"]
    process = start_unet(*flags, cwd=tmp_path)
    part = tmp_path / "out" / ".scan.tif.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size > 2_000):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped after 0 of 1" in err
    assert part.exists()
    assert not (tmp_path / "out" / "scan.tif").exists()


def test_a_scan_that_ends_too_early_is_named_and_leaves_nothing(unet: Run, trained, tmp_path):
    draw_scan(tmp_path / "scan.tif")
    whole = (tmp_path / "scan.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "scan.tif") as tif:
        last = tif.pages.first.dataoffsets[-1]
    (tmp_path / "scan.tif").write_bytes(whole[: last + 1] + b"\0" * 50 + whole[last + 51 :])  # its last tile is noise
    done = unet("predict", "--weights", trained, "--input", "scan.tif", "--output", "out", "--mode", "tile")
    assert_failed(done, 3, "scan.tif is damaged")
    assert list((tmp_path / "out").iterdir()) == []


def test_stacks_as_tiff_and_a_tiff_that_is_stretched(unet: Run, trained, tmp_path):
    image = draw_scan(tmp_path / "scan.tif")
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([image, image[::-1]]), photometric="rgb")
    for name in ("scan.tif", "stack.tif"):
        done = unet("predict", "--weights", trained, "--input", name, "--output", "out", "--format", "tif")
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["scan.tif", "stack.tif"]
    with tifffile.TiffFile(tmp_path / "out" / "scan.tif") as tif:
        assert tif.pages.first.tags[282].value == (4000, 1)
    again = unet("predict", "--weights", trained, "--input", "scan.tif", "--output", "out", "--format", "tif")
    assert again.returncode == 0, again.stderr  # ours may be written over


def draw_stack(path: Path, pages: int = 5, height: int = 60, width: int = 70, **options) -> np.ndarray:
    """A TIFF of several different pages, each with a name of its own."""
    image = np.tile(draw_pair(seed=3, index=5)[0], (1 + height // 200, 1 + width // 200, 1))
    stack = np.stack([np.roll(image, 17 * page, axis=0)[:height, :width] for page in range(pages)])
    with tifffile.TiffWriter(path) as file:
        for number, page in enumerate(stack):
            name = [(285, 2, 0, f"section {number}", True)]
            file.write(page, photometric="rgb", contiguous=False, extratags=name, metadata=None, **options)
    return stack


@pytest.mark.parametrize("mode", ["resize", "tile"])
def test_the_masks_of_a_stack_are_a_stack_with_the_same_pages_as_files_of_their_own(unet: Run, trained, tmp_path, mode):
    draw_stack(tmp_path / "stack.tif", 12)
    flags = ["--input", "stack.tif", "--mode", mode, "--probabilities", "--instances", "--overlay", "--json"]
    pages = unet("predict", "--weights", trained, *flags, "--output", "pages", "--format", "png")
    assert pages.returncode == 0, pages.stderr
    done = unet("predict", "--weights", trained, *flags, "--output", "out", "--format", "tif")
    assert done.returncode == 0, done.stderr
    overlays = [f"stack_{number:02d}_overlay.png" for number in range(1, 13)]
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == sorted(["stack.tif", "stack_instances.tif", "stack_probability.tif", *overlays])
    for extra in ("", "_instances", "_probability"):
        with tifffile.TiffFile(tmp_path / "out" / f"stack{extra}.tif") as tif:
            assert len(tif.pages) == 12
            for number, page in enumerate(tif.pages):
                alone = pixels(tmp_path / "pages" / f"stack_{number + 1:02d}{extra}.png")
                assert (page.asarray() == alone).all()
                assert page.asarray().dtype == alone.dtype
                assert page.tags[285].value == f"section {number}"
    for name in overlays:
        assert (pixels(tmp_path / "out" / name) == pixels(tmp_path / "pages" / name)).all()
    (row,) = json_lines(done.stdout)
    assert (row["output"], row["pages"], row["size"]) == ("out/stack.tif", 12, [70, 60])
    shares = [one["classes"]["foreground"] for one in json_lines(pages.stdout)]
    assert row["classes"]["foreground"] == pytest.approx(np.mean(shares), abs=1e-5)
    assert len({*shares}) > 3


def test_a_stack_of_masks_is_skipped_shared_and_written_again_as_one(unet: Run, trained, tmp_path):
    (tmp_path / "a").mkdir()
    draw_stack(tmp_path / "a" / "stack.tif")
    call = ["predict", "--weights", trained, "--input", "a", "--output", "out", "--format", "tif"]
    assert unet(*call, "--shard", "2/2").returncode == 0
    assert not list((tmp_path / "out").iterdir())
    assert unet(*call, "--shard", "1/2").returncode == 0
    first = contents(tmp_path / "out")
    done = unet(*call, "--skip-existing", "--overlay")  # the overlays are missing
    assert done.returncode == 0, done.stderr
    assert len(contents(tmp_path / "out")) == 6
    done = unet(*call, "--skip-existing")
    assert "1 already done" in done.stdout
    assert unet(*call).returncode == 0  # without --overlay: those of the former call would not be of these masks
    assert contents(tmp_path / "out") == first


@pytest.mark.parametrize("mode", ["resize", "tile"])
def test_a_stack_with_a_page_that_cannot_be_read_is_named_and_leaves_nothing(unet: Run, trained, tmp_path, mode):
    draw_stack(tmp_path / "stack.tif", 4, compression="zlib")
    with tifffile.TiffFile(tmp_path / "stack.tif") as tif:
        place = tif.pages[2].dataoffsets[0]
    whole = (tmp_path / "stack.tif").read_bytes()
    (tmp_path / "stack.tif").write_bytes(whole[:place] + b"\0" * 50 + whole[place + 50 :])
    call = ["predict", "--weights", trained, "--input", "stack.tif", "--output", "out", "--mode", mode]
    (tmp_path / "out").mkdir()
    tifffile.imwrite(tmp_path / "out" / "stack.tif", np.ones((2, 60, 70), np.uint8), software="unet")  # an older one
    assert_failed(unet(*call, "--format", "tif"), 3, "stack.tif", "is damaged", "--format png")
    assert list((tmp_path / "out").iterdir()) == []
    assert_failed(unet(*call, "--format", "png"), 3, "1 image failed")
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("mode", ["resize", "tile"])
def test_a_stack_continues_where_it_was_killed_to_the_same_bytes(trained, tmp_path, mode):
    draw_stack(tmp_path / "stack.tif", 30, 130, 130)
    flags = ["predict", "--weights", str(trained), "--input", "stack.tif", "--format", "tif", "--probabilities"]
    flags += ["--mode", mode]
    assert run_unet(*flags, "--output", "unbroken", cwd=tmp_path).returncode == 0
    part = tmp_path / "broken" / ".stack.tif.part"
    process = start_unet(*flags, "--output", "broken", cwd=tmp_path)
    while process.poll() is None and not (part.exists() and part.stat().st_size > 60_000):
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert part.exists()
    assert not (tmp_path / "broken" / "stack.tif").exists()
    done = run_unet(*flags, "--output", "broken", "--json", "--skip-existing", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows of a stopped call were used" in done.stdout
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")


def test_objects_are_numbered_filled_and_removed(unet: Run, trained, images, tmp_path):
    flags = ["--fill-holes", "--remove-smaller", 20, "--instances", "--threshold", "auto"]
    done = unet("predict", "--weights", trained, "--input", "imgs/deeper/c.png", "--output", "out", *flags)
    assert done.returncode == 0, done.stderr
    mask, objects = pixels(tmp_path / "out" / "c.png"), pixels(tmp_path / "out" / "c_instances.png")
    assert objects.dtype == np.uint16
    assert ((objects > 0) == (mask == 255)).all()
    assert all((objects == number).sum() >= 20 for number in range(1, objects.max() + 1))
    done = unet("predict", "--weights", trained, "--input", "imgs/deeper/c.png", "--output", "one", "--keep-largest")
    assert done.returncode == 0, done.stderr


def test_several_weights_and_flips(unet: Run, trained, images, tmp_path, three_classes):
    flags = ["--weights", trained, "--weights", trained.with_name("last.pth"), "--flips"]
    done = unet("predict", *flags, "--input", "imgs")
    assert done.returncode == 0, done.stderr
    assert "and 1 other network" in done.stderr
    (tmp_path / "settings.toml").write_text(f'weights = "{trained}"\n')
    assert unet("predict", "--config", "settings.toml", "--input", "imgs").returncode == 0
    mixed = unet("predict", "--weights", trained, "--weights", three_classes, "--input", "imgs")
    assert_failed(mixed, 1, "different classes")


def test_no_file_name_stops_a_job(unet: Run, trained, images, tmp_path):
    shutil.copy(images / "a.png", images / f"{'y' * 251}.png")
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "imgs_masks" / f"{'y' * 251}.png").is_file()
    done = unet("predict", "--weights", trained, "--input", "imgs", "--overlay", "--output", "out")
    assert_failed(done, 3, "yyy", "File name too long")
    assert "3 masks written" in done.stdout


def test_a_new_call_leaves_nothing_of_an_earlier_one_for_the_same_images(unet: Run, trained, images, tmp_path):
    out = tmp_path / "imgs_masks"
    assert unet("predict", "--weights", trained, "--input", "imgs", "--overlay", "--instances").returncode == 0
    Image.new("L", (3, 3)).save(out / "a_probability.png")  # the user's own
    (out / ".unet-elsewhere-1-2.tmp").touch()
    (images / "b.png").write_text("junk")
    done = unet("predict", "--weights", trained, "--input", "imgs", "--probabilities", "--output", "imgs_masks")
    assert_failed(done, 1, "a_probability.png already exists")
    assert (out / "a_overlay.png").exists()  # nothing was removed yet
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert_failed(done, 1, "choose an --output")
    done = unet("predict", "--weights", trained, "--input", "imgs", "--output", "imgs_masks")
    assert done.returncode == 3
    assert sorted(path.name for path in out.iterdir()) == [
        ".unet-elsewhere-1-2.tmp",
        "a.png",
        "a_probability.png",
        "deeper",
    ]
    assert [path.name for path in (out / "deeper").iterdir()] == ["c.png"]


def test_torchrun_shares_a_job_and_every_process_comes_to_its_end(trained, images, tmp_path):
    for index in range(6):
        shutil.copy(images / "a.png", images / f"copy{index}.png")
    (images / "a.png").write_text("junk")
    words = ["predict", "--device", "cpu", "--weights", str(trained), "--input", "imgs", "--output", "out"]
    process = PREPARED.start(words, tmp_path, torchrun=["--nproc-per-node", "2"])
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "a.png is not an image" in err
    assert len(list((tmp_path / "out").rglob("*.png"))) == 8


def test_quiet_is_quiet(unet: Run, trained, images):
    done = unet("predict", "--weights", trained, "--input", "imgs", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_usual_output_folder_is_not_used_where_it_holds_the_users_files(unet, trained, images, tmp_path):
    (tmp_path / "imgs_masks").mkdir()
    Image.new("L", (5, 5)).save(tmp_path / "imgs_masks" / "truth.png")
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert_failed(done, 1, "truth.png", "choose an --output")
    assert [path.name for path in (tmp_path / "imgs_masks").iterdir()] == ["truth.png"]


def test_shards_leave_what_the_others_have_written(unet: Run, trained, images, tmp_path):
    for shard in ("1/3", "2/3", "3/3"):
        done = unet("predict", "--weights", trained, "--input", "imgs", "--shard", shard, "--overlay")
        assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "imgs_masks").rglob("*.png")}
    assert names == {f"{stem}{extra}.png" for stem in "abc" for extra in ("", "_overlay")}


def test_what_can_not_be_looked_into_never_stops_the_rest(unet: Run, trained, images, tmp_path):
    (tmp_path / "imgs/loop").symlink_to("loop")
    (tmp_path / "imgs/self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "pipe.png")
    done = unet("predict", "--weights", trained, "--input", "imgs", "--output", "out")
    assert done.returncode == 3, done.stderr
    assert "3 masks written" in done.stdout
    assert "self.png" in done.stderr
    listed = unet("predict", "--weights", trained, "--input", "-", "--output", "list", stdin="pipe.png\nimgs/a.png\n")
    assert listed.returncode == 3, listed.stderr
    assert "pipe.png is a pipe or a device and no file" in listed.stderr
    assert (tmp_path / "list/a.png").exists()


def test_a_folder_that_can_not_be_looked_into_is_named_at_the_end(unet: Run, trained, images, tmp_path, monkeypatch):
    real = os.scandir

    def scandir(folder):
        if Path(folder).name == "deeper":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    unread = []
    assert [path.name for path in walk(tmp_path / "imgs", unread)] == ["a.png", "b.png"]
    assert "Permission denied" in str(unread[0])
    with pytest.raises(UserError, match="Permission denied"):
        list(walk(tmp_path / "imgs"))


def test_where_the_memory_does_not_suffice_batches_are_halved_and_one_image_fails_alone(trained, images, tmp_path):
    predictor = Predictor([load_checkpoint(trained)], Compute(torch.device("cpu"), "float32"), Inference(batch_size=4))
    real, tried = predictor.probabilities, []

    def probabilities(views):
        tried.append(len(views))
        if len(views) > 1 or views[0].inputs[0].amax() == 0:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return real(views)

    predictor.probabilities = probabilities
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "imgs/blank.png")
    names = ("a", "blank", "b", "deeper/c")
    jobs = [Job(Source((tmp_path / f"imgs/{name}.png",)), tmp_path / f"out/{name}.png") for name in names]
    config = PredictConfig(weights=(trained,), input="imgs")
    outcomes = {o.job.mask.stem: o.error for o in predict_all(predictor, config, jobs, StageTimes("writing")) if o}
    assert "needs more memory than there is" in outcomes.pop("blank")
    assert outcomes == {"a": None, "b": None, "c": None}
    assert tried[:2] == [4, 2]
    assert predictor.batch_size == 1


def test_a_batch_that_is_filled_up_is_halved_until_a_single_image_fits(trained, images, tmp_path):
    predictor = Predictor([load_checkpoint(trained)], Compute(torch.device("cpu"), "float32"), Inference(batch_size=8))
    real, sizes = predictor.probabilities, []

    def probabilities(views):
        sizes.append(predictor.batch_size)
        if predictor.batch_size > 2:
            raise MemoryError
        return real(views)

    predictor.probabilities = probabilities
    job = Job(Source((tmp_path / "imgs/a.png",)), tmp_path / "out/a.png")
    config = PredictConfig(weights=(trained,), input="imgs")
    assert [o.error for o in predict_all(predictor, config, [job], StageTimes("writing")) if o] == [None]
    assert sizes == [8, 4, 2]


def test_an_image_for_whose_tiles_there_is_no_room_fails_alone(trained, images, tmp_path, monkeypatch):
    config = PredictConfig(weights=(trained,), input="imgs", mode="tile")
    real = Tiled.add

    def add(self, view, probs):
        if self.size[0] > 90:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return real(self, view, probs)

    monkeypatch.setattr(Tiled, "add", add)
    Image.fromarray(np.zeros((100, 40, 3), np.uint8)).save(tmp_path / "imgs/tall.png")
    predictor = Predictor([load_checkpoint(trained)], Compute(torch.device("cpu"), "float32"), config)
    jobs = [Job(Source((tmp_path / f"imgs/{name}.png",)), tmp_path / f"out/{name}.png") for name in ("tall", "a")]
    outcomes = {o.job.mask.stem: o.error for o in predict_all(predictor, config, jobs, StageTimes("writing")) if o}
    assert "needs more memory" in outcomes["tall"]
    assert outcomes["a"] is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_tiles_that_were_tried_again_count_once(trained, images, tmp_path):
    config = PredictConfig(weights=(trained,), input="imgs", mode="tile", batch_size=4, probabilities=True)
    image = Image.fromarray(np.tile(pixels(tmp_path / "imgs/a.png"), (3, 3, 1))[:100, :100])
    image.save(tmp_path / "imgs/large.png")
    masks = []
    for name, failures in (("whole", 0), ("again", 3)):
        predictor = Predictor([load_checkpoint(trained)], Compute(torch.device("cpu"), "float32"), config)
        real, left = predictor.probabilities, [failures]

        def probabilities(views, real=real, left=left, predictor=predictor):
            if predictor.batch_size > 1 and left[0]:
                left[0] -= 1
                raise MemoryError
            return real(views)

        predictor.probabilities = probabilities
        job = Job(Source((tmp_path / "imgs/large.png",)), tmp_path / f"{name}.png", ("probability",))
        assert [o.error for o in predict_all(predictor, config, [job], StageTimes("writing")) if o] == [None]
        masks.append(pixels(tmp_path / f"{name}_probability.png").astype(int))
    assert np.abs(masks[0] - masks[1]).max() <= 1


def test_masks_that_have_vanished_are_not_called_written(unet: Run, trained, images, tmp_path, monkeypatch):
    outcome = Outcome(Job(Source((tmp_path / "imgs/a.png",)), tmp_path / "out/a.png"))
    assert "disappeared" in _still_there(outcome).error
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").touch()
    assert _still_there(outcome).error is None
