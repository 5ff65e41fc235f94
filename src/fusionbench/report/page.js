"use strict";

function valueOf(row, index) {
  const cell = row.cells[index];
  if (index === 0) return cell.textContent;
  return "value" in cell.dataset ? Number(cell.dataset.value) : null;
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
}

// One press: best first; a second: worst first; a third: the order of the report.
function sortBy(table, index) {
  const head = table.tHead.rows[0].cells[index];
  const first = head.dataset.better === "higher" ? "descending" : "ascending";
  const second = first === "ascending" ? "descending" : "ascending";
  const now = head.getAttribute("aria-sort");
  const next = now === null ? first : now === first ? second : null;
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  if (next) head.setAttribute("aria-sort", next);
  const sign = next === "descending" ? -1 : 1;
  for (const body of table.tBodies) {
    const rows = [...body.rows];
    rows.sort((a, b) => next ? compare(valueOf(a, index), valueOf(b, index), sign) : a.dataset.order - b.dataset.order);
    body.append(...rows);
  }
}

function filterBy(table, text, count) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
  for (const row of rows) {
    const label = row.cells[0].textContent.toLowerCase();
    row.hidden = !words.every((word) => label.includes(word));
  }
  count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
}

function makeSortable(table) {
  [...table.tBodies].flatMap((body) => [...body.rows]).forEach((row, order) => { row.dataset.order = order; });
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, index));
    head.append(button);
  });
}

async function copyRecipe(button) {
  const code = button.closest(".recipe").querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    // Some browsers refuse the clipboard to pages opened from a file.
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}

for (const section of document.querySelectorAll("section[data-suite]")) {
  const table = section.querySelector("table");
  const filter = section.querySelector("[data-filter]");
  const count = section.querySelector("[data-count]");
  makeSortable(table);
  filter.addEventListener("input", () => filterBy(table, filter.value, count));
  filterBy(table, filter.value, count);
  section.querySelector("[data-errors]")?.addEventListener("change", (event) => {
    table.classList.toggle("errors", event.target.checked);
  });
  section.querySelector(".controls").hidden = false;
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", () => copyRecipe(button));
}
addEventListener("hashchange", openTarget);
openTarget();
