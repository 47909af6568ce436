// A click on a header sorts the table by that column, numbers from the largest; a second click turns it around.
// Places stand in data-rank; those of cells without a value are negative and stay last.
for (const button of document.querySelectorAll("table.sortable thead button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    const first = header.classList.contains("n") ? "descending" : "ascending";
    const turned = header.getAttribute("aria-sort") === first;
    for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", turned ? (first === "descending" ? "ascending" : "descending") : first);
    const rank = row => Number(row.cells[header.cellIndex].dataset.rank);
    const order = (a, b) => (rank(a) < 0) - (rank(b) < 0) || (turned ? rank(b) - rank(a) : rank(a) - rank(b));
    body.append(...[...body.rows].sort(order));
  });
}
