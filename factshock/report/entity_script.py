"""Script of the page: sorts and searches the table of answers, and draws their scatter.

It reads the JSON of `entity_browser` from the page: `heads`, `rows` (answer, relation, gold,
pretraining, finetuning, group, then a count an arm), `points` (rows that are drawn) and `arm` (the
arm shown first).
"""

SCRIPT = r"""
(() => {
  const data = JSON.parse(document.getElementById("entity-data").textContent);
  const rows = data.rows, heads = data.heads;
  const firstArm = 6, pageSize = 200;
  const search = document.getElementById("entity-search");
  const body = document.getElementById("entity-body");
  const status = document.getElementById("entity-said");
  const arm = document.getElementById("entity-arm");
  const plot = document.getElementById("entity-plot");
  const more = document.getElementById("entity-more");
  let sortColumn = firstArm, descending = true, limit = pageSize;

  function compare(a, b) {
    const x = a[sortColumn], y = b[sortColumn];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return descending ? -order : order;
  }

  function matchingRows() {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = row => {
      const name = (row[0] + " " + row[1]).toLowerCase();
      return terms.every(term => name.includes(term));
    };
    return rows.filter(matches).sort(compare);
  }

  function cellText(value) {
    if (value === null) return "\u2013";
    return typeof value === "number" ? value.toLocaleString("en") : value;
  }

  function tableRow(row) {
    const line = document.createElement("tr");
    row.forEach((value, i) => {
      const cell = document.createElement(i ? "td" : "th");
      cell.textContent = cellText(value);
      line.append(cell);
    });
    return line;
  }

  function writeTable() {
    const matching = matchingRows();
    const isCut = matching.length > limit;
    body.replaceChildren(...matching.slice(0, limit).map(tableRow));
    status.textContent = matching.length + " of " + rows.length + " answers"
      + (isCut ? ", the first " + limit + " shown" : "");
    more.hidden = !isCut;
    document.querySelectorAll("#entity-heads button").forEach((button, i) => {
      const order = i !== sortColumn ? "none" : descending ? "descending" : "ascending";
      button.parentNode.setAttribute("aria-sort", order);
    });
  }

  function svgNode(name, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // Both axes are in doublings (log2), and one is added to every count.
  const doublings = (above, below) => Math.log2((above + 1) / (below + 1));
  const factor = x => x < 0 ? "1/" + 2 ** -x : "" + 2 ** x;

  function drawPlot() {
    const column = firstArm + Number(arm.value);
    const points = data.points.map(i => rows[i])
      .filter(row => row[column] !== null)
      .map(row => [doublings(row[4], row[3]), doublings(row[column], row[2]), row]);
    plot.replaceChildren();
    if (!points.length) return;

    const range = k => [
      Math.floor(Math.min(-1, ...points.map(point => point[k]))),
      Math.ceil(Math.max(1, ...points.map(point => point[k]))),
    ];
    const [x0, x1] = range(0), [y0, y1] = range(1);
    const width = 760, height = 420, left = 60, bottom = 50, margin = 15;
    const px = x => left + (x - x0) / (x1 - x0) * (width - left - margin);
    const py = y => height - bottom - (y - y0) / (y1 - y0) * (height - bottom - margin);
    const middle = {"text-anchor": "middle"};

    for (let x = x0; x <= x1; x += Math.ceil((x1 - x0) / 8)) {
      plot.append(svgNode("text", {x: px(x), y: height - bottom + 18, ...middle}, factor(x)));
    }
    for (let y = y0; y <= y1; y += Math.ceil((y1 - y0) / 8)) {
      const line = {x1: left, x2: width - margin, y1: py(y), y2: py(y)};
      plot.append(svgNode("line", {...line, class: y ? "grid" : "zero"}));
      plot.append(svgNode("text", {x: left - 8, y: py(y) + 4, "text-anchor": "end"}, factor(y)));
    }
    const xTitle = "(finetuning count + 1) / (pretraining count + 1)";
    const yTitle = "(predicted + 1) / (gold + 1)";
    const turned = "rotate(-90 14 " + height / 2 + ")";
    plot.append(svgNode("text", {x: (left + width) / 2, y: height - 8, ...middle}, xTitle));
    plot.append(svgNode("text", {x: 14, y: height / 2, ...middle, transform: turned}, yTitle));

    for (const [x, y, row] of points) {
      const group = row[5].toLowerCase().replace(/[^a-z]/g, "-");
      const radius = 3 + Math.sqrt(row[2]) / 2;
      const dot = svgNode("circle", {cx: px(x), cy: py(y), r: radius, class: group});
      const counts = "gold " + row[2] + ", predicted " + row[column]
        + ", pretraining " + row[3] + ", finetuning " + row[4];
      dot.append(svgNode("title", {}, row[0] + " (" + row[1] + "): " + counts));
      plot.append(dot);
    }
  }

  heads.forEach((head, i) => {
    const cell = document.createElement("th"), button = document.createElement("button");
    button.textContent = head;
    button.addEventListener("click", () => {
      // Names begin with A, numbers with the largest; a second click turns the order round.
      descending = sortColumn === i ? !descending : i > 1;
      sortColumn = i;
      writeTable();
    });
    cell.append(button);
    document.getElementById("entity-heads").append(cell);
  });
  heads.slice(firstArm).forEach((head, i) => arm.append(new Option(head, i)));
  search.addEventListener("input", () => { limit = pageSize; writeTable(); });
  more.addEventListener("click", () => { limit += pageSize; writeTable(); });
  arm.addEventListener("change", drawPlot);
  arm.value = String(data.arm);
  sortColumn = firstArm + data.arm;
  writeTable();
  drawPlot();
})();
"""
