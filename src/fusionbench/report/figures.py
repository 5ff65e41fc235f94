"""Which figures a table has the numbers for. Matplotlib loads when used."""

from fusionbench.report.choice import comparable, sweeps_of
from fusionbench.report.plots import STYLE, Chart, average_name, bars, curve, file_word, radar
from fusionbench.report.steps import step_charts
from fusionbench.report.tables import Table
from fusionbench.report.tradeoff import tradeoffs_of


def charts_of(table: Table) -> list[Chart]:
    """Return every figure that `table` has the numbers for.

    A radar (three tasks or more), bars, a curve for each parameter that was swept, the average against size and time,
    and what the runs wrote while they learned.
    """
    from matplotlib import style

    picture = comparable(table)
    charts: list[Chart] = []
    with style.context(STYLE):
        if picture and len(picture.tasks) >= 3:
            charts.append(Chart("radar", picture.caption, radar(picture)))
        if picture:
            charts.append(Chart("bars", picture.caption, bars(picture)))
        for parameter, lines in sweeps_of(table).items():
            caption = f"{table.title}: {average_name(table)} over the seen tasks against {parameter}."
            charts.append(Chart(f"curve-{file_word(parameter)}", caption, curve(table, parameter, lines)))
        charts += [*tradeoffs_of(table), *step_charts(table)]
    return charts
