"""A picture that a notebook shows."""

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """matplotlib's figure, shown without pyplot, which alone tells a notebook how and keeps every figure in memory."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()
