// Click a column's name to sort by it, again for the other direction. Without scripts the rows stay
// in the order that they run.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const isNumber = head.classList.contains("n");
    const first = isNumber ? "descending" : "ascending";
    const other = isNumber ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const key = row => {
      const value = row.cells[column].dataset.value;
      return value === undefined ? row.cells[column].textContent.trim() : value === "" ? NaN : Number(value);
    };
    const sign = order === "ascending" ? 1 : -1;
    // What is not known stays at the end, whichever the direction.
    const compare = (a, b) => Number.isNaN(a) || Number.isNaN(b)
      ? Number.isNaN(a) - Number.isNaN(b)
      : sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => compare(key(a), key(b))).forEach(row => table.tBodies[0].append(row));
  }));
}
