"""Which axes of a figure a reader would miss the name of."""

from mechinterp.figures import known


def outer_axes(figure):
    """The axes along the left and the lower edge of a figure, by their domains; a table has none."""
    names = [name.removeprefix("xaxis") for name in figure.layout if name.startswith("xaxis")]
    pairs = [(figure.layout[f"xaxis{name}"], figure.layout[f"yaxis{name}"]) for name in names]
    lowest = {}
    for x, y in pairs:
        column, bottom = (x.domain or (0, 1))[0], (y.domain or (0, 1))[0]
        if column not in lowest or bottom < lowest[column][0]:
            lowest[column] = (bottom, x)
    left = [y for x, y in pairs if (x.domain or (0, 1))[0] == min(lowest)]
    return [axis for _, axis in lowest.values()] + left


def unnamed(results):
    """The results without a figure of their own, or whose figure lacks a title or an outer axis's name."""
    figures = {result.name: result.figure() for result in results}
    drawn = {name: figure for name, figure in figures.items() if figure.data[0].type != "table"}
    missing = {name for name, figure in figures.items() if not figure.layout.title.text}
    missing |= figures.keys() - set(known())
    return missing | {
        name for name, figure in drawn.items() if not all(axis.title.text for axis in outer_axes(figure))
    }
