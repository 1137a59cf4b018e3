"""The HTML page: whole in one file, safe with any name, and sorted and searched by a real browser where there is one."""

import html.parser
import re
import shutil
import subprocess

import numpy as np
import pytest
import safetensors.numpy

from tests.checkpoint.files import sharded_folder
from tests.checkpoint.test_analysis import HERE
from tests.checkpoint.test_compression import TENSORS
from ttlib.checkpoint import analyze
from ttlib.checkpoint.smallest import smallest
from ttlib.errors import TTFileError
from ttlib.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    return analyze(sharded_folder(tmp_path_factory.mktemp("m") / "model", TENSORS), engine=HERE)


@pytest.fixture(scope="module")
def page(analysis, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, analysis, title="a <model> & more")
    return path


class Cells(html.parser.HTMLParser):
    """The table as the page holds it."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside, self.sources = [], False, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_the_table_holds_what_was_found(analysis, page):
    head, *rows = Cells(page.read_text()).rows
    assert head[:4] == ["weight", "rows", "columns", "norm"]
    assert len(head) == 4 + len(analysis.settings.eps) + len(analysis.settings.ranks)
    assert [row[0] for row in rows] == [weight.name for weight in analysis.weights]
    for row, weight in zip(rows, analysis.weights, strict=True):
        for text, eps in zip(row[4:], analysis.settings.eps, strict=False):
            best = smallest(weight, eps)
            assert text == (f"{best.compression:,.1f}x" if best.shape else "-")


def test_it_asks_for_nothing_from_outside(page):
    text = page.read_text()
    assert all(source.startswith("data:image/svg+xml;base64,") for source in Cells(text).sources)
    assert not re.search(r"(https?:)?//(?!www\.w3\.org)[a-z]", re.sub(r"base64,[^\"]*", "", text))
    assert "default-src 'none'" in text
    assert "a &lt;model&gt; &amp; more" in text


def test_names_from_a_stranger_stay_text(tmp_path):
    name = "<script>alert(1)</script>.weight"
    safetensors.numpy.save_file({name: np.eye(8, 12), "$title": np.eye(4)}, tmp_path / "m.safetensors")
    found = analyze(tmp_path / "m.safetensors", engine=HERE)
    write_report(tmp_path / "r.html", found, title="x")
    text = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in text
    assert name in [row[0] for row in Cells(text).rows]
    write_report(tmp_path / "again.html", found, title="x")
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "r.html").read_bytes()


def test_a_page_that_cannot_be_written(analysis, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TTFileError, match="cannot write"):
        write_report(tmp_path / "file" / "r.html", analysis, title="x")


def browse(address):
    """The document as a browser has it after its script ran."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    return subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
@pytest.mark.parametrize("descending", [False, True])
def test_a_browser_sorts_the_table(page, analysis, descending):
    found = browse(f"{page.as_uri()}#sort={'-' if descending else ''}3")
    expected = sorted(analysis.weights, key=lambda weight: weight.norm, reverse=descending)
    assert [row[0] for row in Cells(found).rows[1:]] == [weight.name for weight in expected]
    assert f'aria-sort="{"descending" if descending else "ascending"}"' in found
