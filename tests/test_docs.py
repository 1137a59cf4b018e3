"""Every Python block of the README and the docs runs, in order, and prints what the page says it prints."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMISE = re.compile(r"  # => (.*)$")


def run(code, namespace, page):
    """Execute a block; an expression followed by `# => text` must have that text as its repr."""
    lines = code.splitlines()
    checked = 0
    for node in ast.parse(code).body:
        promise = PROMISE.search(lines[node.end_lineno - 1])
        source = ast.get_source_segment(code, node)
        if promise and isinstance(node, ast.Expr):
            value = eval(compile(source, str(page), "eval"), namespace)  # noqa: S307
            assert repr(value) == promise[1], f"{page.name}: {source} gives {value!r}"
            checked += 1
        else:
            exec(compile(ast.Module([node], []), str(page), "exec"), namespace)  # noqa: S102
    # A promise that was not looked at is a page that lies.
    assert checked == sum(bool(PROMISE.search(line)) for line in lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_and_keep_their_promises(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in BLOCK.findall(page.read_text()):
        run(block, namespace, page)


def test_the_runner_notices_a_wrong_promise():
    with pytest.raises(AssertionError, match="gives 2"):
        run("1 + 1  # => 3", {}, Path("page.md"))
    with pytest.raises(AssertionError):
        run("x = 1  # => 1", {}, Path("page.md"))


def test_the_readme_is_short_and_shows_code_early():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert "```python" in lines[:15]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
