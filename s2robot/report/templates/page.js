"use strict";
// Sorting: a cell sorts by data-value where it has one, else by its text; numbers numerically.
function sortKey(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = parseFloat(text.replace("−", "-"));
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

function compareKeys(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1; // numbers before dashes and words
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const descending = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((row) => ({ row, key: sortKey(row, column) }));
      keyed.sort((a, b) => (descending ? -1 : 1) * compareKeys(a.key, b.key));
      body.append(...keyed.map((item) => item.row));
    });
  });
}

// Filtering: a row stays if it contains every word.
const filter = document.getElementById("filter");
const rows = [...document.getElementById("cell-table").tBodies[0].rows];
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let matches = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    matches += row.hidden ? 0 : 1;
  }
  document.getElementById("matches").textContent = `${matches} of ${rows.length} cells`;
});

// On paper nothing can be opened: show what is folded, and fold it again after.
const folded = [];
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    folded.push(details);
  }
});
window.addEventListener("afterprint", () => {
  for (const details of folded.splice(0)) details.open = false;
});
