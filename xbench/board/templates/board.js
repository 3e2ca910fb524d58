"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // Sorting: a heading sorts its column, again turns it round; what has no value stays last.
  const key = (cell) => (cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v === "" ? NaN : Number(cell.dataset.v));
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  const sortable = (table) => {
    table.tHead.addEventListener("click", (event) => {
      const head = event.target.closest("th");
      if (!head || !event.target.closest("button")) return;
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row, i) => [key(row.cells[head.cellIndex]), i, row]);
      const empty = (value) => Number.isNaN(value);
      rows.sort((a, b) => empty(a[0]) - empty(b[0]) || (empty(a[0]) ? 0 : (up ? 1 : -1) * compare(a[0], b[0])) || a[1] - b[1]);
      table.tBodies[0].append(...rows.map((row) => row[2]));
    });
  };
  sortable(at("table"));
  sortable(at("drill"));

  // Filtering.
  const show = () => {
    const text = at("filter").value.toLowerCase();
    let count = 0;
    for (const row of at("table").tBodies[0].rows) {
      row.hidden = !row.dataset.name.toLowerCase().includes(text) || (row.classList.contains("control") && !at("controls").checked);
      count += !row.hidden;
    }
    const metric = at("metric").value;
    const hidden = [...at("table").tHead.rows[0].cells].map((head) => head.dataset.metric !== "" && metric !== "" && head.dataset.metric !== metric);
    for (const row of at("table").rows) [...row.cells].forEach((cell, i) => { cell.hidden = hidden[i]; });
    at("table").classList.toggle("nointervals", !at("intervals").checked);
    at("shown").textContent = `${count} of ${at("table").tBodies[0].rows.length} rows`;
  };
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  at("filter").addEventListener("input", show);
  for (const id of ["metric", "controls", "intervals"]) at(id).addEventListener("change", show);
  show();

  // Curves.
  for (const box of document.querySelectorAll(".legend input")) {
    const draw = () => {
      for (const line of document.querySelectorAll(`.series[data-method="${box.dataset.method}"]`)) line.toggleAttribute("hidden", !box.checked);
    };
    box.addEventListener("change", draw);
    draw();
  }

  // Image by image.
  const digits = (value) => (value === null ? "NaN" : String(value));
  const cell = (value) => make("td", value === undefined ? "-" : digits(value), { "data-v": value === undefined || value === null ? "" : value });
  const fill = () => {
    const image = at("by").value === "image";
    at("what").textContent = image ? "Image" : "Method";
    at("pick").replaceChildren(...(image ? data.images : data.methods).map((name, i) => make("option", name, { value: i })));
    table();
  };
  const score = (column, method, image) => {
    const row = column.scores[method];
    const place = data.sets[column.sets[method]];
    return row && place ? row[place.indexOf(image)] : undefined;
  };
  const table = () => {
    const image = at("by").value === "image";
    const picked = Number(at("pick").value);
    const columns = data.columns.filter((column) => column.scores.length);
    const head = make("tr", "");
    for (const title of [image ? "method" : "image", ...columns.map((column) => column.title)]) {
      const th = make("th", "", { scope: "col" });
      th.append(make("button", title, { type: "button" }));
      head.append(th);
    }
    at("drill").tHead.replaceChildren(head);
    at("drill").tBodies[0].replaceChildren(...(image ? data.methods : data.images).map((name, i) => {
      const row = make("tr", "");
      row.append(make("th", name, { scope: "row" }));
      row.append(...columns.map((column) => (image ? cell(score(column, i, picked)) : cell(score(column, picked, i)))));
      return row;
    }));
    at("picture").replaceChildren();
    if (image && data.pictures[picked]) at("picture").append(make("img", "", { src: data.pictures[picked], alt: `image ${data.images[picked]}` }));
  };
  const step = (by) => {
    const count = at("pick").options.length;
    at("pick").selectedIndex = (at("pick").selectedIndex + by + count) % count;
    table();
  };
  at("by").addEventListener("change", fill);
  at("pick").addEventListener("change", table);
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  fill();

  addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
})();
