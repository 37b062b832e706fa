"""Draw the map of the chapters, figures/chapter_map.svg, from their headers.

python book/chapter_map.py
"""

import html
import re
import textwrap

import yaml
from notebooks import BOOK, chapter_file, read

TARGET = BOOK / "figures" / "chapter_map.svg"
WIDTH, ROW, LINE, TITLES = 360, 30, 52, 66  # the line of dots and the titles, from the left
# As in himlib.book.plotting.
COLORS = {"Front": "#777777", "I": "#0072B2", "II": "#009E73", "III": "#D55E00"}
LIT = "stroke: #D55E00; stroke-width: 3;"
STYLE = """
.map { display: block; width: 100%; max-width: 27rem; height: auto; margin: 1rem 0; }
.map text { font: 13px sans-serif; fill: var(--pst-color-text-base, #222); }
.map .part { font-weight: bold; font-size: 12px; fill: var(--pst-color-text-muted, #595959); }
.map path { fill: none; stroke: var(--pst-color-text-muted, #767676); stroke-width: 1.6; }
.map a { text-decoration: none; }
.map a:is(:hover, :focus-visible) text { text-decoration: underline; }
"""


def chapters() -> dict[str, tuple[str, str, list[str]]]:
    """Return part, title and prerequisites of each chapter, in the book's order."""
    found = {}
    for part in yaml.safe_load((BOOK / "_toc.yml").read_text())["parts"]:
        for name in (page["file"] for page in part["chapters"]):
            path = chapter_file(name)
            if not re.match(r"\d\d_", name):
                continue
            if path.suffix == ".md":
                title = re.search("^# (.+)$", path.read_text(), re.M)[1]
                needs = []
            else:
                header = read(path).metadata["himlib"]
                title, needs = header["title"], header["prerequisites"]
            needs = [need for need in needs if re.match(r"\d\d_", need)]
            found[name] = part["caption"], title, needs
    return found


def ancestors(needs: dict[str, list[str]], name: str) -> set[str]:
    """Return all that a chapter needs, and what that needs."""
    return {other for need in needs[name] for other in (need, *ancestors(needs, need))}


def lines(needs: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return the pairs to join, less what another prerequisite needs anyway."""
    return [
        (need, name)
        for name in needs
        for need in needs[name]
        if not any(need in ancestors(needs, other) for other in needs[name])
    ]


def draw(rows: dict[str, tuple], needs: dict[str, list[str]], title: str, text: str) -> str:
    """Draw names below each other, and lines from each to what it needs.

    A row is its part, its lines, a color, where it leads to, if anywhere, and a short name.
    """
    places, body, y, last = {}, [], 4, None
    for name, (part, words, color, address, short) in rows.items():
        if part != last:
            body.append(
                f'<text class="part" x="{TITLES}" y="{y + 18}">{html.escape(part)}</text>'
            )
            y, last = y + ROW, part
        places[name] = middle = y + 9
        y += ROW + 15 * (len(words) - 1)
        opening, closing = f'<g id="map-{short}">', "</g>"
        if address:
            opening, closing = f'<a id="map-{short}" href="{address}">', "</a>"
        body += [
            opening,
            f'<circle cx="{LINE}" cy="{middle}" r="6" fill="{color}"/>',
            f'<text x="{TITLES}" y="{middle + 5}">'
            + f'<tspan x="{TITLES}" dy="15">'.join(map(html.escape, words))
            + "</tspan>" * (len(words) - 1)
            + f"</text>{closing}",
        ]
    arcs, style = [], STYLE
    for need, name in lines(needs):
        above, below = places[need], places[name]
        side = (
            LINE - min(6 + 0.3 * (below - above - ROW), 68)
            if below - above > 2 * ROW
            else LINE
        )
        curve = f"M{LINE} {above}C{side:g} {above} {side:g} {below} {LINE} {below}"
        arcs.append(f'<path class="to-{rows[name][-1]}" d="{curve}"/>')
    for name, (
        *_,
        short,
    ) in rows.items():  # what is pointed at lights up all that leads to it
        way = ", ".join(
            f".to-{rows[other][-1]}" for other in sorted({name, *ancestors(needs, name)})
        )
        style += f".map:has(#map-{short}:is(:hover, :focus-visible)) :is({way}) {{ {LIT} }}\n"
    return "\n".join(
        [
            '<svg class="map" xmlns="http://www.w3.org/2000/svg" '
            f'viewBox="0 0 {WIDTH} {y}" role="group" '
            'aria-labelledby="map-title map-text">',
            f'<title id="map-title">{title}</title>',
            f'<desc id="map-text">{html.escape(text)}</desc>',
            f"<style>{style}</style>",
            *arcs,
            *body,
            "</svg>\n",
        ]
    )


def svg() -> str:
    book = chapters()
    rows = {
        name: (
            part,
            textwrap.wrap(f"{int(name[:2])} {title}", 44),
            COLORS[part.split(":")[0]],
            f"{name}.html",
            name[:2],
        )
        for name, (part, title, _) in book.items()
    }
    needs = {name: needed for name, (_, _, needed) in book.items()}
    text = " ".join(
        f"{book[name][1]} needs {' and '.join(book[need][1] for need in needed)}."
        for name, needed in needs.items()
        if needed
    )
    return draw(rows, needs, "The chapters and what each builds on", text)


if __name__ == "__main__":
    TARGET.write_text(svg())
