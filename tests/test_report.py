"""The page in a real browser where there is one, and as HTML that is parsed; panels and figures by their pixels and
shapes, worked by hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unet_cli.config.model import IGNORED
from unet_cli.data.colours import ERROR_COLOURS, IGNORED_COLOUR, Colours, colours_of
from unet_cli.data.labels import CLASS_COLOURS, LabelMap
from unet_cli.data.synthetic import draw_pair
from unet_cli.errors import UserError
from unet_cli.evaluation.panels import PANEL, Panels, draw_panels
from unet_cli.evaluation.scores import Score
from unet_cli.metrics.calibration import Reliability
from unet_cli.metrics.names import METRIC_NAMES, metric_name
from unet_cli.report.contents import Curve, Entry, Page, Sizes, Suspect
from unet_cli.report.figures import draw_losses, draw_reliability, draw_sizes, size_edges
from unet_cli.report.page import confusion_shares, percent, render, score_tables, write_report
from unet_cli.report.pages import strip_rows

NAN = float("nan")
HOSTILE_CLASS = "<script>alert(1)</script>&\"'$x$"
HOSTILE_FILE = '"><img src=x onerror=alert(1)>.png'
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

# Picks each order of the gallery, always after that by name, and writes what is then seen into the page.
DRIVER = """
<script>
document.querySelectorAll("details").forEach(one => { one.open = true });
const seen = {}, select = document.getElementById("sort");
for (const option of select.options) {
  for (const value of ["name 1", option.value]) {
    select.value = value;
    select.dispatchEvent(new Event("change"));
  }
  seen[option.value] = [...document.querySelectorAll("#gallery article")].map(card => card.dataset.name);
}
const broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).length;
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const shown = select.checkVisibility(), classes = document.querySelectorAll(".confusion tbody th").length;
const found = document.createElement("pre");
found.id = "found";
found.textContent = JSON.stringify({seen, broken, wide, shown, classes, errors: window.errors});
document.body.append(found);
</script>
"""
WATCHER = "<script>window.errors = []; window.onerror = message => { errors.push(message) }; alert = onerror</script>"


def colours(*names: str) -> Colours:
    """Of classes whose masks hold 0, 1, 2, ... and no colours."""
    return colours_of(LabelMap(tuple(range(len(names))), names))


TWO, THREE = colours("0", "1"), colours("0", "1", "2")


class Parsed(HTMLParser):
    """The tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def panels() -> Panels:
    image, mask = draw_pair(seed=0, index=0)
    target = (mask[:64, :64] > 0).astype(np.uint8)
    return draw_panels(np.moveaxis(image[:64, :64], -1, 0), target, np.roll(target, 2, 1), TWO)


@pytest.fixture(scope="module")
def plain(panels: Panels) -> str:
    return render(make_page(panels))


@pytest.fixture(scope="module")
def hostile(panels: Panels) -> str:
    return render(make_page(panels, ("background", "cell", HOSTILE_CLASS)))


def reliability(classes: int) -> Reliability:
    middles = (np.arange(15) + 0.5) / 15
    middles[3] = NAN
    values = np.tile(middles, (classes, 1))
    return Reliability(values, values**1.2, np.where(np.isnan(values), 0, 100))


def make_page(panels: Panels, classes: tuple[str, ...] = ("background", "cell", "debris")) -> Page:
    """A page that has everything, of three images."""
    names = ("all", *classes[1:])
    entries = [
        Entry("a10.png", 0.9, 0.03, 0.01, 0.0, panels),
        Entry("a9.png", NAN, 0.0, 0.02, 0.1, panels),
        Entry(HOSTILE_FILE, 0.5, 0.02, 0.0, 0.2, panels),
    ]
    return Page(
        title="cells & debris",
        facts=[("data", "320 images")],
        command="unet train --data 'a \"b\"'",
        colours=colours(*classes),
        strip=[("worst of 3", entries[2]), ("median", entries[0])],
        curves=[Curve("fold1", [1, 2], [1.0, 0.5], [NAN, 0.6], [NAN, 0.8])],
        scores=[Score(metric, name, 0.84149, 0.8125, 0.871) for metric in METRIC_NAMES for name in names],
        units="px",
        images=3,
        entries=entries,
        sizes=Sizes(np.array([1, 3, 40]), np.array([2]), np.array([5, 6])),
        before=reliability(len(classes) - 1),
        after=reliability(len(classes) - 1),
        temperatures=(1.5,),
        confusion=np.arange(len(classes) ** 2).reshape(len(classes), -1),
        notes=["one mask is empty"],
        suspects=[Suspect("b.png", 0.03, 1234, *classes[:2], panels)],
    )


def shown_colours(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def test_a_browser_shows_the_page_without_an_error_and_sorts_it(tmp_path: Path, hostile: str):
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        pytest.skip("no Chromium here")
    page = tmp_path / "page.html"
    page.write_text(hostile.replace("<head>", "<head>" + WATCHER).replace("</body>", DRIVER + "</body>"))
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    command += ["--window-size=500,900", f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    text = Parsed(dom).text
    found = json.loads(text[text.rindex('{"seen"') : text.rindex("}") + 1])
    assert found.pop("seen") == {
        "score 1": [HOSTILE_FILE, "a10.png", "a9.png"],
        "score -1": ["a10.png", HOSTILE_FILE, "a9.png"],
        "missed -1": ["a10.png", HOSTILE_FILE, "a9.png"],
        "missed 1": ["a9.png", HOSTILE_FILE, "a10.png"],
        "false -1": ["a9.png", "a10.png", HOSTILE_FILE],
        "false 1": [HOSTILE_FILE, "a10.png", "a9.png"],
        "wrong -1": [HOSTILE_FILE, "a9.png", "a10.png"],
        "wrong 1": ["a10.png", "a9.png", HOSTILE_FILE],
        "name 1": [HOSTILE_FILE, "a9.png", "a10.png"],
        "name -1": ["a10.png", "a9.png", HOSTILE_FILE],
    }
    assert found == {"broken": 0, "wide": False, "shown": True, "classes": 3, "errors": []}


def test_names_from_users_are_text_and_nothing_else(plain: str, hostile: str):
    expected, found = Parsed(plain), Parsed(hostile)
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in expected.tags]
    assert HOSTILE_CLASS in found.text
    assert HOSTILE_FILE in found.text
    assert not any(key.startswith("on") for _, attributes in found.tags for key in attributes)
    assert any(attributes.get("data-name") == HOSTILE_FILE for _, attributes in found.tags)


def test_everything_is_inside_the_file(plain: str):
    parsed = Parsed(plain)
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        assert (attributes.get("src") or "data:").startswith("data:")
        for key in ("href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", plain)
    assert "@import" not in plain
    assert parsed.count("img") == 4 * 4 + 2 * 3
    assert parsed.count("svg") == 5


def test_ids_are_unique_and_figures_refer_to_their_own(plain: str):
    ids = re.findall(r'\bid="([^"]*)"', plain)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]*)\)", plain) + re.findall(r'href="#([^"]*)"', plain)) <= set(ids)


def test_the_gallery_begins_with_the_worst_even_without_a_script(plain: str):
    cards = [attributes for tag, attributes in Parsed(plain).tags if "data-score" in attributes]
    assert [card["data-name"] for card in cards] == [HOSTILE_FILE, "a10.png", "a9.png"]


def bare(panels: Panels) -> Page:
    """A page that has a title and facts."""
    page, none = make_page(panels, ("background", "cell")), np.zeros(0, np.int64)
    page = replace(
        page, curves=[], scores=[], strip=[], entries=[], sizes=Sizes(none, none, none), before=None, after=None
    )
    return replace(page, notes=[], suspects=None, command="")


def test_what_is_not_there_has_no_section(panels: Panels, plain: str):
    assert Parsed(plain).count("h2") == 10
    assert Parsed(render(bare(panels))).count("h2") == 2  # a summary, and how it was made
    assert "None stands out." in render(replace(bare(panels), suspects=[]))


def test_scores_stand_in_groups_with_unit_interval_and_words(panels: Panels):
    scores = [
        Score("mine", "all", 0.5, NAN, NAN),
        Score("hd95", "cell", 12.345, 11, 14),
        Score("dice", "all", 0.84149, 0.8125, 0.871),
        Score("dice", "debris", NAN, NAN, NAN),
    ]
    page = replace(bare(panels), colours=colours("background", "cell", "debris"), confusion=np.eye(3), scores=scores)
    page = replace(page, units="µm")
    first, second, third = score_tables(page)
    assert (first.title, first.columns) == (METRIC_NAMES["dice"].group, ["all", "debris"])
    assert first.rows[0].cells == [("0.841", "0.812 to 0.871"), ("–", "")]
    assert (second.columns, second.rows[0].unit) == (["cell"], "µm")
    assert second.rows[0].cells == [("12.3", "11.0 to 14.0")]
    assert third.rows[0].name.label == "mine"
    text = Parsed(render(page)).text
    assert "Hausdorff distance, 95 %, µm" in text
    assert METRIC_NAMES["dice"].meaning in text


def test_pictures_come_first_then_curves_then_the_headline_and_the_rest_is_folded(plain: str):
    order = ["The worst and the median images", "worst of 3:", "median:", "<h2>Training</h2>", "<h2>Scores</h2>"]
    order += ['class="headline"', "<details open>", "Training masks to review", "<details>\n", "All scores"]
    places = [plain.index(part, plain.index("<body>")) for part in order]
    assert places == sorted(places)
    before_folds = plain[plain.index("<body>") : plain.index("<details")]
    assert "<table" not in before_folds
    assert Parsed(before_folds).count("img") == 2 * 3  # image, mask, prediction
    assert Parsed(plain).count("details") == 7


def test_what_is_folded_is_printed(plain: str):
    assert 'addEventListener("beforeprint"' in plain


def test_the_score_table_of_many_classes_is_wrapped_and_scrolls(panels: Panels):
    names = tuple(f"class {index}" for index in range(20))
    scores = [Score("dice", name, 0.5, 0.4, 0.6) for name in ("all", *names[1:])]
    page = replace(bare(panels), colours=colours(*names), confusion=np.eye(20), scores=scores)
    tables = score_tables(page)
    assert [len(table.columns) for table in tables] == [7, 7, 6]
    assert sum((table.columns for table in tables), []) == ["all", *names[1:]]
    assert all(len(row.cells) == len(table.columns) for table in tables for row in table.rows)
    html = render(page)
    assert html.count('<div class="wide"') == html.count("<table")
    assert re.search(r"\.wide \{[^}]*overflow-x: auto", html)


def test_the_page_has_the_colours_of_the_masks(panels: Panels):
    painted = colours_of(LabelMap((0, 0x00FF00, 0x56B4E9), ("background", "leaf", "sky"), "colours"))
    html = render(replace(make_page(panels), colours=painted))
    legend = html[html.index("Mask and prediction:") :].split("</ul>")[0]
    assert re.findall(r"rgb(\([\d, ]+\))", legend) == ["(0, 0, 0)", "(0, 255, 0)", "(86, 180, 233)"]
    assert painted.errors["false"] != (86, 180, 233)
    assert f"rgb{painted.errors['false']}" in html
    target = np.array([[0, 1, 2]], np.uint8)
    drawn = draw_panels(np.zeros((1, 1, 3), np.uint8), target, target, painted)
    assert shown_colours(drawn.mask)[0].tolist() == [[0, 0, 0], [0, 255, 0], [86, 180, 233]]
    assert shown_colours(drawn.errors)[0].tolist() == [
        list(painted.errors[kind]) for kind in ("background", "right", "right")
    ]


@pytest.mark.parametrize(
    ("scores", "worst", "median"),
    [
        ([0.5], [0], []),
        ([0.9, 0.1], [1], []),
        ([0.9, 0.1, 0.5], [1], [2]),
        ([NAN, 0.9, 0.1, 0.5], [2], [3]),
        ([NAN, NAN], [0], []),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 0.0], [10, 0, 1], [3, 4, 5]),
    ],
)
def test_the_strip_has_the_worst_and_the_middle(scores: list[float], worst: list[int], median: list[int]):
    found = strip_rows(np.array(scores))
    assert [row for what, row in found if "worst" in what] == worst
    assert [row for what, row in found if what == "median"] == median


def test_a_single_class_has_one_column(panels: Panels):
    tables = score_tables(make_page(panels, ("background", "cell")))
    assert {tuple(table.columns) for table in tables} == {("all",)}
    assert sum(len(table.rows) for table in tables) == len(METRIC_NAMES)


def test_metrics_that_are_worse_when_higher_are_marked():
    lower = {metric for metric, name in METRIC_NAMES.items() if name.higher is False}
    errors = {"count_error", "relative_count_error", "split_rate", "merge_rate"}
    assert lower == {"hd95", "assd", "calibration_error", *errors}
    assert metric_name("mine").higher is None


def test_confusion_is_of_each_class_of_the_truth(panels: Panels):
    confusion = np.array([[9, 1, 0], [0, 0, 0], [2, 2, 4]])
    expected = [[0.9, 0.1, 0], [NAN, NAN, NAN], [0.25, 0.25, 0.5]]
    np.testing.assert_array_equal(confusion_shares(confusion), expected)
    parsed = Parsed(render(replace(bare(panels), colours=colours("a", "b", "c"), confusion=confusion)))
    assert [tag for tag, attributes in parsed.tags if attributes.get("class") == "hit"] == ["td"] * 3
    assert "90.0" in parsed.text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (0.0004, "< 0.1 %"), (0.0005, "0.1 %"), (0.254, "25.4 %"), (NAN, "–")]
)
def test_a_share_is_never_rounded_to_nothing(share: float, text: str):
    assert percent(share) == text


def test_a_name_that_is_no_unicode_is_written_somehow(tmp_path: Path, panels: Panels):
    entry = Entry("caf\udce9.png", 0.5, 0.1, 0.1, 0.0, panels)
    write_report(tmp_path / "report.html", replace(bare(panels), entries=[entry]))
    assert "caf\\udce9.png" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_same_findings_make_the_same_file(panels: Panels, plain: str):
    assert render(make_page(panels)) == plain


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, panels: Panels):
    with pytest.raises(UserError, match=r"nowhere.*check the path"):
        write_report(tmp_path / "nowhere" / "report.html", bare(panels))


def test_errors_have_a_colour_each():
    target = np.array([[0, 0, 1, 1, 1, IGNORED, IGNORED]], np.uint8)
    pred = np.array([[0, 2, 0, 1, 2, 0, 1]], np.uint8)
    drawn = draw_panels(np.zeros((1, 1, 7), np.uint8), target, pred, THREE)
    kinds = ["background", "false", "missed", "right", "wrong class", "ignored", "ignored"]
    assert [tuple(colour) for colour in shown_colours(drawn.errors)[0]] == [THREE.errors[kind] for kind in kinds]


def test_masks_have_the_colours_of_written_masks_and_one_class_is_white():
    target, pred = np.array([[0, 1, 2, IGNORED]], np.uint8), np.array([[2, 1, 0, 0]], np.uint8)
    several = draw_panels(np.zeros((1, 1, 4), np.uint8), target, pred, THREE)
    assert [tuple(colour) for colour in shown_colours(several.mask)[0]] == [*CLASS_COLOURS[:3], IGNORED_COLOUR]
    assert [tuple(colour) for colour in shown_colours(several.pred)[0]] == [
        CLASS_COLOURS[place] for place in (2, 1, 0, 0)
    ]
    one = draw_panels(np.zeros((1, 1, 4), np.uint8), np.minimum(target, 1), np.minimum(pred, 1), TWO)
    assert [tuple(colour) for colour in shown_colours(one.pred)[0]] == [(255,) * 3, (255,) * 3, (0,) * 3, (0,) * 3]


@pytest.mark.parametrize("classes", [2, 17, 255])
def test_any_number_of_classes_has_colours(classes: int):
    target = np.arange(256, dtype=np.uint8)[None] % classes
    target[0, -1] = IGNORED
    drawn = shown_colours(
        draw_panels(np.zeros((1, 1, 256), np.uint8), target, target % classes, colours(*map(str, range(classes)))).mask
    )
    assert tuple(drawn[0, -1]) == IGNORED_COLOUR
    assert (drawn[0, 1:classes].max(-1) > 0).all()


def test_a_single_wrong_pixel_of_a_large_image_is_seen():
    target = np.ones((700, 1501), np.uint8)
    for pixel, cell in (((0, 0), [0, 0]), ((699, 1500), [148, 319]), ((333, 777), [71, 165])):
        pred = target.copy()
        pred[pixel] = 0
        errors = shown_colours(draw_panels(np.zeros((1, 700, 1501), np.uint8), target, pred, TWO).errors)
        assert errors.shape == (149, PANEL, 3)
        assert np.argwhere((errors == ERROR_COLOURS["missed"]).all(-1)).tolist() == [cell]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_of_any_depth_are_stretched_and_shrunk(dtype: type, channels: int):
    pixels = np.zeros((channels, 400, 640), dtype)
    pixels[:, :200] = 30
    target = np.zeros((400, 640), np.uint8)
    image = Image.open(BytesIO(draw_panels(pixels, target, target, TWO).image))
    assert (image.format, image.size) == ("JPEG", (PANEL, 200))
    assert np.abs(np.asarray(image)[:98].astype(int) - 255).max() <= 4
    assert np.asarray(image)[102:].max() <= 4


def test_a_small_image_keeps_its_size(panels: Panels):
    files = (panels.image, panels.mask, panels.pred, panels.errors)
    assert {Image.open(BytesIO(file)).size for file in files} == {(64, 64)}


def test_sizes_are_parted_by_threes_and_tens():
    assert size_edges(1).tolist() == [1, 3]
    assert size_edges(2).tolist() == [1, 3]
    assert size_edges(3).tolist() == [1, 3, 10]
    assert size_edges(1000).tolist() == [1, 3, 10, 30, 100, 300, 1000, 3000]


def test_figures_take_the_colour_of_the_text_around_them():
    curves = [Curve("a", [1, 2, 3], [1.0, NAN, 0.5], [0.9, 0.8, 0.7], [0.1, 0.2, 0.3])] * 2
    for svg in (draw_losses(curves), draw_sizes(Sizes(np.array([4]), np.zeros(0), np.zeros(0)), ERROR_COLOURS)):
        assert svg.startswith("<svg viewBox=")
        assert "currentColor" in svg
        assert "#000000" not in svg
        assert "#ffffff" not in svg
        assert "http" not in svg


def test_the_last_bits_of_probabilities_change_no_figure():
    found = reliability(1)
    noise = np.random.default_rng(0).uniform(-1e-7, 1e-7, (2, 1, 15))
    nearly = replace(found, confidence=found.confidence + noise[0], frequency=found.frequency + noise[1])
    assert draw_reliability("before", nearly) == draw_reliability("before", found)
    clearly = replace(found, confidence=found.confidence + 0.002)
    assert draw_reliability("before", clearly) != draw_reliability("before", found)
