"use strict";

// A table's head sorts it, by a click or a key: numbers first from large to small, texts from A to Z.

const MANY_ROWS = 20; // from so many on a table can be searched

function valueOf(row, column) {
  const cell = row.cells[column];
  const key = cell.dataset.sort;
  if (key === "") return null; // nothing was measured
  return key === undefined ? cell.textContent.trim() : Number(key);
}

function compare(first, second) {
  if (typeof first === "number" && typeof second === "number") return first - second;
  return String(first).localeCompare(String(second), "en", { numeric: true });
}

function sort(table, column, heads) {
  const head = heads[column];
  const body = table.tBodies[table.tBodies.length - 1];
  const rows = Array.from(body.rows, (row) => ({ row, value: valueOf(row, column) }));
  const isOfNumbers = rows.some(({ value }) => typeof value === "number");
  const before = head.getAttribute("aria-sort");
  const falls = before ? before === "ascending" : isOfNumbers;
  rows.sort((a, b) => {
    if (a.value === null || b.value === null) return (a.value === null) - (b.value === null); // empty last
    return falls ? compare(b.value, a.value) : compare(a.value, b.value);
  });
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  body.append(...rows.map(({ row }) => row));
}

function makeSortable(table) {
  const heads = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, column, heads));
    head.append(button);
  });
}

function makeSearchable(table) {
  const body = table.tBodies[table.tBodies.length - 1];
  if (body.rows.length < MANY_ROWS) return;
  const label = document.createElement("label");
  label.className = "filter";
  const input = document.createElement("input");
  input.type = "search";
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  label.append("Only rows with ", input);
  table.closest(".scroll").before(label);
}

// A link to a network opens its part.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!(target instanceof HTMLDetailsElement)) return;
  target.open = true;
  target.scrollIntoView();
  target.querySelector("summary").focus();
}

for (const table of document.querySelectorAll("table.sortable")) {
  makeSortable(table);
  makeSearchable(table);
}
window.addEventListener("hashchange", openTarget);
openTarget();
