#!/usr/bin/env python3
"""An order and its event in one commit: python outbox.py [postgresql://proteus@127.0.0.1:5432/]

Needs: pip install 'psycopg[binary]'
"""

import json
import sys
import uuid

import psycopg

url = sys.argv[1] if len(sys.argv) > 1 else "postgresql://proteus@127.0.0.1:5432/"

with psycopg.connect(url) as connection:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, customer TEXT, cents BIGINT)"
    )
    connection.commit()

    def place_order(customer, cents):
        order = str(uuid.uuid4())
        event = json.dumps({"order": order, "customer": customer, "cents": cents})
        # The row and the event are one commit: both are there, or neither is.
        with connection.transaction():
            connection.execute("INSERT INTO orders VALUES (%s, %s, %s)", (order, customer, cents))
            connection.execute("CALL kafka.produce('orders', %s, %s)", (order, event))
            if cents < 0:
                raise ValueError("an order costs something")
        return order

    print("placed", place_order("ann", 1250))
    try:
        place_order("bob", -1)
    except ValueError as error:
        print("not placed, and not published:", error)
