"""The plot of docs/inference.md: where a sparse net begins to be the faster one."""

import statistics

import matplotlib
import numpy as np
from _contenders import DEEPSPARSE, ORT, OURS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LINES = {OURS: "-", DEEPSPARSE: ":"}


def speedups(cells, net, batch, name):
    """Give sparsities and how often `name` is done while ONNX Runtime is once."""
    points = []
    for cell in cells:
        matches = (cell["net"], cell["batch"], cell["threads"]) == (net, batch, 1)
        if matches and name in cell["us"] and ORT in cell["us"]:
            ratio = statistics.median(cell["us"][ORT])
            points.append(
                (cell["sparsity"], ratio / statistics.median(cell["us"][name]))
            )
    return np.array(sorted(points)).reshape(-1, 2).T


def break_even(kept, ratios):
    """Find where the ratio gets above 1 for good; None if it always was, or never.

    Interpolated between neighbours on logarithmic scales, as the plot is drawn.
    """
    below = np.flatnonzero(ratios < 1)
    if not len(below) or below[-1] == len(ratios) - 1:
        return None
    i = below[-1]
    x, y = np.log(kept[i : i + 2]), np.log(ratios[i : i + 2])
    return float(np.exp(x[0] - y[0] * (x[1] - x[0]) / (y[1] - y[0])))


def draw_batch(axis, cells, batch):
    nets = list(dict.fromkeys(cell["net"] for cell in cells))
    for net, colour in zip(nets, ("C0", "C1", "C2"), strict=False):
        for name, style in LINES.items():
            sparsity, ratios = speedups(cells, net, batch, name)
            if not len(sparsity):
                continue
            kept = 1 - sparsity
            label = f"{net}, {name}"
            axis.plot(kept, ratios, style, color=colour, marker=".", label=label)
            even = break_even(kept, ratios) if name == OURS else None
            if even is not None:
                axis.plot(even, 1, "o", color=colour, fillstyle="none", markersize=10)
                axis.annotate(
                    f"{1 - even:.0%}",
                    (even, 1),
                    (0, -16),
                    textcoords="offset points",
                    ha="center",
                    color=colour,
                )
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(
        xscale="log", yscale="log", xlabel="share of zeros", title=f"batch {batch}"
    )
    shares = sorted({cell["sparsity"] for cell in cells})
    axis.set_xticks([1 - s for s in shares], [f"{s:.0%}" for s in shares])
    axis.set_yticks(ticks := [0.5, 1, 2, 5, 10, 20, 50], [f"{t:g}x" for t in ticks])
    axis.minorticks_off()
    axis.invert_xaxis()
    axis.grid(alpha=0.3)


def draw(cells, path):
    """Save the plot, the same bytes for the same figures."""
    cells = [cell for cell in cells if cell["threads"] == 1]
    batches = [b for b in (1, 1024) if any(cell["batch"] == b for cell in cells)]
    if not batches:
        return
    with matplotlib.rc_context({"svg.hashsalt": "inference", "font.size": 9}):
        figure, axes = plt.subplots(
            1, len(batches), figsize=(5 * len(batches), 4), squeeze=False
        )
        for axis, batch in zip(axes[0], batches, strict=True):
            draw_batch(axis, cells, batch)
        axes[0, 0].set_ylabel("speed-up against ONNX Runtime, dense, one thread")
        axes[0, 0].legend()
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
