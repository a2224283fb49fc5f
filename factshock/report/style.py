"""Style sheet of the reports: light, or dark where the reader's system is."""

CSS = """
:root {
  color-scheme: light;
  --paper: #fff;
  --ink: #1d2329;
  --soft: #5a646e;
  --faint: #a5adb5;
  --rule: #dfe3e7;
  --wash: #f5f7f9;
  --blue: #0072b2;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    color-scheme: dark;
    --paper: #15191d;
    --ink: #e4e8eb;
    --soft: #a4aeb7;
    --faint: #69737c;
    --rule: #343b42;
    --wash: #1f252a;
    --blue: #5cb3e8;
  }
  /* Figures are drawn on white: light and dark change places, colours stay what they are. */
  .panels img {
    filter: invert(1) hue-rotate(180deg);
    mix-blend-mode: screen;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0;
  background: var(--paper);
  color: var(--ink);
  overflow-wrap: anywhere;
  -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue",
    "Liberation Sans", Arial, sans-serif;
}
main {
  max-width: 1260px;
  margin: 0 auto;
  padding: 32px 20px 64px;
}
h1 {
  font-size: 1.9rem;
  line-height: 1.2;
  margin: 0 0 4px;
}
h2 {
  font-size: 1.25rem;
  margin: 48px 0 10px;
  padding-top: 14px;
  border-top: 1px solid var(--rule);
}
p { margin: 0 0 12px; max-width: 76ch; }
.under { color: var(--soft); margin-bottom: 20px; }
.tiles {
  display: grid;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
  gap: 10px;
  margin: 0 0 20px;
}
.tile {
  background: var(--wash);
  border-radius: 8px;
  padding: 10px 14px;
}
.tile b {
  display: block;
  font-size: 1.5rem;
  line-height: 1.3;
  font-variant-numeric: tabular-nums;
}
.tile span {
  color: var(--soft);
  font-size: .86rem;
  line-height: 1.3;
  display: block;
}
.scroll {
  overflow-x: auto;
  max-width: 100%;
  margin: 14px 0 8px;
  border: 1px solid var(--rule);
  border-radius: 6px;
}
table {
  border-collapse: collapse;
  font-size: .86rem;
  line-height: 1.3;
  width: 100%;
  overflow-wrap: normal;
}
th, td {
  padding: 6px 7px;
  text-align: right;
  vertical-align: middle;
  font-variant-numeric: tabular-nums;
  white-space: nowrap;
  border-bottom: 1px solid var(--rule);
}
thead th {
  white-space: normal;
  vertical-align: bottom;
  color: var(--soft);
  font-weight: 600;
  background: var(--wash);
}
th:first-child {
  text-align: left;
  position: sticky;
  left: 0;
  background: var(--paper);
  white-space: normal;
  min-width: 118px;
  max-width: 220px;
  font-weight: 600;
  border-right: 1px solid var(--rule);
  overflow-wrap: anywhere;
}
thead th:first-child { background: var(--wash); }
tr.part th:first-child {
  position: static;
  max-width: none;
  background: var(--wash);
  color: var(--blue);
  border-right: 0;
}
tr.part span { position: sticky; left: 8px; }
ul.summary {
  margin: 0 0 14px;
  padding-left: 1.2em;
  max-width: 84ch;
}
ul.summary li { margin-bottom: 6px; }
tbody tr:last-child th, tbody tr:last-child td { border-bottom: 0; }
.pairs td:nth-child(2), .pairs th:nth-child(2) {
  text-align: left;
  white-space: normal;
  min-width: 96px;
}
table.remedies td:nth-last-child(-n+3) {
  white-space: normal;
  text-align: left;
  min-width: 11em;
  font-size: .8rem;
}
table.remedies th:nth-last-child(-n+3) { text-align: left; }
table.many-columns :is(th, td) { padding: 6px 4px; }
table.claims tbody th { min-width: 24em; font-weight: normal; }
table.claims :is(td, th):nth-child(2), table.claims :is(td, th):nth-child(3) {
  white-space: normal;
  text-align: left;
}
td small, th small {
  display: block;
  color: var(--soft);
  font-size: .78em;
  font-weight: 400;
}
td .wrap { white-space: normal; }
.none { color: var(--faint); }
.bar { display: block; }
.bar .ci { stroke: var(--blue); stroke-width: 2.4; }
.bar .dot { fill: var(--blue); }
.bar .at {
  stroke: var(--faint);
  stroke-width: 1.2;
  stroke-dasharray: 3 2;
}
figure { margin: 14px 0 0; }
.panels {
  display: grid;
  gap: 18px;
  grid-template-columns: 1fr;
}
.panels img {
  width: 100%;
  height: auto;
  display: block;
}
figcaption, .caption {
  color: var(--soft);
  font-size: .92rem;
  margin-top: 10px;
  max-width: 84ch;
}
.absent {
  color: var(--soft);
  background: var(--wash);
  border-radius: 6px;
  padding: 10px 14px;
}
dl.run {
  display: grid;
  grid-template-columns: 1fr;
  gap: 2px 18px;
  margin: 0 0 12px;
}
dt { font-weight: 600; }
dd { margin: 0 0 8px; }
code, pre {
  font: .86rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace;
}
pre {
  background: var(--wash);
  border-radius: 6px;
  padding: 12px;
  overflow-x: auto;
  max-height: 420px;
}
summary {
  cursor: pointer;
  font-weight: 600;
  padding: 6px 0;
}
#entity-plot {
  width: 100%;
  max-width: 900px;
  font-size: 12px;
  fill: var(--soft);
}
#entity-plot .grid { stroke: var(--rule); }
#entity-plot .zero { stroke: var(--ink); }
#entity-plot circle { fill: #56b4e9; fill-opacity: .55; }
#entity-plot circle:hover { fill-opacity: 1; stroke: var(--ink); }
#entity-plot .rare--seen { fill: #d55e00; }
#entity-plot .common--unseen { fill: var(--blue); }
#entity-plot .rare--unseen { fill: #8a8f94; }
.browser thead button {
  font: inherit;
  color: inherit;
  background: none;
  border: 0;
  padding: 0;
  cursor: pointer;
  text-align: inherit;
}
.browser th[aria-sort=descending] button::after { content: " ▾"; }
.browser th[aria-sort=ascending] button::after { content: " ▴"; }
.browser td:nth-child(2), .browser td:nth-child(6) { text-align: left; }
table.browser { font-size: .78rem; }
.browser th, .browser td { padding: 4px 5px; }
.browser th:first-child { min-width: 90px; }
.browser thead th { hyphens: auto; font-size: .72rem; }
.browser td:nth-child(2), .browser td:nth-child(6) { white-space: normal; }
input[type=search] {
  font: inherit;
  padding: 4px 8px;
  width: 240px;
  max-width: 60vw;
}
section > details { margin-top: 10px; }
.foot {
  color: var(--soft);
  font-size: .86rem;
  margin: 48px 0 0;
  padding-top: 14px;
  border-top: 1px solid var(--rule);
}
.tall .scroll { max-height: 620px; overflow-y: auto; }
.tall thead th {
  position: sticky;
  top: 0;
  z-index: 1;
}
.tall thead th:first-child { z-index: 2; }
table.words td {
  white-space: normal;
  text-align: left;
  min-width: 7em;
}
table.words th { text-align: left; }
table.words td.number { text-align: right; min-width: 0; }
@media (min-width: 700px) {
  .panels {
    grid-template-columns: repeat(2, minmax(0, 1fr));
    align-items: start;
  }
  .panels.one { grid-template-columns: minmax(0, 600px); }
  th:first-child { min-width: 170px; }
  dl.run { grid-template-columns: 130px minmax(0, 1fr); }
}
@media (min-width: 980px) {
  .panels.three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  figure.one {
    display: grid;
    grid-template-columns: minmax(0, 600px) minmax(0, 1fr);
    gap: 28px;
    align-items: start;
  }
}
@media (max-width: 480px) {
  main { padding: 20px 16px 48px; }
  h1 { font-size: 1.5rem; }
  h2 { margin-top: 36px; }
}
@media print {
  .scroll { overflow: visible; }
  section > details { margin-top: 10px; }
.foot {
  color: var(--soft);
  font-size: .86rem;
  margin: 48px 0 0;
  padding-top: 14px;
  border-top: 1px solid var(--rule);
}
.tall .scroll { max-height: none; }
  h2 { break-after: avoid; }
  figure { break-inside: avoid; }
}
"""
