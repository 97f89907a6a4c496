"""The report as a page: what stands in it, without and with a real browser."""

import base64
import dataclasses
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import maskc as api
from maskc.compilation.compile_report import CompileReport
from maskc.report import charts, page
from maskc.results.document import Document
from maskc.results.layers import Layer
from maskc.results.measurements import ErrorHistogram, Figures, OutputError
from passes.planning.masked_axes import Held, MaskedAxis
from tests.maskc import browser, build
from tests.maskc.command import ROOT, succeeded

HOSTILE = "<script>document.title='bad'</script><img src=x onerror=\"document.title='bad'\">&'\u202e\x07`<b>`"


class Reader(HTMLParser):
    """The elements of a page and its text, without scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def deep(count: int, name: str = "encoder/block/dense") -> ModelProto:
    """So many masked matrix products; their names begin with `name`."""
    rng = np.random.default_rng(0)
    body, weights, last, width = "", {"last": (10, 4)}, "x", 8
    for i in range(count):
        mask = 1.0 * (rng.random(10) < 0.6)
        mask[0] = 1.0
        body += f"[named_{i}] a{i} = MatMul({last}, w{i}) s{i} = Add(a{i}, b{i}) "
        body += f"r{i} = Relu(s{i}) d{i} = Mul(r{i}, m{i})\n"
        weights |= {f"w{i}": (width, 10), f"b{i}": (10,), f"m{i}": mask}
        last, width = f"d{i}", 10
    model = build.model("(float[n,8] x) => (float[n,4] y)", f"{body} [scores] y = MatMul({last}, last)", **weights)
    for node in model.graph.node:  # only now, as a name may have any characters
        node.name = node.name.replace("named", name)
    return model


def document(**changes: Any) -> Document:
    """A document with something in every part of it, and these changes."""
    report = CompileReport(
        maskc="0.1.0",
        model="dir/model.onnx",
        before=Figures(1_234_567, 600_000, 20_000, 80_321),
        after=Figures(123_456, 60_000, 2_000, 9_999),
        masked=(MaskedAxis("t", 1, 8, 4, 1, (0, 1, 2, 5)),),
        held=(Held("t", 1, (0, 1, 2), "sum", "Add", "reads another branch", "other", "do `this`"),),
        seconds={"facts": 0.25},
        notes=("A note.",),
        warnings=("A warning.",),
        output="out.onnx",
        layers=(
            Layer("first", "Conv", 64, 32, 1_000_000, 100_000, 500, 50),
            Layer("second", "Conv", None, None, 200_000, 20_000, 40, 40, name_after="2nd"),
            Layer("old", "MatMul", 8, None, 10, 0, only="before"),
            Layer("fresh", "MatMul", None, 8, 0, 10, only="after"),
        ),
    )
    return dataclasses.replace(report.document(), **changes)


def verified(model: ModelProto | None = None, **changes: Any) -> Document:
    """The document of a model that was verified, the perceptron by default, with changes of the verification."""
    made = api.compile(model or build.mlp(), verify=True).report.document()
    assert made.verification is not None
    return dataclasses.replace(made, verification=dataclasses.replace(made.verification, **changes))


def output(**changes: Any) -> OutputError:
    """An output with errors, and these changes."""
    known = OutputError(
        "y", "ONNX Runtime", "float32", 1e-6, 1e-7, 2e-7, 3.0, 1.0, 5.0, 1e-6, 0.0, False, True, None, 9
    )
    return dataclasses.replace(known, **changes)


# Without a browser.


def test_figures_layers_and_holders_are_told() -> None:
    text = Reader(page.page(document())).text
    for shown in (
        *("model.onnx", "Not verified", "10.00× reduction", "1,234,567 → 123,456", "80.3 kB → 10 kB"),
        *("first Conv", "64 → 32", "1.00 M → 100 k", "500 → 50", "after: 2nd", "old MatMul", "gone", "fresh", "new"),
        *("All other operators together: 34.6k → 3,446 FLOPs", "4 masked, 1 removed, 3 kept"),
        *("Add sum reads another branch.", "axis 1, channels 0-2; still computed by other", "What to do: do this"),
        *("Latency was not measured", "Warning: A warning.", "A note.", "Compiled in 0.25 s", "maskc 0.1.0, python"),
    ):
        assert re.sub(r"\s", "", shown) in re.sub(r"\s", "", text), shown


def test_nothing_is_fetched_and_nothing_is_taken_for_markup() -> None:
    hostile = CompileReport(
        maskc="0.1.0",
        model=f"{HOSTILE}.onnx",
        before=Figures(10, 5, 2, 4),
        after=Figures(1, 1, 1, 2),
        masked=(MaskedAxis(HOSTILE, 1, 8, 4, 1, (0, 1, 2, 5)),),
        held=(Held(HOSTILE, 1, (0, 1, 2), HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        seconds={HOSTILE: 0.25},
        notes=(HOSTILE,),
        warnings=(HOSTILE,),
        output=f"{HOSTILE}\udc80",
        layers=tuple(Layer(HOSTILE, HOSTILE, 1, 1, 1, 1, name_after=HOSTILE, op_after=HOSTILE) for _ in range(3)),
    ).document()
    source = page.page(hostile)
    tags = Reader(source).tags
    assert [tag for tag, _ in tags].count("script") == 1
    assert not [tag for tag, _ in tags if tag in ("img", "iframe", "object", "embed", "base")]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on") or name == "src"]
    assert [a["href"] for _, a in tags if "href" in a] == ["data:,"]
    assert not re.search(r"https?:|//[a-z]|@import|url\(", source)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", source)
    source.encode()


def test_every_state_of_a_verification_is_told() -> None:
    failed: dict[str, Any] = {"passed": False, "reasons": ("It is too large.",)}
    for changes, title in (
        ({}, "Outputs match"),
        (failed, "Outputs match, reduction too small"),
        ({**failed, "equivalent": False, "outputs": ()}, "Outputs differ"),
    ):
        text = Reader(page.page(verified(**changes))).text
        assert title in text and ("It is too large." in text) == bool(changes)


def test_models_that_were_not_run_are_not_said_to_be(tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    assert not api.verify(build.mlp(), build.cnn(), reports=[report]).passed
    text = Reader(report.read_text()).text
    assert "The models were not run." in text and "samples" not in text.partition("Figures")[0]
    assert "No output could be compared." in text and "× more" in text and "× less" not in text


def test_many_outputs_are_folded() -> None:
    counted = ErrorHistogram(3, -8.0, 0.5, (1, 0, 2))
    outputs = tuple(output(name=f"out{i}", histogram=counted) for i in range(40))
    read = Reader(page.page(verified(outputs=outputs)))
    assert "28 more histograms" in read.text and "out39" in read.text
    assert [tag for tag, _ in read.tags].count("figure") == 40  # two layers have no skyline


def test_axes_have_names_and_what_is_not_compared_has_no_figures() -> None:
    outputs = (
        output(histogram=ErrorHistogram(3, -8.0, 0.5, (1, 0, 2))),
        output(name="none", compared=0, top1=None, ulps=None),
    )
    made = verified(build.cnn(), outputs=outputs, undecided=("Nothing of it.",))
    text = Reader(page.page(dataclasses.replace(made, layers=document().layers))).text
    for name in ("FLOPs 1.00 M 0", "1 layers, in the order of the graph 4", "2 0 elements error, as a share of the"):
        assert re.sub(r"\s", "", name) in re.sub(r"\s", "", text), name
    row = r"none\s+ONNX Runtime\s+float32(\s+–){3}.*not compared"
    assert "Nothing of it." in text and re.search(row, text, re.DOTALL)


def test_one_of_each_is_no_plural_and_none_is_no_section() -> None:
    empty = document(layers=(), masked=(), held=(), notes=(), warnings=(), seconds={})
    text = Reader(page.page(empty)).text
    assert "Layers" not in text and "Notes" not in text and "Compiled in" not in text
    one = Reader(page.page(document(layers=document().layers[:1]))).text
    assert "The 1 node that multiplies and accumulates" in one


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(10, 4, "2.50×"), (4, 4, "unchanged"), (4, 0, "all removed"), (0, 4, "new"), (4, 6, "1.50× more")],
)
def test_factors(before: int, after: int, text: str) -> None:
    assert page.factor(before, after) == text


def test_strips_show_each_channel() -> None:
    (strip,) = charts.strips([MaskedAxis("t", 1, 8, 4, 1, (0, 1, 2, 5))], [Held("t", 1, (0, 1, 2), "n", "Add", "why")])
    assert dict(strip.paths) == {
        "stayed": "M0 0h3v1h-3z",
        "live": "M3 0h2v1h-2zM6 0h2v1h-2z",
        "removed": "M5 0h1v1h-1z",
    }
    long = MaskedAxis("t", 1, 4096, 2048, 2048, tuple(range(0, 4096, 2)))
    (strip,) = charts.strips([long], [])
    assert dict(strip.paths) == {"live": "M0 0h2048v1h-2048z", "removed": "M2048 0h2048v1h-2048z"}


def test_histograms_are_drawn_to_scale() -> None:
    chart = charts.histogram(output(histogram=ErrorHistogram(5, -8.0, 0.5, (1, 0, 4))))
    assert chart is not None and chart.total == 10
    assert [(bin.count, bin.height) for bin in chart.bins] == [(1, 24.0), (0, 0.0), (4, 96.0)]
    assert chart.bins[0].x < chart.bins[2].x < chart.WIDTH
    assert chart.allowed == pytest.approx(chart.bins[0].x + 4 * chart.bins[0].width, abs=0.1)  # 1e-6, two decades on
    equal = charts.histogram(output(histogram=ErrorHistogram(5, -20.0, 0.5, ())))
    assert equal is not None and equal.bins == () and equal.equal == equal.total == 5
    assert charts.histogram(output()) is None
    alone = charts.histogram(output(rtol=0.0, histogram=ErrorHistogram(0, -20.0, 0.5, (1,))))
    assert alone is not None and alone.allowed is None


# In a browser.


@pytest.fixture(scope="module")
def tab() -> Iterator[browser.Tab]:
    path = browser.find()
    if path is None:
        pytest.skip("There is no Chromium here to look at pages with; Debian's package is `chromium`.")
    with browser.browser(path) as tab:
        yield tab


def seen(tab: browser.Tab, png: bytes) -> dict[str, float]:
    """Size, number of colours and mean brightness (0 to 255) of a picture, as a browser decodes it."""
    tab.open("about:blank")
    told: dict[str, float] = tab.evaluate(PICTURE % base64.b64encode(png).decode())
    return told


def quiet(tab: browser.Tab, path: Path) -> None:
    """Assert that the page said nothing on the console, threw nothing and asked for no other file."""
    told = [event for event in tab.events if event[0] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    told += [event for event in tab.events if event[0] == "Runtime.consoleAPICalled"]
    assert not told, told
    asked = [parameters["request"]["url"] for method, parameters in tab.events if method == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


PICTURE = """
(async () => {
  const image = new Image();
  image.src = 'data:image/png;base64,%s';
  await image.decode();
  const canvas = Object.assign(document.createElement('canvas'), {width: image.width, height: image.height});
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, image.width, image.height).data;
  const colours = new Set();
  let sum = 0;
  for (let i = 0; i < data.length; i += 4) {
    colours.add(data[i] * 65536 + data[i + 1] * 256 + data[i + 2]);
    sum += data[i] + data[i + 1] + data[i + 2];
  }
  return {width: image.width, height: image.height, colours: colours.size, brightness: sum / (data.length / 4 * 3)};
})()
"""

# The text of the elements that are to be seen.
SEEN = """
[...document.querySelectorAll(%r)].filter(e => e.checkVisibility() && e.getBoundingClientRect().width > 0
    && e.getBoundingClientRect().height > 0).map(e => e.innerText.replace(/\\s+/g, ' ').trim())
"""


@pytest.mark.slow
def test_a_report_is_seen_in_light_and_dark(tab: browser.Tab, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    source = ROOT / "fixtures" / "digits.onnx"
    succeeded("compile", source, "-o", tmp_path / "small.onnx", "--report", path)
    before, after = (api.flops(model) for model in (source, tmp_path / "small.onnx"))
    pictures = {}
    for scheme in ("dark", "light"):
        tab.look(1200, 900, scheme)
        tab.open(path.as_uri())
        quiet(tab, path)
        pictures[scheme] = tab.screenshot()
    text = tab.evaluate("document.body.innerText")
    for shown in (f"{before.flops:,}", f"{after.flops:,}", f"{before.macs:,}", f"{after.params:,}", "Outputs match"):
        assert shown in text
    names = tab.evaluate(SEEN % "#table tbody th code")
    assert names == [node.name for node in before.nodes if node.macs]
    assert "K701 These compute a few more channels" in text and "runs faster than" in text
    assert not tab.evaluate(SEEN % ".holder p"), "what is kept for speed is listed once"
    (output,) = tab.evaluate(SEEN % ".histograms figcaption code")
    assert output == "dense"
    bars = "[...document.querySelectorAll('%s')].map(e => e.getBoundingClientRect().height)"
    assert max(tab.evaluate(bars % ".histogram rect")) > 50
    assert max(tab.evaluate(bars % ".skyline rect.after")) > 20
    widths = tab.evaluate("[...document.querySelectorAll('.cards .bar i')].map(e => e.getBoundingClientRect().width)")
    assert min(widths) > 10 and widths[1] / widths[0] == pytest.approx(after.flops / before.flops, rel=0.05)
    light, dark = (seen(tab, pictures[scheme]) for scheme in ("light", "dark"))
    for picture in (light, dark):
        assert (picture["width"], picture["height"]) == (1200, 900) and picture["colours"] > 50, picture
    assert light["brightness"] > 200 and dark["brightness"] < 60


@pytest.mark.slow
def test_narrow_windows_and_paper(tab: browser.Tab, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    api.compile(deep(20, "a/very/long/scope_of_an_exporter_that_likes_names/" * 3), verify=True).report.save(path)
    for width, media in ((1200, "screen"), (390, "screen"), (320, "screen"), (700, "print")):
        tab.look(width, 800, media=media)
        tab.open(path.as_uri())
        quiet(tab, path)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, (width, media)
        inner = tab.evaluate("[...document.querySelectorAll('.wide, .scroll')].map(e => e.scrollWidth - e.clientWidth)")
        assert max(inner) <= 0, (width, media)
    # On paper nothing scrolls: the box is as high as the table in it.
    heights = tab.evaluate("['.scroll', '#table'].map(name => document.querySelector(name).clientHeight)")
    assert heights[0] >= heights[1]


def test_names_that_are_code_are_shown_and_not_run(tab: browser.Tab, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    tab.look(1000, 800)
    api.compile(deep(9, HOSTILE), verify=True).report.save(path)
    tab.open(path.as_uri())
    quiet(tab, path)
    assert tab.evaluate("document.title").startswith("a model in memory")
    assert tab.evaluate("document.querySelectorAll('script').length") == 1
    assert tab.evaluate(SEEN % "#table tbody th code")[0].startswith("<script>document.title='bad'</script><img src=x")


def test_five_hundred_layers_can_be_sorted_and_searched(tab: browser.Tab, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    layers = tuple(
        Layer(f"block/{i}", "Conv", 64, 64 if i % 5 == 0 else 32, 1000 + i, 1000 + i if i % 5 == 0 else 500 + i // 2)
        for i in range(500)
    )
    path.write_text(page.page(document(layers=layers)))
    tab.look(1200, 900)
    tab.open(path.as_uri())
    quiet(tab, path)
    box = tab.evaluate("document.querySelector('.scroll').getBoundingClientRect().height")
    assert box < 700 < tab.evaluate("document.querySelector('#table').getBoundingClientRect().height")
    first = "document.querySelector('#table tbody tr:not([hidden]) code').innerText"
    choose = """(() => {{
        const e = document.getElementById('{}');
        {};
        e.dispatchEvent(new Event('input', {{bubbles: true}}));
    }})()"""
    assert tab.evaluate(first) == "block/0"
    tab.evaluate(choose.format("sort", "e.value = 'before'"))
    assert tab.evaluate(first) == "block/499"
    tab.evaluate(choose.format("changed", "e.checked = true"))
    tab.evaluate(choose.format("sort", "e.value = 'order'"))
    assert tab.evaluate(first) == "block/1"
    assert tab.evaluate("document.getElementById('shown').innerText") == "400 of 500 shown"
    tab.evaluate(choose.format("find", "e.value = 'BLOCK/49'"))
    assert len(tab.evaluate(SEEN % "#table tbody tr")) == 9
    assert tab.evaluate("document.querySelectorAll('.skyline')[0].querySelectorAll('g').length") == 500


def test_the_charts_of_a_sweep_are_legible_in_narrow_windows(tab: browser.Tab, tmp_path: Path) -> None:
    sweep = api.sweep(build.mlp(), tmp_path, targets=[0.5], seconds=0.01, jobs=1)
    path = tmp_path / "sweep.html"
    assert sweep.points
    heights = "[...document.querySelectorAll('.scatter text')].map(e => e.getBoundingClientRect().height)"
    for width in (1280, 400):
        tab.look(width, 800)
        tab.open(path.as_uri())
        quiet(tab, path)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert min(tab.evaluate(heights)) >= 10.5
