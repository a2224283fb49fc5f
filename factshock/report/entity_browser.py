"""All entities by name in the page: a table to sort and search, and a scatter whose points name themselves.

The data stand in the page as JSON; the script is ours alone, and the page's policy allows just it, by its digest.
"""

import base64
import hashlib
import json
import math

from factshock.report import numbers, reading

POINTS = 3000  # the most that a scatter draws, those with the most answers first

SCRIPT = r"""
(() => {
  const data = JSON.parse(document.getElementById("entity-data").textContent);
  const rows = data.rows, heads = data.heads, fixed = 6, shown = 200;
  const search = document.getElementById("entity-search"), body = document.getElementById("entity-body");
  const said = document.getElementById("entity-said"), arm = document.getElementById("entity-arm");
  const plot = document.getElementById("entity-plot");
  let by = fixed, down = true, room = shown;

  function found() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const some = rows.filter(row => words.every(word => (row[0] + " " + row[1]).toLowerCase().includes(word)));
    const sign = down ? -1 : 1;
    return some.sort((a, b) => {
      const x = a[by], y = b[by];
      if (x === null || y === null) return (x === null) - (y === null);
      return (typeof x === "string" ? x.localeCompare(y) : x - y) * sign;
    });
  }
  function write() {
    const some = found();
    body.replaceChildren(...some.slice(0, room).map(row => {
      const line = document.createElement("tr");
      row.forEach((value, i) => {
        const cell = document.createElement(i ? "td" : "th");
        cell.textContent = value === null ? "–" : typeof value === "number" ? value.toLocaleString("en") : value;
        line.append(cell);
      });
      return line;
    }));
    said.textContent = some.length + " of " + rows.length + " answers" + (some.length > room ? ", the first " + room + " shown" : "");
    document.getElementById("entity-more").hidden = some.length <= room;
    document.querySelectorAll("#entity-heads button").forEach((button, i) => {
      button.parentNode.setAttribute("aria-sort", i === by ? (down ? "descending" : "ascending") : "none");
    });
  }
  function node(name, values, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in values) made.setAttribute(key, values[key]);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function draw() {
    const column = fixed + Number(arm.value), log = x => Math.log2(x);
    const points = data.points.map(i => rows[i]).filter(row => row[column] !== null)
      .map(row => [log((row[4] + 1) / (row[3] + 1)), log((row[column] + 1) / (row[2] + 1)), row]);
    plot.replaceChildren();
    if (!points.length) return;
    const ends = k => [Math.floor(Math.min(-1, ...points.map(p => p[k]))), Math.ceil(Math.max(1, ...points.map(p => p[k])))];
    const [x0, x1] = ends(0), [y0, y1] = ends(1), w = 760, h = 420, left = 60, low = 50;
    const px = x => left + (x - x0) / (x1 - x0) * (w - left - 15), py = y => h - low - (y - y0) / (y1 - y0) * (h - low - 15);
    const factor = x => x < 0 ? "1/" + 2 ** -x : "" + 2 ** x;
    for (let x = x0; x <= x1; x += Math.ceil((x1 - x0) / 8)) plot.append(node("text", {x: px(x), y: h - low + 18, "text-anchor": "middle"}, factor(x)));
    for (let y = y0; y <= y1; y += Math.ceil((y1 - y0) / 8)) {
      plot.append(node("line", {x1: left, x2: w - 15, y1: py(y), y2: py(y), class: y ? "grid" : "zero"}));
      plot.append(node("text", {x: left - 8, y: py(y) + 4, "text-anchor": "end"}, factor(y)));
    }
    plot.append(node("text", {x: (left + w) / 2, y: h - 8, "text-anchor": "middle"}, "(finetuning count + 1) / (pretraining count + 1)"));
    plot.append(node("text", {x: 14, y: h / 2, "text-anchor": "middle", transform: "rotate(-90 14 " + h / 2 + ")"}, "(predicted + 1) / (gold + 1)"));
    for (const [x, y, row] of points) {
      const dot = node("circle", {cx: px(x), cy: py(y), r: 3 + Math.sqrt(row[2]) / 2, class: row[5].toLowerCase().replace(/[^a-z]/g, "-")});
      dot.append(node("title", {}, row[0] + " (" + row[1] + "): gold " + row[2] + ", predicted " + row[column] + ", pretraining " + row[3] + ", finetuning " + row[4]));
      plot.append(dot);
    }
  }
  heads.forEach((head, i) => {
    const cell = document.createElement("th"), button = document.createElement("button");
    button.textContent = head;
    button.addEventListener("click", () => { down = by === i ? !down : i > 1; by = i; write(); });
    cell.append(button);
    document.getElementById("entity-heads").append(cell);
  });
  heads.slice(fixed).forEach((head, i) => arm.append(new Option(head, i)));
  search.addEventListener("input", () => { room = shown; write(); });
  document.getElementById("entity-more").addEventListener("click", () => { room += shown; write(); });
  arm.addEventListener("change", draw);
  arm.value = String(data.arm);
  by = fixed + data.arm;
  write();
  draw();
})();
"""

DIGEST = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()


def rows(diagnosis):
  """(heads, rows): each answer of a relation with its counts, and how often each arm predicted it.

  Added up over seeds, but for the pretraining count, which is their mean.

  A row: answer, relation, gold, pretraining, finetuning, group, then a count an arm (None where an arm says nothing).
  """
  found = {}
  labels = {}
  for row in diagnosis.get("entities") or []:
    labels |= dict.fromkeys(row.get("predicted") or {})
  for row in diagnosis.get("entities") or []:
    key = str(row.get("entity")), reading.relation(diagnosis, row.get("relation", ""))
    one = found.setdefault(
      key,
      {
        "gold": 0,
        "finetuning": 0,
        "pretraining": [],
        "group": row.get("group"),
        "predicted": dict.fromkeys(labels),
      },
    )
    for name in ("gold", "finetuning"):
      one[name] += numbers.finite(row.get(name)) or 0
    one["pretraining"].append(numbers.finite(row.get("pretraining")) or 0)
    for label, count in (row.get("predicted") or {}).items():
      if numbers.finite(count) is not None:
        one["predicted"][label] = (one["predicted"][label] or 0) + count
  heads = [
    "Answer",
    "Relation",
    "Gold",
    "In pretraining",
    "In finetuning",
    "Group",
    *(reading.title(diagnosis, label) for label in labels),
  ]
  table = [
    [
      *key,
      _whole(one["gold"]),
      _whole(round(sum(one["pretraining"]) / len(one["pretraining"]), 1)),
      _whole(one["finetuning"]),
      reading.GROUPS.get(one["group"], one["group"] or "–"),
      *(_whole(one["predicted"][label]) for label in labels),
    ]
    for key, one in found.items()
  ]
  return heads, table, list(labels)


def _whole(value):
  return (
    None if value is None else int(value) if math.isfinite(value) and value == int(value) else value
  )


def render(diagnosis):
  """The table and the scatter as HTML; "" where the diagnosis names no entities."""
  heads, table, labels = rows(diagnosis)
  if not table:
    return ""
  drawn = [i for i, row in enumerate(table) if row[2] > 0 or row[4] > 0]
  drawn = sorted(drawn, key=lambda i: -(table[i][2] + max(value or 0 for value in table[i][6:])))[
    :POINTS
  ]
  role = reading.roles(diagnosis)["finetuned"]
  data = json.dumps(
    {
      "heads": heads,
      "rows": table,
      "points": drawn,
      "arm": labels.index(role) if role in labels else 0,
    },
    ensure_ascii=False,
  ).replace("<", "\\u003c")
  return (
    '<p><label>Predicted by <select id="entity-arm"></select></label></p>\n'
    '<svg id="entity-plot" viewBox="0 0 760 420" role="img" aria-label="Over-prediction of each answer against its counts"></svg>\n'
    '<p><label>Search <input id="entity-search" type="search" placeholder="an answer or a relation"></label> '
    '<span id="entity-said"></span></p>\n'
    '<div class="scroll"><table class="browser"><thead><tr id="entity-heads"></tr></thead><tbody id="entity-body"></tbody></table></div>\n'
    '<p><button id="entity-more">Show more</button></p>\n'
    f'<script type="application/json" id="entity-data">{data}</script>\n<script>{SCRIPT}</script>'
  )
