"""How the page looks, in light and dark."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #545d68; --line: #d5dae0;
  --accent: #1f5fa8; --marked: #fdf1e7; --warn: #a63c06;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101316; --card: #1a1e23; --ink: #e7eaee; --soft: #a9b3be; --line: #3a424b;
    --accent: #8bbcf5; --marked: #35291f; --warn: #ffae80;
  }
  figure img { filter: invert(0.895) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.25rem clamp(0.75rem, 3vw, 2.5rem) 3rem; max-width: 110rem;
  background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0.5rem 0 0.25rem; }
h2 { font-size: 1.25rem; margin: 0 0 0.75rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 0.5rem; }
p { margin: 0.4rem 0; }
.soft, caption, dt { color: var(--soft); }
.runs {
  display: grid; gap: 1.25rem; align-items: start; margin-top: 1.25rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 38rem), 1fr));
}
article, .comparison {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: clamp(0.9rem, 2vw, 1.6rem); min-width: 0;
}
.comparison { margin-top: 1.25rem; }
.single { max-width: 72rem; }
.answer { border-left: 4px solid var(--accent); padding-left: 0.9rem; }
.answer p:first-child { font-weight: 650; font-size: 1.1rem; }
figure { margin: 0.5rem 0; }
figure img { display: block; width: 100%; max-width: 56rem; height: auto; background: #ffffff; }
.scrolling { overflow-x: auto; margin: 0.75rem 0; container-type: inline-size; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption {
  position: sticky; left: 0; max-width: 100cqi; text-align: left;
  padding-bottom: 0.4rem; font-size: 0.92rem;
}
th, td { padding: 0.35rem 0.6rem; text-align: right; border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; font-weight: 600; font-size: 0.9rem; }
th:first-child { text-align: left; padding-left: 0.4rem; }
tbody th { min-width: 7.5rem; font-weight: 600; overflow-wrap: anywhere; }
.comparison tbody th {
  min-width: clamp(6rem, 11vw, 13rem); position: sticky; left: 0; background: var(--card);
}
.comparison table { font-size: 0.88rem; }
.comparison th, .comparison td { padding: 0.35rem 0.4rem; }
@media (max-width: 640px) {
  table { font-size: 0.85rem; }
  th, td { padding: 0.35rem 0.25rem; }
  tbody th { min-width: 4rem; }
}
.marked { background: var(--marked); }
dl { margin: 0.5rem 0; }
dl div { display: flex; flex-wrap: wrap; gap: 0 0.75rem; padding: 0.15rem 0; }
dt { flex: 0 0 14rem; }
dd { margin: 0; flex: 1 1 12rem; overflow-wrap: anywhere; }
ul.warnings { list-style: none; padding: 0; margin: 0.75rem 0; }
ul.warnings li {
  border-left: 4px solid var(--warn); padding: 0.1rem 0 0.1rem 0.9rem; margin: 0.5rem 0;
}
ul.warnings li::before { content: "Warning: "; color: var(--warn); font-weight: 650; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.88rem; margin: 0.5rem 0; }
summary { cursor: pointer; color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
"""
