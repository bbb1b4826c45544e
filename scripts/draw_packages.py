"""Draw the packages of Rales and who imports whom, from the code: `python scripts/draw_packages.py PICTURE.svg`.

A row is a floor of the import contract in pyproject.toml; a box has the number of its lines; an arrow is drawn from a
package to each that it imports, but not to the leaves, which everybody may. Arrows that point up would be red;
import-linter refuses them.
"""

import sys
import tomllib
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).resolve().parent.parent
LEAF_FLOORS = 3  # at the bottom
WIDTH, ROW, BOX_WIDTH, BOX_HEIGHT = 1000, 74, 150, 40


def read_floors() -> list[list[str]]:
    """-> the floors of the contract from the top, each with the packages and modules on it."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.removeprefix("rales.") for name in layer.split(" | ")] for layer in layers]


def read_arrows() -> set[tuple[str, str]]:
    """-> (importer, imported) pairs of packages and modules on the top floor of the package."""
    graph = grimp.build_graph("rales", cache_dir=None)
    arrows = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = [name.split(".")[1] if "." in name else "" for name in (module, imported)]
            if all(ends) and ends[0] != ends[1]:
                arrows.add((ends[0], ends[1]))
    return arrows


def count_lines(part: str) -> int:
    """Package or module -> lines of its Python files."""
    place = REPOSITORY / "src" / "rales" / part
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def draw(floors: list[list[str]], arrows: set[tuple[str, str]]) -> str:
    """Floors and arrows -> SVG."""
    centre, row_of = {}, {}
    for row, names in enumerate(floors):
        for column, name in enumerate(names):
            centre[name] = (WIDTH * (column + 1) / (len(names) + 1), ROW * row + ROW / 2)
            row_of[name] = row

    lines, leaves = [], {name for names in floors[-LEAF_FLOORS:] for name in names}
    drawn = sorted((importer, imported) for importer, imported in arrows if imported not in leaves)
    for importer, imported in drawn:
        (x0, y0), (x1, y1) = centre[importer], centre[imported]
        down = row_of[importer] < row_of[imported]
        bend = (x0 + x1) / 2 + 0.18 * (y1 - y0) * (1 if x0 <= WIDTH / 2 else -1)
        start, end = f"M{x0:.0f},{y0 + BOX_HEIGHT / 2:.0f}", f"{x1:.0f},{y1 - BOX_HEIGHT / 2:.0f}"
        curve = f"{start} Q{bend:.0f},{(y0 + y1) / 2:.0f} {end}"
        lines.append(f'<path class="{"down" if down else "up"}" marker-end="url(#tip)" d="{curve}"/>')

    boxes = []
    for name, (x, y) in centre.items():
        corner = f'x="{x - BOX_WIDTH / 2:.0f}" y="{y - BOX_HEIGHT / 2:.0f}"'
        boxes.append(f'<rect {corner} width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>')
        boxes.append(f'<text x="{x:.0f}" y="{y - 2:.0f}" class="name">{name}</text>')
        boxes.append(f'<text x="{x:.0f}" y="{y + 13:.0f}" class="lines">{count_lines(name):,} lines</text>')

    upward = sum(row_of[importer] >= row_of[imported] for importer, imported in arrows)
    told = f"{len(centre)} parts, {len(arrows)} arrows, {len(drawn)} of them drawn, {upward} not downward"
    height = ROW * len(floors) + 30
    style = (
        "rect{fill:#fff;stroke:#345;stroke-width:1.2} text{font-family:sans-serif;text-anchor:middle;fill:#123}"
        ".name{font-size:14px;font-weight:600} .lines{font-size:10px;fill:#567}"
        "path{fill:none;stroke:#789;stroke-width:.9;opacity:.55} path.up{stroke:#c00;opacity:1}"
    )
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{told}">',
            f'<style>{style}</style><defs>{tip}<polygon points="0,0 8,4 0,8" fill="#789"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{height}" style="fill:#f6f8fa;stroke:none"/>',
            *lines,
            *boxes,
            f'<text x="{WIDTH / 2}" y="{height - 10}" class="lines">{told}</text>',
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(read_floors(), read_arrows()), encoding="utf-8")
