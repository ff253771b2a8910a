"""psycopg and SQLAlchemy against the PostgreSQL face: python python_postgres_smoke.py HOST PORT"""

import datetime
import decimal
import sys
import threading

import psycopg
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

host, port = sys.argv[1], int(sys.argv[2])
where = f"host={host} port={port} user=proteus dbname=proteus"

with psycopg.connect(where, autocommit=True) as connection:
    connection.execute("DROP TABLE IF EXISTS psycopg_types")
    connection.execute(
        "CREATE TABLE psycopg_types (id int PRIMARY KEY, name text, at timestamptz, price numeric(10,2),"
        " raw bytea, ratio float8, ok boolean, day date)"
    )
    row = (
        1,
        "a'b",
        datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
        decimal.Decimal("1.50"),
        b"\x00x",
        1.5,
        True,
        datetime.date(2024, 1, 2),
    )
    insert = "INSERT INTO psycopg_types VALUES (%s,%s,%s,%s,%s,%s,%s,%s)"
    assert connection.execute(insert, row).rowcount == 1
    for binary in (False, True):
        cursor = connection.cursor(binary=binary)
        assert cursor.execute("SELECT * FROM psycopg_types").fetchall() == [row], binary
    with connection.cursor() as cursor:
        rows = [(number, str(number)) for number in range(10, 300)]
        cursor.executemany("INSERT INTO psycopg_types (id, name) VALUES (%s, %s)", rows)
    assert connection.execute("SELECT count(*) FROM psycopg_types").fetchone() == (291,)

    # Another connection asks to cancel, and the session goes on.
    timer = threading.Timer(1.0, connection.cancel)
    timer.start()
    endless = "SELECT count(*) FROM generate_series(1, 1000000) a(i), generate_series(1, 1000000) b(i)"
    try:
        connection.execute(endless)
    except psycopg.errors.QueryCanceled:
        pass
    else:
        raise AssertionError("the query was not cancelled")
    timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)

with psycopg.connect(where) as connection:
    try:
        connection.execute("SELECT missing FROM psycopg_types")
    except psycopg.errors.UndefinedColumn:
        connection.rollback()
    assert connection.execute("UPDATE psycopg_types SET name = 'q' WHERE id = 1").rowcount == 1
    connection.rollback()
    assert connection.execute("SELECT name FROM psycopg_types WHERE id = 1").fetchone() == ("a'b",)
    connection.execute("DROP TABLE psycopg_types")


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "sqlalchemy_users"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str | None] = mapped_column(sqlalchemy.String(50))


engine = sqlalchemy.create_engine(f"postgresql+psycopg://proteus@{host}:{port}/proteus")
Base.metadata.drop_all(engine)
Base.metadata.create_all(engine)
Base.metadata.create_all(engine)
with Session(engine) as session:
    session.add_all([User(id=number, name=f"name {number}") for number in range(5)])
    session.commit()
    session.get(User, 3).name = "changed"
    session.commit()
    session.delete(session.get(User, 4))
    session.commit()
    newest = sqlalchemy.select(User.name).order_by(User.id.desc()).limit(2)
    assert list(session.scalars(newest)) == ["changed", "name 2"]
    assert session.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(User)) == 4
Base.metadata.drop_all(engine)
print("psycopg, SQLAlchemy: ok")
