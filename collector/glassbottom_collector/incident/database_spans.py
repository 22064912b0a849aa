"""What a service saw of its database: its own spans around calls, when the database itself cannot say what is slow.

They tell what no database can: by which route a statement was sent. They do not tell which of two databases of one kind
it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..model.process import Span
from ..model.timing import Operation, OperationKind
from ..storage import Reader
from ..timing.histograms import merged, quantile
from ..timing.places import look_up
from .plain import plain

ROWS_MAX = 10
SYSTEMS = {"postgresql": ("postgresql", "postgres"), "mysql": ("mysql", "mariadb")}
"""`db.system.name` or `db.system` of a span, by the kind of database in the configuration."""


def database_spans(
    reader: Reader, service: str, within: Span, kind: str, redact_sql: Callable[[str, str], str], place: str
) -> list[dict[str, Any]]:
    """The ROWS_MAX calls with most time in total, one row for each name, target, route and place.

    Times in milliseconds; self_ms is without the spans below. Some instrumentations call a span by its whole statement:
    literals are taken out of names before they are summed up.
    """
    grouped: dict[tuple[str, str, str, int], list[Operation]] = {}
    for interval in reader.operation_totals(service, within).values():
        for row in interval.rows:
            if (
                row.kind is OperationKind.SPAN
                and row.span_kind == "CLIENT"
                and row.target.lower() in SYSTEMS.get(kind, ())
            ):
                grouped.setdefault((redact_sql(row.name, place), row.target, row.route, row.frame), []).append(row)
    summed = [(key, mine, merged([row.duration for row in mine])) for key, mine in grouped.items()]
    shown = sorted((one for one in summed if one[2].count), key=lambda one: (-one[2].sum_s, one[0]))[:ROWS_MAX]
    places = look_up(reader, frames=(key[3] for key, _, _ in shown))
    return [
        {
            "name": name,
            "target": target,
            "route": route,
            "frame": plain(places.frame(frame)),
            "calls": duration.count,
            "errors": sum(row.duration.count for row in mine if row.status == "error"),
            "total_ms": round(duration.sum_s * 1e3, 3),
            "mean_ms": round(duration.sum_s * 1e3 / duration.count, 3),
            "p95_ms": round(quantile(duration, 0.95) * 1e3, 3),
            "self_ms": round(sum(row.self_s for row in mine) * 1e3, 3),
        }
        for (name, target, route, frame), mine, duration in shown
    ]
