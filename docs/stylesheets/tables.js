// On a phone a row of a table is shown as a block, in which each cell tells its column.
for (const table of document.querySelectorAll(".md-typeset table")) {
  const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
  for (const row of table.querySelectorAll("tbody tr")) {
    [...row.cells].forEach((cell, column) => {
      cell.dataset.column = heads[column] ?? "";
    });
  }
}
