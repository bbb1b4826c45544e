"""A picture that a notebook shows."""

import io
from typing import Any


def make_notebook_figure(**options: Any) -> Any:
    """Options of a matplotlib Figure -> one that a notebook shows without pyplot, which keeps every figure."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            png = io.BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    return NotebookFigure(**options)
