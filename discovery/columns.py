"""Columns of a table and their types → a pyarrow schema that knows which of them are its key."""

import pyarrow as pa

TEXT, BOOL, INT, REAL, WIDE = pa.string(), pa.bool_(), pa.int32(), pa.float32(), pa.float64()
VECTOR = pa.list_(pa.float32())


def table(key: str, **columns: pa.DataType | pa.Field) -> pa.Schema:
    """Returns a schema whose key columns (comma separated) may not be null."""
    keys = key.split(",")
    fields = [pa.field(name, kind, nullable=name not in keys) for name, kind in columns.items()]
    return pa.schema(fields, metadata={"key": key})
