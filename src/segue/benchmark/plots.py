"""Plots made of characters: a histogram of blocks, and points with their names."""

from collections.abc import Sequence

__all__ = ["histogram", "scatter"]

_BLOCKS = " ▁▂▃▄▅▆▇█"


def histogram(values: Sequence[float], *, num_bins: int, width: int, height: int, unit: str = "ms") -> list[str]:
    """``height`` lines of bars, one of their lower bounds and one of how many each holds.

    ``num_bins`` at most: as many as ``width`` columns allow.
    """
    if not values or height < 1:
        return []
    bar = 7
    num_bins = max(1, min(num_bins, (width + 1) // (bar + 1)))
    low, high = min(values), max(values)
    step = (high - low) / num_bins or 1.0
    counts = [0] * num_bins
    for value in values:
        counts[min(num_bins - 1, int((value - low) / step))] += 1
    eighths = [round(count / max(counts) * height * 8) for count in counts]
    lines = []
    for row in range(height - 1, -1, -1):
        cells = (_BLOCKS[max(0, min(8, level - 8 * row))] * bar for level in eighths)
        lines.append(" ".join(cells))
    lines.append(" ".join(f"{low + i * step:.2f}"[:bar].center(bar) for i in range(num_bins)))
    lines.append(" ".join(str(count).center(bar) for count in counts))
    return [line[:width] for line in lines] + [unit.rjust(min(width, num_bins * (bar + 1) - 1))]


def scatter(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    *,
    width: int,
    height: int,
    x_label: str,
    y_label: str,
) -> list[str]:
    """A chart from 0 to the largest values, in ``width`` columns and ``height`` lines, axes and labels included."""
    plot_width, plot_height = width - 10, height - 3
    if not points or plot_width < 8 or plot_height < 2:
        return []
    top_x, top_y = (max(point[axis] for point in points) or 1.0 for axis in (0, 1))
    cells = [[" "] * plot_width for _ in range(plot_height)]
    for (x, y), label in zip(points, labels, strict=True):
        mark = f"•{label}"
        column = min(round(x / top_x * (plot_width - 1)), plot_width - len(mark))
        row = plot_height - 1 - round(y / top_y * (plot_height - 1))
        cells[row][column : column + len(mark)] = mark
    lines = [y_label]
    for i, row_cells in enumerate(cells):
        axis = f"{top_y:.4g}" if i == 0 else ("0" if i == plot_height - 1 else "")
        lines.append(f"{axis[:8]:>8} │" + "".join(row_cells))
    lines.append(" " * 9 + "└" + "─" * plot_width)
    scale = f"0{f'{top_x:.4g}'.rjust(plot_width - 1)}"
    middle = f" {x_label} "
    start = max(1, (plot_width - len(middle)) // 2)
    lines.append(" " * 10 + (scale[:start] + middle + scale[start + len(middle) :])[:plot_width])
    return lines
