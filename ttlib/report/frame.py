"""The frame of the page: its looks, and the few lines of script that sort and search the table."""

from __future__ import annotations

from string import Template

FRAME = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light; --ink: #1d2329; --pale: #66717c; --line: #d8dee4; --ground: #fff; --band: #f4f6f8; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
 margin: 0 auto; padding: 2rem 1.5rem; max-width: 80rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
.by, figcaption, .hint { color: var(--pale); }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; margin: 1.5rem 0; } dt { color: var(--pale); }
dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.table { overflow: auto; max-height: 80vh; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th { position: sticky; top: 0; background: var(--band); border-bottom: 1px solid var(--line); padding: 0; }
th button { all: unset; cursor: pointer; display: block; padding: .4rem .7rem; font-weight: 600; white-space: nowrap; }
th button:focus-visible { outline: 2px solid #0b6bcb; outline-offset: -2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td { padding: .25rem .7rem; white-space: nowrap; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; }
tbody tr:hover { background: var(--band); }
input { font: inherit; padding: .35rem .6rem; border: 1px solid var(--line); border-radius: 6px;
 width: min(24rem, 100%); }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 2rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<div class="by">analysed by ttlib $version</div>
<dl>$summary</dl>
<h2>Weights</h2>
<p class="hint">How many times smaller the smallest of the tried trains is for each relative error, and the error that
trains of each rank have at most. A click on a column sorts by it; the shape and ranks stand in the hints of the
cells.</p>
<p><input type="search" aria-label="Search for names" placeholder="search for names, as in layer.3 query"></p>
<div class="table">$table</div>
$skipped
<h2>Pictures</h2>
<div class="pictures">
$pictures
</div>
<script>
"use strict";
const table = document.querySelector("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
const key = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
};
function sortBy(column, descending) {
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true}));
  const rows = [...body.rows].sort((a, b) => (descending ? -1 : 1) * compare(key(a, column), key(b, column)));
  body.append(...rows);
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
}
heads.forEach((head, column) => head.addEventListener("click", () => {
  const descending = head.getAttribute("aria-sort") === "ascending" || (column && !head.hasAttribute("aria-sort"));
  sortBy(column, Boolean(descending));
  history.replaceState(null, "", "#sort=" + (descending ? "-" : "") + column);
}));
function search(text) {
  const words = text.toLowerCase().split(/\\s+/);
  for (const row of body.rows) {
    const name = row.cells[0].textContent.toLowerCase();
    row.hidden = !words.every((word) => name.includes(word));
  }
}
document.querySelector("input").addEventListener("input", (event) => search(event.target.value));
const asked = /^#sort=(-?)(\\d+)$$/.exec(location.hash);
if (asked && Number(asked[2]) < heads.length) sortBy(Number(asked[2]), asked[1] === "-");
</script>
</body>
</html>
""")
