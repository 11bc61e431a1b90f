"use strict";
// Tables that sort and filter. Headers are buttons already; rows are moved, never made, so that what is shown is
// what stands in the page. The box takes words ("def"), and comparisons by a column's key ("density>0.01 max<5").
(() => {
  const value = (cell) => (cell.dataset.value === undefined ? null : Number(cell.dataset.value));

  const compare = (column, down) => (one, other) => {
    const a = one.cells[column], b = other.cells[column], x = value(a), y = value(b);
    if (x === null || y === null) return (down ? -1 : 1) * a.textContent.localeCompare(b.textContent);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);  // unknown last, either way
    return down ? y - x : x - y;
  };

  const tester = (words, keys) => {
    const tests = words.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const [, key, sign, bound] = word.match(/^([a-z]+)([<>])(-?[\d.]+(?:e-?\d+)?)$/) ?? [];
      const column = key ? keys.indexOf(key) : -1;
      if (column < 0) return (row) => row.textContent.toLowerCase().includes(word);
      return (row) => { const x = value(row.cells[column]); return sign === "<" ? x < Number(bound) : x > Number(bound); };
    });
    return (row) => tests.every((test) => test(row));
  };

  for (const box of document.querySelectorAll(".sortable")) {
    const heads = [...box.querySelectorAll("thead th")], body = box.querySelector("tbody"), rows = [...body.rows];
    const told = box.querySelector("output"), keys = heads.map((head) => head.dataset.key ?? "");
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows.sort(compare(column, down)));
    }));
    box.querySelector("input").addEventListener("input", (event) => {
      const keep = tester(event.target.value, keys);
      for (const row of rows) row.hidden = !keep(row);
      told.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    });
  }
})();
