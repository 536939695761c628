"""A table as the bytes of a file: CSV, or Parquet by pyarrow, which is imported only when it is asked for.

The same table gives the same bytes.
"""

import enum
import io
from typing import Any

from gateway.core.table import Column, ColumnKind, Table, csv_text

MONEY_DIGITS = (38, 9)  # precision and scale: nano-USD, exactly


class FileFormat(enum.StrEnum):
    CSV = "csv"
    PARQUET = "parquet"


class ParquetMissing(Exception):
    """pyarrow is not installed."""

    def __init__(self) -> None:
        super().__init__("Parquet needs pyarrow: pip install 'tollway[parquet]', or take csv")


def encoded(table: Table, form: FileFormat) -> bytes:
    """Raises ParquetMissing."""
    return csv_text(table).encode() if form is FileFormat.CSV else _parquet(table)


def _parquet(table: Table) -> bytes:
    try:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as exc:
        raise ParquetMissing from exc
    fields = [pa.field(column.name, _type(pa, column)) for column in table.columns]
    columns = [
        pa.array([row[number] for row in table.rows], type=field.type) for number, field in enumerate(fields)
    ]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)), out, compression="zstd")
    return out.getvalue()


def _type(pa: Any, column: Column) -> Any:
    match column.kind:
        case ColumnKind.TEXT:
            return pa.string()
        case ColumnKind.INTEGER:
            return pa.int64()
        case ColumnKind.MONEY:
            return pa.decimal128(*MONEY_DIGITS)
        case ColumnKind.MOMENT:
            return pa.timestamp("us", tz="UTC")
