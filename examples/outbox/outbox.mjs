// An order and its event in one commit: node outbox.mjs [postgresql://proteus@127.0.0.1:5432/]
//
// Needs: npm install pg

import { randomUUID } from "node:crypto";
import pg from "pg";

const url = process.argv[2] ?? "postgresql://proteus@127.0.0.1:5432/";
const client = new pg.Client({ connectionString: url });
await client.connect();
await client.query(
  "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, customer TEXT, cents BIGINT)",
);

async function placeOrder(customer, cents) {
  const order = randomUUID();
  const event = JSON.stringify({ order, customer, cents });
  // The row and the event are one commit: both are there, or neither is.
  await client.query("BEGIN");
  try {
    await client.query("INSERT INTO orders VALUES ($1, $2, $3)", [order, customer, cents]);
    await client.query("CALL kafka.produce('orders', $1, $2)", [order, event]);
    if (cents < 0) throw new Error("an order costs something");
    await client.query("COMMIT");
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  }
  return order;
}

console.log("placed", await placeOrder("ann", 1250));
try {
  await placeOrder("bob", -1);
} catch (error) {
  console.log("not placed, and not published:", error.message);
}
await client.end();
