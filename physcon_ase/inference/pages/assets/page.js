// The table of all molecules: sorting, search, and the detail of the chosen row.
(() => {
  "use strict";
  const entries = JSON.parse(document.getElementById("entries").textContent);
  const histograms = JSON.parse(document.getElementById("histograms").textContent);
  const body = document.querySelector("#molecules tbody");
  const heads = [...document.querySelectorAll("#molecules th")];
  const rows = [...body.rows];
  const detail = document.getElementById("detail");
  const search = document.getElementById("search");

  /** Value of a cell; undefined if it is empty, which is last in any order. */
  function valueOf(row, column, kind) {
    const cell = row.cells[column];
    if (kind === "number") return "value" in cell.dataset ? Number(cell.dataset.value) : undefined;
    return cell.textContent.toLowerCase() || undefined;
  }

  function sortBy(head) {
    const column = heads.indexOf(head);
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const keys = new Map(rows.map((row) => [row, valueOf(row, column, head.dataset.kind)]));
    rows.sort((one, other) => {
      const [a, b] = [keys.get(one), keys.get(other)];
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    body.append(...rows);
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    document.getElementById("shown").textContent = words.length ? `${shown} of ${rows.length}` : "";
  }

  function choose(row, scroll) {
    rows.forEach((other) => other.classList.toggle("chosen", other === row));
    const entry = entries[Number(row.dataset.entry)];
    window.physcon.clear(detail);
    detail.innerHTML = entry.html; // texts were escaped when the page was made
    window.physcon.drawFigures(detail, entry);
    if (scroll && detail.getBoundingClientRect().top > 0.6 * window.innerHeight) detail.scrollIntoView();
  }

  function onPress(element, action) {
    element.addEventListener("click", action);
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter") action();
    });
  }

  heads.forEach((head) => onPress(head, () => sortBy(head)));
  rows.forEach((row) => onPress(row, () => choose(row, true)));
  search.addEventListener("input", filter);
  const place = document.getElementById("histogram-plots");
  for (const plot of histograms) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const element = document.createElement("div");
    caption.textContent = plot.title;
    figure.append(caption, element);
    place.append(figure);
    window.physcon.drawPlot(element, plot);
  }
  document.getElementById("distributions").hidden = !histograms.length;
  choose(rows.find((row) => entries[Number(row.dataset.entry)].structures) || rows[0], false);
})();
