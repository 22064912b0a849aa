"""A process-long SQLAlchemy session that objects are added to and that nobody commits or rolls back.

Mended: rolled back at the end of the request.
"""

from __future__ import annotations

from tests.leakbench.case import Case, Operation, kept

CASE = Case(
    id="T4",
    title="SQLAlchemy session kept with pending objects",
    sites=kept(__file__),
    holder="_new",
    bytes_per_operation=2000,
    environments={"both": "misuse"},
)


def setup(fixed: bool) -> Operation:
    from sqlalchemy import String, create_engine
    from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

    class Base(DeclarativeBase):
        pass

    class Visit(Base):
        __tablename__ = "visit"
        id = mapped_column(String, primary_key=True)
        page = mapped_column(String)

    session = Session(create_engine("sqlite://"))

    def operation(number: int) -> None:
        session.add(Visit(id=f"visit {number}", page=f"/orders/{number}"))  # kept
        if fixed:
            session.rollback()

    return operation
