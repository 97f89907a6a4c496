// Sorting and hiding layers, and opening what is folded before it is printed. The page reads without it.
(() => {
  "use strict";
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
  const tools = document.getElementById("tools");
  if (!tools) return;
  const [sort, changed, find, shown] = ["sort", "changed", "find", "shown"].map((id) => document.getElementById(id));
  const body = document.querySelector("#table tbody");
  const rows = Array.from(body.rows, (row) => ({ row, text: row.cells[0].textContent.toLowerCase() }));
  const value = (row, key) => Number(row.dataset[key]);

  const update = () => {
    const key = sort.value;
    const wanted = find.value.trim().toLowerCase();
    rows.sort((a, b) =>
      key === "order" || value(a.row, key) === value(b.row, key)
        ? value(a.row, "order") - value(b.row, "order")
        : value(b.row, key) - value(a.row, key),
    );
    let count = 0;
    for (const { row, text } of rows) {
      row.hidden = (changed.checked && row.dataset.state === "same") || !text.includes(wanted);
      count += !row.hidden;
    }
    body.append(...rows.map(({ row }) => row));
    shown.textContent = count === rows.length ? "" : `${count} of ${rows.length} shown`;
  };
  tools.addEventListener("input", update);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.hidden = rows.length < 8;
})();
