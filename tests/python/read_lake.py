"""Reads a lake without Meterline: the Delta log with `deltalake`, the rows with DuckDB.

The rule for `intervals` (README.md): of the rows of one series, start and end, the one with the greatest position
(Kafka time stamp, partition, offset) is the interval's value; if that row counts no readings, the interval has none.
Prints one JSON document.
"""

import json
import sys
from pathlib import Path

import duckdb
from deltalake import DeltaTable

LATEST = """
    SELECT * FROM (SELECT * FROM revisions
    QUALIFY row_number() OVER (
        PARTITION BY series_id, start, "end"
        ORDER BY position_timestamp DESC, partition DESC, "offset" DESC
    ) = 1) WHERE count > 0
"""

# Rows of the layer `base` are unique by series, start and end: two would mean that the engine broke its own rule.
TWICE = """
    SELECT count(*) FROM (
        SELECT series_id, start, "end" FROM revisions WHERE layer = 'base' GROUP BY ALL HAVING count(*) > 1
    )
"""

PER_SERIES = """
    SELECT series_id, count(*) AS intervals, sum(value) AS total,
           epoch_us(min(start)) AS first_us, epoch_us(max(start)) AS last_us,
           sum(value * ((epoch_us(start) // 60000000) % 1009)) AS checksum
    FROM intervals GROUP BY series_id ORDER BY series_id
"""

FORECASTS_LATEST = """
    SELECT series_id, origin_us, count(*) AS steps, sum(mean) AS total FROM (
        SELECT series_id, epoch_us(origin) AS origin_us, mean FROM forecasts
        QUALIFY origin = max(origin) OVER (PARTITION BY series_id)
    ) GROUP BY ALL ORDER BY ALL
"""

DEAD_LETTERS = "SELECT reason, count(*) AS records FROM dead_letters GROUP BY reason ORDER BY reason"


def rows(connection, query):
    """The rows of a query as dictionaries."""
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row)) for row in cursor.fetchall()]


def table(lake, name):
    """A Delta table as an Arrow data set, or None where it does not exist."""
    path = lake / name
    return DeltaTable(str(path)).to_pyarrow_dataset() if path.exists() else None


def main():
    lake = Path(sys.argv[1])
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("revisions", table(lake, "intervals"))
    connection.execute(f"CREATE TEMP TABLE intervals AS {LATEST}")
    answer = {
        "rows": connection.execute("SELECT count(*) FROM revisions").fetchone()[0],
        "intervals": connection.execute("SELECT count(*) FROM intervals").fetchone()[0],
        "base_twice": connection.execute(TWICE).fetchone()[0],
        "per_series": rows(connection, PER_SERIES),
    }
    forecasts = table(lake, "forecasts")
    if forecasts is not None:
        connection.register("forecasts", forecasts)
        answer["forecasts_latest"] = rows(connection, FORECASTS_LATEST)
    dead_letters = table(lake, "dead_letters")
    if dead_letters is not None:
        connection.register("dead_letters", dead_letters)
        answer["dead_letters"] = rows(connection, DEAD_LETTERS)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
