"""Tables, figures and pages of finished runs. Nothing here imports torch; matplotlib is imported to draw."""

from fusionbench.report.entry import FORMATS as FORMATS
from fusionbench.report.entry import report as report
from fusionbench.report.figures import charts_of as charts_of
from fusionbench.report.formats import as_csv as as_csv
from fusionbench.report.formats import as_latex as as_latex
from fusionbench.report.formats import as_markdown as as_markdown
from fusionbench.report.formats import as_rich as as_rich
from fusionbench.report.html import page as page
from fusionbench.report.plots import Chart as Chart
from fusionbench.report.plots import save as save
from fusionbench.report.tables import Table as Table
from fusionbench.report.tables import table_of as table_of
from fusionbench.report.tables import tables_of as tables_of
