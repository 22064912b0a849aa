"""How a question reaches the day files: one after the other, so that a question about a month does not hold a month of
files open. A day that cannot be read is left out of the answer and reported in the store's problems.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import duckdb
import numpy as np

from ...errors import StorageError
from ...model.process import Span
from .arrays import Columns, ids
from .files import META, Files, days_between, is_damage

_log = logging.getLogger(__name__)


class Queries:
    """Any thread; never waits for the writer. Raises StorageError when a file cannot be opened now."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def _each_day(
        self, within: Span, query: str, parameters: Sequence[object], wanted: Columns | None = None
    ) -> Iterator[tuple[str, Columns]]:
        first, last = days_between(within.from_ns, within.to_ns)
        for day in self._files.days():
            if first <= day <= last:
                rows = self._query(day, query, parameters, wanted)
                if rows is not None:
                    yield day, rows

    def _query(
        self, day: str, query: str, parameters: Sequence[object], wanted: Columns | None = None
    ) -> Columns | None:
        try:
            with self._files.day(day) as alias:
                return None if alias is None else self._fetch(query.format(day=alias), parameters, wanted)
        except duckdb.Error as error:
            if not is_damage(error):
                self._files.examine()
                raise StorageError(f"The data of {day} cannot be read now: {str(error).splitlines()[0]}") from None
            _log.exception("damage found in the data of %s", day)
            self._files.suspect(day, str(error).splitlines()[0])
            return None

    def _meta(self, table: str, wanted_ids: Iterable[int]) -> Columns:
        wanted = {"id": ids(wanted_ids)}
        return self._fetch(f"SELECT * FROM {META}.{table} WHERE id IN (SELECT id FROM wanted)", [], wanted)

    def _fetch(
        self,
        query: str,
        parameters: Sequence[object],
        wanted: Columns | None = None,  # noqa: ARG002
    ) -> Columns:
        """wanted: what the query may select from by that name; the engine finds it by the name of this argument."""
        with self._files.cursor() as cursor:
            return {
                name: np.asarray(column)
                for name, column in cursor.execute(query, list(parameters)).fetchnumpy().items()
            }
