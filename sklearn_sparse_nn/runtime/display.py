"""How a sparse model shows itself: a few lines of text, or a table."""

from html import escape
from typing import Any

from sklearn_sparse_nn.runtime.cost import Cost, LayerCost

__all__ = ["as_html", "as_text"]

_SHOWN = 20
_LONGEST = 60


def as_text(model: Any) -> str:
    """Give a model as readable lines.

    Parameters
    ----------
    model : SparseModel
        The model.

    Returns
    -------
    text : str
        What it is and costs, then a line for each of its first layers.
    """
    cost = model.cost()
    lines = [f"SparseModel({_summary(model, cost)})"]
    rows = [_row(layer) for layer in cost.layers[:_SHOWN]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *figures in rows:
        padded = [f.rjust(n) for f, n in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join(["  " + name.ljust(widths[0]), *padded]).rstrip())
    if len(cost.layers) > _SHOWN:
        lines.append(f"    and {len(cost.layers) - _SHOWN} more layers")
    return "\n".join(lines)


def as_html(model: Any) -> str:
    """Give a model as a table.

    Parameters
    ----------
    model : SparseModel
        The model. All its names are escaped: they may come from a file.

    Returns
    -------
    html : str
        One ``div``, without style sheets or scripts.
    """
    cost = model.cost()
    head = "".join(
        f"<th>{title}</th>" for title in ("layer", "shape", "non-zeros", "sparsity")
    )
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _row(layer)) + "</tr>"
        for layer in cost.layers[:_SHOWN]
    )
    more = len(cost.layers) - _SHOWN
    rest = f"<p>and {more} more layers</p>" if more > 0 else ""
    return (
        f"<div><p><b>SparseModel</b>: {escape(_summary(model, cost))}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"
        "</div>"
    )


def _summary(model: Any, cost: Cost) -> str:
    classes = getattr(model, "classes_", None)
    if classes is None:
        does = f"{_count(model.graph.n_outputs, 'output')}"
    else:
        does = _count(len(classes), "class", "classes")
    size = sum(n_out * n_in for n_out, n_in in (layer.shape for layer in cost.layers))
    share = f" of {size:,}" if size else ""
    return (
        f"{_count(model.n_features_in_, 'feature')} to {does}, "
        f"{cost.nonzeros:,}{share} weights, {_bytes(cost.bytes)}"
    )


def _row(layer: LayerCost) -> tuple[str, str, str, str]:
    # repr keeps line feeds and control characters of a name from a file harmless
    name = repr(layer.name)[1:-1] or "-"
    if len(name) > _LONGEST:
        name = name[: _LONGEST - 3] + "..."
    n_out, n_in = layer.shape
    return name, f"{n_in} to {n_out}", f"{layer.nonzeros:,}", f"{layer.sparsity:.1%}"


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _bytes(n: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            break
        n /= 1000  # type: ignore[assignment]
    return f"{n:.3g} {unit}" if unit != "bytes" else f"{n} bytes"
