"""The representation of a sparse model: a few lines of text, or a table."""

from html import escape

from sklearn_sparse_nn.runtime.cost import Cost, LayerCost, cost_of
from sklearn_sparse_nn.runtime.graph import Graph
from sklearn_sparse_nn.runtime.head import Head

__all__ = ["as_html", "as_text"]

_SHOWN = 20
_LONGEST = 60


def as_text(graph: Graph, head: Head, engine: str) -> str:
    """Return a model as readable lines.

    Parameters
    ----------
    graph : Graph
        The operations of the model.
    head : Head
        The meaning of its outputs.
    engine : str
        The name of what predicts.

    Returns
    -------
    text : str
        The model's size and cost, then a line for each of its first layers.
    """
    cost = cost_of(graph)
    lines = [f"SparseModel({_summary(graph, head, cost)}, engine={engine!r})"]
    rows = [_row(layer) for layer in cost.layers[:_SHOWN]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *figures in rows:
        padded = [f.rjust(n) for f, n in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join(["  " + name.ljust(widths[0]), *padded]).rstrip())
    if len(cost.layers) > _SHOWN:
        lines.append(f"    and {len(cost.layers) - _SHOWN} more layers")
    return "\n".join(lines)


def as_html(graph: Graph, head: Head, engine: str) -> str:
    """Return a model as a table in HTML.

    Parameters
    ----------
    graph : Graph
        The operations of the model. All names are escaped: they may come from a file.
    head : Head
        The meaning of its outputs.
    engine : str
        The name of what predicts.

    Returns
    -------
    html : str
        One ``div``, without style sheets or scripts.
    """
    cost = cost_of(graph)
    titles = "".join(
        f"<th>{title}</th>" for title in ("layer", "shape", "non-zeros", "sparsity")
    )
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _row(layer)) + "</tr>"
        for layer in cost.layers[:_SHOWN]
    )
    more = len(cost.layers) - _SHOWN
    rest = f"<p>and {more} more layers</p>" if more > 0 else ""
    return (
        f"<div><p><b>SparseModel</b>: {escape(_summary(graph, head, cost))}, "
        f"engine {escape(engine)}</p>"
        f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>{rest}"
        "</div>"
    )


def _summary(graph: Graph, head: Head, cost: Cost) -> str:
    if head.classes is None:
        result = _count(graph.n_outputs, "output")
    else:
        result = _count(len(head.classes), "class", "classes")
    size = sum(n_out * n_in for n_out, n_in in (layer.shape for layer in cost.layers))
    share = f" of {size:,}" if size else ""
    return (
        f"{_count(graph.stage.n_features, 'feature')} to {result}, "
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
