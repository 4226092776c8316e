"""A small Parquet file of every kind of number and nesting, and its rows as Python's JSON would write them.

Nulls inside of rows are left out, decimals are floats (integers without a scale), dates are not compared.
"""
import base64, decimal, io, json
import pyarrow as pa
import pyarrow.parquet as pq
from record import versions, write

D = decimal.Decimal
BIG = 9007199254740993
arguments = pa.struct([("order", pa.int64()), ("amount", pa.float64()), ("rate", pa.float32()), ("2024", pa.string()),
                       ("10", pa.string()), ("when", pa.int32())])
message = pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.float64()),
                     ("tool_calls", pa.list_(pa.struct([("name", pa.string()), ("arguments", arguments)])))])
SCHEMA = pa.schema([
    ("messages", pa.list_(message)), ("id", pa.int64()), ("huge", pa.uint64()), ("whole", pa.float64()),
    ("cents", pa.decimal128(10, 2)), ("exact", pa.decimal128(38, 4)), ("count", pa.decimal128(30, 0)),
    ("names", pa.map_(pa.string(), pa.int64())), ("grid", pa.list_(pa.list_(pa.float64()))), ("raw", pa.binary()),
])
call = {"name": "refund", "arguments": {"order": BIG, "amount": 12.0, "rate": 0.5, "2024": "a", "10": "b", "when": 3}}
ROWS = [
    {"messages": [{"role": "user", "content": "Refund", "weight": None, "tool_calls": None},
                  {"role": "assistant", "content": None, "weight": 1.0, "tool_calls": [call]}],
     "id": -BIG, "huge": 2**64 - 1, "whole": 1e16, "cents": D("12.50"), "exact": D("-0.0500"), "count": D(10**25),
     "names": [("b", BIG), ("a", 2)], "grid": [[1.0, 2.5], []], "raw": b"\xff\x00"},
    {"messages": [{"role": "assistant", "content": "ok"}], "id": 7, "huge": 7, "whole": -0.0, "cents": D("3.00"),
     "exact": D("12345678901234567.8900"), "count": None, "names": None, "grid": None, "raw": None},
]


def plain(value, kind):
    if isinstance(value, D):
        if kind.scale == 0:
            return int(value)
        return float(value) if len(str(value.normalize()).replace("-", "").replace(".", "").strip("0")) <= 15 else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if pa.types.is_map(kind):
        return {key: item for key, item in value}
    if isinstance(value, list):
        return [plain(item, kind.value_type) for item in value]
    if isinstance(value, dict):
        return {field.name: plain(value[field.name], field.type) for field in kind if value[field.name] is not None}
    return value


def main():
    table = pa.Table.from_pylist(ROWS, SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", store_schema=False, write_statistics=False)
    rows = [json.dumps(plain(row, pa.struct(list(SCHEMA))), ensure_ascii=False) for row in table.to_pylist()]
    write("parquet-rows.json", {"versions": versions("pyarrow"), "rows": rows,
                                "file": base64.b64encode(buffer.getvalue()).decode()})


if __name__ == "__main__":
    main()
