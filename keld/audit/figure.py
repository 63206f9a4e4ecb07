"""Figure: the frame of a page and its figures, as HTML and inline SVG: no script, no font and no host, light and dark by the reader's setting.

Every text that comes in is escaped here.  Below each figure stands the table of its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# Colours that differ in both settings, also for colour-blind readers, each at least 4.6:1 against its background.
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--muted:#57606a;--paper:#fff;--line:#d0d7de;--c0:#0b6bcb;--c1:#0a7d55;--c2:#b25e00;--c3:#8a3ffc}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--muted:#9da7b1;--paper:#0d1117;--line:#30363d;--c0:#62a8f5;--c1:#4cc38a;--c2:#e8a04c;--c3:#b794ff}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main,header,footer{max-width:72rem;margin:0 auto;padding:1rem}h1{font-size:1.6rem;line-height:1.25}h2{font-size:1.25rem;margin-top:2rem}h3{font-size:1.05rem}
.muted{color:var(--muted)}.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;padding:0;list-style:none}
.tiles li{border:1px solid var(--line);border-radius:6px;padding:.75rem}.tiles b{display:block;font-size:1.5rem;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}.n{text-align:right;white-space:nowrap}
figure{margin:1rem 0}svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font:13px system-ui,sans-serif}
.k0{fill:var(--c0)}.k1{fill:var(--c1)}.k2{fill:var(--c2)}.k3{fill:var(--c3)}pre{overflow-x:auto;border:1px solid var(--line);border-radius:6px;padding:.6rem}
section{break-inside:avoid}summary{cursor:pointer}@media print{details>*{display:block}}
"""


def frame(title: str, body: str) -> str:
    """A whole page."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def tiles(shown: Sequence[tuple[str, str]]) -> str:
    """Large figures, each with what it is."""
    return f'<ul class="tiles">{"".join(f"<li><b>{escape(value)}</b>{escape(what)}</li>" for what, value in shown)}</ul>'


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table; the columns at `numbers` are aligned to the right."""

    def cell(position: int, text: str) -> str:
        kind = ' class="n"' if position in numbers else ""
        return f'<th scope="row"{kind}>{escape(text)}</th>' if position == 0 else f"<td{kind}>{escape(text)}</td>"

    head = "".join(
        f'<th scope="col"{" class=" + chr(34) + "n" + chr(34) if at in numbers else ""}>{escape(name)}</th>'
        for at, name in enumerate(header)
    )
    body = "".join(f"<tr>{''.join(cell(at, text) for at, text in enumerate(row))}</tr>" for row in rows)
    named = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{named}"><table><caption class="muted">{named}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def bars(title: str, shown: Sequence[tuple[str, float, int, str]], unit: str) -> str:
    """A horizontal bar for each (name, value, colour 0 to 3, value as text), and the same as a table."""
    most = max((value for _, value, _, _ in shown), default=0) or 1
    marks = "".join(
        f'<text x="0" y="{at * 30 + 19}">{escape(name[:34])}</text>'
        f'<rect class="k{colour}" x="250" y="{at * 30 + 5}" width="{max(value, 0) / most * 380:.1f}" height="20" rx="2"/>'
        f'<text x="{258 + max(value, 0) / most * 380:.1f}" y="{at * 30 + 19}">{escape(text)}</text>'
        for at, (name, value, colour, text) in enumerate(shown)
    )
    drawn = (
        f'<svg viewBox="0 0 760 {len(shown) * 30 + 6}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>{marks}</svg>'
    )
    numbers = table(title, ("", unit), [(name, text) for name, _, _, text in shown], (1,))
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}<details><summary>The numbers</summary>{numbers}</details></figure>"


def week(title: str, hours: Sequence[int]) -> str:
    """A week of 7 x 24 cells, Monday above, the more the stronger; the day's sums as a table."""
    most = max(hours) or 1
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    paths = []
    for level in range(1, 6):
        cells = "".join(
            f"M{at % 24 * 16 + 40} {at // 24 * 16}h14v14h-14z"
            for at, value in enumerate(hours)
            if value and min(int(value / most * 5) + 1, 5) == level
        )
        if cells:
            paths.append(f'<path class="k0" fill-opacity="{level / 5:g}" d="{cells}"/>')
    names = "".join(f'<text x="0" y="{at * 16 + 12}">{day}</text>' for at, day in enumerate(days))
    clock = "".join(f'<text x="{at * 16 + 40}" y="128">{at:02d}</text>' for at in range(0, 24, 6))
    named = escape(title)
    drawn = (
        f'<svg viewBox="0 0 430 132" style="max-width:30rem" role="img" aria-label="{named}"><title>{named}</title>'
        f"{names}{clock}{''.join(paths)}</svg>"
    )
    rows = [(day, f"{sum(hours[at * 24 : at * 24 + 24]):,}") for at, day in enumerate(days)]
    numbers = table(title, ("day", "calls"), rows, (1,))
    return f"<figure><figcaption>{named}</figcaption>{drawn}<details><summary>The numbers</summary>{numbers}</details></figure>"
