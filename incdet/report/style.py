"""The style sheet of pages and of single charts: light, dark, on a phone and on paper."""

from __future__ import annotations

from incdet.report.palette import HUES, PAPER

_CHART = """
svg { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
svg text { fill: var(--ink); } svg .muted { fill: var(--muted); } svg .strong { font-weight: 700; }
svg .title { font-size: 13px; font-weight: 700; } svg .end { font-weight: 700; fill: var(--hue); }
svg .right { text-anchor: end; } svg .middle { text-anchor: middle; }
.grid { stroke: var(--line); stroke-width: 1; } .zero { stroke: var(--muted); stroke-width: 1; }
.curve { fill: none; stroke: var(--hue); stroke-width: 2; stroke-linejoin: round; }
.thin { stroke-width: 1.2; } .faint { opacity: .65; }
.dot { fill: var(--hue); stroke: var(--paper); stroke-width: .8; }
.ring { fill: none; stroke: var(--muted); stroke-width: 1.4; }
.bar { fill: var(--hue); } .track { fill: var(--line); } .span { stroke: var(--hue); stroke-width: 3; opacity: .45; }
.halo { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
.hue-ink { --hue: var(--ink); } .hue-muted { --hue: var(--muted); } .hue-mark { --hue: var(--mark); }
.hue-gain { --hue: var(--gain); } .hue-loss { --hue: var(--loss); }
"""

_PAGE = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1160px; padding: 28px 24px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 25px; line-height: 1.25; margin: 0 0 4px; } h2 { font-size: 19px; margin: 44px 0 8px; }
h3 { font-size: 15px; margin: 22px 0 6px; }
p { max-width: 78ch; margin: 6px 0 12px; } .muted, figcaption, .note { color: var(--muted); }
figcaption, .note { font-size: 13.5px; } a { color: var(--mark); }
.lead { background: var(--card); border-radius: 10px; padding: 12px 18px; margin: 18px 0; }
.lead ul { margin: 6px 0; padding-left: 20px; } .lead li { margin: 5px 0; max-width: 82ch; }
nav { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 14px 0 0; font-size: 14px; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr)); gap: 18px 22px;
  margin: 12px 0; align-items: start; }
.panels.small { grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 14px; }
.panels.photos { grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 8px; margin: 8px 0 20px; }
.panels > * { margin: 0; min-width: 0; max-width: 440px; }
.panels svg { width: 100%; height: auto; display: block; }
.panels.photos svg { border-radius: 6px; }
.panels.photos figcaption { font-size: 12.5px; line-height: 1.35; padding: 2px; }
.legend { display: flex; flex-wrap: wrap; gap: 3px 16px; font-size: 13.5px; margin: 6px 0; }
.legend svg { width: 26px; height: 12px; vertical-align: -1px; margin-right: 5px; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 5px; }
.scroll { overflow-x: auto; margin: 8px 0; -webkit-overflow-scrolling: touch;
  background: linear-gradient(to right, var(--paper) 40%, transparent) left / 36px 100% no-repeat local,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 36px 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 14px 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 14px 100% no-repeat scroll; }
.hint { display: none; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--muted); font-weight: 600; font-size: 13px; vertical-align: bottom; }
td:first-child, th:first-child { text-align: left; padding-left: 2px; }
td.text, th.text { text-align: left; white-space: normal; min-width: 12em; }
tr.first td { border-top: 2px solid var(--line); }
td.best { font-weight: 700; color: var(--mark); } tr.reference td { font-style: italic; color: var(--muted); }
td.heat { background: color-mix(in srgb, var(--mark) calc(var(--share) * 50%), transparent); text-align: center; }
table.facts td { text-align: left; white-space: normal; vertical-align: top; }
table.facts td:first-child { white-space: nowrap; }
details { margin: 10px 0; } summary { cursor: pointer; font-weight: 600; }
pre, code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); padding: 12px 14px; border-radius: 8px; overflow-x: auto; }
.store { position: absolute; width: 0; height: 0; }
@media (max-width: 640px) {
  body { padding: 18px 14px 40px; } h1 { font-size: 21px; } h2 { margin-top: 34px; }
  th, td { padding: 5px 8px; } .lead { padding: 10px 14px; }
  .hint { display: block; font-size: 12.5px; color: var(--muted); margin: 8px 0 -4px; }
  .scroll td:first-child, .scroll th:first-child { position: sticky; left: 0; background: var(--paper); z-index: 1;
    white-space: normal; min-width: 6em; }
  .panels.small { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .panels.photos { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media print {
  @page { margin: 14mm 12mm; }
  body { max-width: none; padding: 0; font-size: 11pt; } nav, .hint { display: none; }
  h2, h3, .note { break-after: avoid; } figure, tr, .panels > *, .lead { break-inside: avoid; }
  .scroll { overflow: visible; background: none; } table { font-size: 8.5pt; } th, td { padding: 3px 5px; }
  td.heat, .swatch { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  details::details-content { content-visibility: visible; height: auto; }
  pre { white-space: pre-wrap; font-size: 7.5pt; columns: 2; }
  .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .panels.small { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .panels.photos { grid-template-columns: repeat(auto-fit, minmax(110px, 1fr)); }
}
"""


def _variables(side: int) -> str:
    named = [f"--{name}: {colours[side]};" for name, colours in PAPER.items()]
    hues = [f"--h{number}: {colours[side]};" for number, colours in enumerate(HUES)]
    return " ".join([*named, *hues, f"--shade: {('#1b1f2430', '#00000080')[side]};"])


def _colours() -> str:
    """Variables by the reader's choice of light or dark; paper that is printed on is light."""
    hues = " ".join(f".hue-{number} {{ --hue: var(--h{number}); }}" for number in range(len(HUES)))
    return (
        f":root {{ color-scheme: light dark; {_variables(0)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(1)} }} }}\n{hues}"
    )


def page_style() -> str:
    """Everything a report needs."""
    return _colours() + _CHART + _PAGE


def chart_style() -> str:
    """What one chart needs as a file of its own."""
    return _colours() + _CHART + "svg { background: var(--paper); }"
