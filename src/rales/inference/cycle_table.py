"""The table of predicted cycles: a DataFrame whose print shows what was asked, and says that it is no diagnosis."""

import html
from collections.abc import Callable

import pandas as pd

SHOWN = ("recording", "cycle", "start_s", "end_s", "label")
REASON = "quality_reason"


class CycleTable(pd.DataFrame):
    """Cycles with label and probabilities, as `Predictor.predict` gives them; every method is that of a DataFrame.

    Only its print is another: recording, times, label and probabilities (and why a cycle is not judged), then the
    notice. A table without those columns prints as pandas prints it.
    """

    @property
    def _constructor(self) -> Callable[..., "CycleTable"]:
        return CycleTable

    def equals(self, other: object) -> bool:  # type: ignore[misc]  # pandas calls a table of its own class another
        """Whether a table, of this class or not, holds the same."""
        return isinstance(other, pd.DataFrame) and pd.DataFrame(self).equals(pd.DataFrame(other))

    def shown(self) -> pd.DataFrame | None:
        """-> the columns that are printed; None where the table has no predictions."""
        if not set(SHOWN) < set(self.columns):
            return None
        chances = [name for name in self.columns if str(name).startswith("p_")]
        reason = [REASON] if REASON in self and self["label"].isna().any() else []
        return pd.DataFrame(self)[[*SHOWN, *chances, *reason]] if chances else None

    def __repr__(self) -> str:
        table = self.shown()
        if table is None:
            return super().__repr__()
        rows = pd.get_option("display.max_rows")
        text = table.to_string(max_rows=rows, float_format="{:.3f}".format, na_rep="-")
        left_out = f"\n[{len(table)} cycles]" if rows and len(table) > rows else ""
        return "\n\n".join(filter(None, [text + left_out, self.attrs.get("notice", "")]))

    def _repr_html_(self) -> str:
        table, rows = self.shown(), pd.get_option("display.max_rows")
        if table is None:
            return pd.DataFrame(self).to_html(max_rows=rows, notebook=True)
        body = table.to_html(max_rows=rows, float_format="{:.3f}".format, na_rep="-", notebook=True)
        return f"{body}<p>{html.escape(self.attrs.get('notice', ''))}</p>"
