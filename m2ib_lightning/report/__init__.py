"""What a person looks at: pictures and tables of attributions."""

from m2ib_lightning.report.figure import pair_figure, save_pair_figure
from m2ib_lightning.report.table import results_table

__all__ = ["pair_figure", "results_table", "save_pair_figure"]
