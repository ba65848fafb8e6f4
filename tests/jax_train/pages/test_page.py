"""Pages: complete, self-contained, accessible, escaped; right in a browser, on a phone too."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from itertools import pairwise
from math import comb
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jax_models.cpu import onednn
from jax_train.analysis import comparison as compare
from jax_train.analysis import costs
from jax_train.data import load_split
from jax_train.drawing import results
from jax_train.engine import metrics
from jax_train.pages import comparison, facts, page, run
from jax_train.runs import folder as run_folder
from jax_train.runs import trained
from jax_train.runs.history import History, read_history
from tests.jax_train.pages import hostile

PAGES = ("vit/report.html", "simple_cnn/report.html", "comparison.html")
VOID = {"meta", "link", "img", "br"}
pytestmark = pytest.mark.xdist_group("pages")  # one worker: the runs are made once


class Parsed(HTMLParser):
    """The elements of a page as (tag, attributes), and its text; refuses tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), tuple(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text.append(data)

    def all(self, *tags):
        return [attrs for tag, attrs, _ in self.elements if tag in tags]


@pytest.fixture(scope="session", params=PAGES)
def file(request, compared_runs):
    return compared_runs[0] / request.param


@pytest.fixture(scope="session")
def parsed(file):
    return Parsed(file.read_text())


def test_page_needs_nothing_but_itself(parsed, file):
    assert file.stat().st_size < 5e6
    assert not parsed.all("script", "iframe", "object", "embed", "video", "audio", "form")
    for attrs in parsed.all("img", "link", "a"):
        address = attrs.get("src") or attrs["href"]
        assert address.startswith(("data:", "#")), address
        assert not any(name.startswith("on") for name in attrs)
    style = file.read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "http:" not in file.read_text()
    assert "https:" not in file.read_text()


def test_every_picture_is_a_png_with_an_alternative_text(parsed, file):
    pictures = parsed.all("img")
    assert len(pictures) > 12
    for attrs in pictures:
        assert len(attrs["alt"]) > 10
        data = base64.b64decode(attrs["src"].removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.size == (int(attrs["width"]), int(attrs["height"]))
    beside = list(file.with_suffix("").glob("*.png"))
    assert len(beside) >= len({attrs["src"] for attrs in pictures})
    for png in beside:
        with Image.open(png) as image:
            image.load()


def test_headings_tables_and_links_are_accessible(parsed, file):
    levels = [int(tag[1]) for tag, _, _ in parsed.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attrs["scope"] in ("row", "col") for attrs in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table")) >= 3
    for tag, _, around in parsed.elements:
        assert tag != "table" or around[-1] == "div"
    ids = [attrs["id"] for _, attrs, _ in parsed.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for attrs in parsed.all("a")} == {f"#{name}" for name in ids}
    assert parsed.all("html") == [{"lang": "en"}]
    assert any(attrs.get("name") == "viewport" for attrs in parsed.all("meta"))


def test_names_are_escaped(parsed, file):
    told = "".join(parsed.text)
    assert all(name in told for name in hostile.CLASSES)
    assert "R&D <b>pets" in told
    assert not parsed.all("b", "i", "script")
    assert "<script" not in file.read_text()


def test_an_example_has_one_name_on_a_page_that_of_its_file(parsed, file, compared_runs):
    """Also in the alternative texts; markup in it stays text."""
    told = " ".join(parsed.text + [attrs["alt"] for attrs in parsed.all("img")])
    found = set(re.findall(r"test/(?:<script>alert\(1\)|a&amp;b|it's \"\$x_1\$\")/\d+\.png", told))
    assert len(found) > 4
    folder = compared_runs[0].parent / "R&D <b>pets"
    assert all((folder / name).is_file() for name in found)
    assert "test image" not in told.replace("test images", "")


def test_page_tells_what_results_json_holds(compared_runs):
    for model in ("vit", "simple_cnn"):
        results = run_folder.results(compared_runs[0] / model)
        for name in ("comparison.html", f"{model}/report.html"):
            told = "".join(Parsed((compared_runs[0] / name).read_text()).text)
            assert page.percent(results["test"]["top1"]) in told
            assert f"{results['test']['loss']:.4f}" in told
            assert f"{results['parameters']:,}" in told
            assert "train[:80%] (96 images)" in told
            assert "test (39 images)" in told
            assert "Note: 2 test images also serve as validation images." in told
            assert "began with" not in told


def test_worst_mistakes_are_all_wrong_and_in_order(compared_runs):
    text = (compared_runs[0] / "vit" / "report.html").read_text()
    said = re.findall(r'says <strong class="wrong">.+</strong> .(\d+)', text)
    shares = [int(share) for share in said]
    wrong = 39 - round(39 * run_folder.results(compared_runs[0] / "vit")["test"]["top1"])
    assert len(shares) == min(24, wrong) > 1
    assert shares == sorted(shares, reverse=True)


def test_images_that_serve_twice_are_noted_once(compared_runs):
    run = trained.open_run(compared_runs[0] / "vit")
    split = load_split(run.config, "train[:3]")
    evaluation = SimpleNamespace(tta=(), confidences=np.ones(3))
    stored = {"notes": ["note: 3 test images are among the training images"]}
    finished = dataclasses.replace(run, results=stored)
    assert facts.notes(finished, evaluation, split) == [
        "3 test images are among the training images"
    ]
    stopped = dataclasses.replace(run, results=None, notes=("the run is not finished",))
    assert facts.notes(stopped, evaluation, split) == [
        "the run is not finished",
        "3 of these images are among the training images",
    ]


# In a browser


@pytest.mark.parametrize("width", [360, 1200])
def test_browser_shows_all_and_the_body_does_not_scroll_sideways(tab, file, width):
    tab.open(file, width)
    assert tab.problems() == []
    seen = "[...document.images].map(image => image.naturalWidth)"
    assert min(tab.evaluate(seen)) > 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("window.innerWidth") == width
    assert tab.evaluate("document.scripts.length") == 0


def test_a_picture_can_be_enlarged_on_a_phone_and_made_small_again(tab, file):
    tab.open(file, 375)
    width = "document.querySelector('figure img').getBoundingClientRect().width"
    assert tab.evaluate(width) < 375
    tab.evaluate("document.querySelector('figure a').click()")
    assert tab.evaluate(width) > 800  # 9 points are 16 pixels then
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375
    tab.evaluate("document.querySelector('figure .back').click()")
    assert tab.evaluate(width) < 375
    assert tab.problems() == []


def test_captions_of_wide_tables_stay_and_are_seen_whole(tab, file):
    tab.open(file, 375)
    ends = """[...document.querySelectorAll('.scroll')].map(part => {
        part.scrollLeft = 60;
        const box = part.querySelector('caption span').getBoundingClientRect();
        return [box.left, box.right]})"""
    for left, right in tab.evaluate(ends):
        assert left >= 0
        assert right <= 375


def test_dark_scheme_is_dark(tab, file):
    ground = "getComputedStyle(document.body).backgroundColor"
    tab.open(file, scheme="light")
    light = tab.evaluate(ground)
    tab.open(file, scheme="dark")
    assert sum(map(int, light[4:-1].split(","))) > 600
    assert sum(map(int, tab.evaluate(ground)[4:-1].split(","))) < 150


# The figures on it


def test_agreement_is_counted_and_tested_as_by_hand():
    first = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], bool)
    second = np.array([1, 1, 0, 1, 1, 1, 1, 1, 0, 0], bool)
    found = compare.agreement(first, second)
    assert found[:4] == (2, 1, 5, 2)
    assert found.p_value == pytest.approx(2 * (comb(6, 0) + comb(6, 1)) / 2**6)
    assert compare.agreement(first, first).p_value == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.21875, "p = 0.22"), (0.031, "p = 0.031"), (0.0042, "p = 0.0042"), (1e-9, "p < 0.001")],
)
def test_p_values_are_readable(value, text):
    assert compare.p_text(value) == text


def test_a_class_without_images_has_no_figures():
    by_class = {"images": np.array([2, 0])} | metrics.class_figures(np.array([[2, 0], [0, 0]]))
    confused = np.array([1, 0]), np.array([0, 0])
    names = "cat", "dog"
    found = SimpleNamespace(by_class=by_class, most_confused=confused, class_names=names)
    figures = [[row[key] for key in ("recall", "precision", "f1")] for row in run.class_rows(found)]
    assert figures == [[page.percent(1)] * 3, ["–"] * 3]
    recalls = {"a": by_class["recall"]}
    rows = comparison.class_rows(names, recalls, by_class["images"])
    assert [row["cells"] for row in rows] == [
        [(page.percent(1), False)],
        [("–", False)],
    ]
    assert results.accuracy_by_class(recalls, names).alt.endswith("mean: a 100.0 %.")


def test_groups_hold_every_image_once(compared_runs):
    compared = compare.load([compared_runs[0] / name for name in ("vit", "simple_cnn")])
    groups = compare.groups(compared)
    assert [group.title for group in groups] == [
        "Both are right",
        "Only vit is right",
        "Only simple_cnn is right",
        "Neither is right",
    ]
    assert sorted(np.concatenate([group.images for group in groups])) == list(range(39))
    counts = compare.agreement(*(one.right for one in compared))
    assert [len(group.images) for group in groups] == list(counts[:4])
    assert not compared[0].right[groups[2].images].any()
    assert compared[1].right[groups[2].images].all()
    three = compare.groups([compared[0], compared[1], compared[1]])
    assert sum(len(group.images) for group in three) == 39
    assert len(three[4].images) == len(groups[2].images)  # right by two of three


@pytest.mark.parametrize("least", [onednn.LEAST_FLOPS, 0])  # XLA does not see into the kernels
def test_flops_are_those_counted_by_hand(compared_runs, least, monkeypatch):
    monkeypatch.setattr(onednn, "LEAST_FLOPS", least)
    run = trained.open_run(compared_runs[0] / "simple_cnn")
    found = costs.flops(run, (8, 8, 3))
    # Two convolutions a stage; at the border a 3x3 window loses (3 - 2/side) of 3 rows, columns.
    macs = sum(
        (side * (3 - 2 / side)) ** 2 * (before * after + after * after)
        for side, before, after in ((8, 3, 5), (4, 5, 7))
    )
    assert 2 * macs <= found.forward <= 2.6 * macs
    assert 2.5 * found.forward <= found.train <= 4.5 * found.forward


def test_points_of_few_steps_do_not_stray_in_curves():
    """Log points every 50 steps in epochs of 22: those at 50 and 100 come soon after an epoch."""
    steps = np.array([22, 44, 50, 66, 88, 100, 110, 132, 133])
    losses = np.array([4, 3, 9, 2, 1, 8, 2, 1, 7.0])
    rows = np.column_stack([steps / 22, losses, losses / 10])
    even = History(rows, rows[:0], rows[:0]).even_train
    np.testing.assert_allclose(even[:, 0] * 22, [22, 44, 66, 88, 110, 133])
    expected = [4, 3, (6 * 9 + 16 * 2) / 22, 1, (12 * 8 + 10 * 2) / 22, (22 * 1 + 7) / 23]
    np.testing.assert_allclose(even[:, 1], expected)
    np.testing.assert_allclose(even[:, 2], np.array(expected) / 10)
    assert History(rows[:0], rows[:0], rows[:0]).even_train.shape == (0, 3)


def test_history_weighs_the_rows_of_the_last_epoch(tmp_path):
    rows = [(0.5, 9), (1.0, 8), (1.25, 4), (2.0, 2)]
    text = "step,epoch,split,loss,top1,seconds\n"
    text += "".join(f"1,{epoch},train,{loss},0.5,3\n" for epoch, loss in rows)
    text += "1,1.0,val,1,0.7,3\n1,1.5,val,1,0.7,3\n1,2.0,val,1,0.6,4\n"
    (tmp_path / "metrics.csv").write_text(text)
    history = read_history(tmp_path)
    assert history.last_train_loss == pytest.approx(0.25 * 4 + 0.75 * 2)
    assert history.best_val == (0.7, 1.5)
