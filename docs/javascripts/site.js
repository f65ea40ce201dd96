// On a phone a row of a table is shown as a block, in which each cell tells its column.
for (const table of document.querySelectorAll(".md-typeset table")) {
  const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
  for (const row of table.querySelectorAll("tbody tr")) {
    [...row.cells].forEach((cell, column) => {
      cell.dataset.column = heads[column] ?? "";
    });
  }
}

// The theme gives the dialog no name.
document.querySelector(".md-search")?.setAttribute("aria-label", "Search");

// A table that moves within its frame is moved by the keyboard, too. The theme makes the frames.
const reachTables = () => {
  for (const frame of document.querySelectorAll(".md-typeset__scrollwrap")) {
    frame.tabIndex = frame.scrollWidth > frame.clientWidth ? 0 : -1;
  }
};
addEventListener("load", reachTables);
addEventListener("resize", reachTables);
