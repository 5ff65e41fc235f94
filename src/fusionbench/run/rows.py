"""The rows of a task on disk, one an example: from them scores are computed again, resumed, compared and resampled."""

from pathlib import Path
from typing import Any

import numpy as np

from fusionbench.records import write_whole

Columns = dict[str, np.ndarray[Any, Any]]


def write_rows(path: Path, rows: Columns) -> None:
    """Write statistics by name, the first dimension an example, as Parquet; the file appears whole or not at all."""
    import pyarrow as arrow
    from pyarrow import parquet

    columns = {}
    for name, values in rows.items():
        flat = arrow.array(values.reshape(-1))
        width = int(np.prod(values.shape[1:]))
        columns[name] = flat if values.ndim == 1 else arrow.FixedSizeListArray.from_arrays(flat, width)
    shapes = {f"shape:{name}": ",".join(map(str, values.shape[1:])) for name, values in rows.items()}
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.table(columns).replace_schema_metadata(shapes), sink)
    write_whole(path, sink.getvalue().to_pybytes())


def read_rows(path: Path) -> Columns:
    """Return what `write_rows` wrote."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    shapes = table.schema.metadata or {}
    rows = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        inner = [int(n) for n in shapes.get(f"shape:{name}".encode(), b"").decode().split(",") if n]
        values = column.flatten() if inner else column
        rows[name] = (
            values.to_numpy(zero_copy_only=False).reshape(-1, *inner)
            if inner
            else values.to_numpy(zero_copy_only=False)
        )
    return rows
