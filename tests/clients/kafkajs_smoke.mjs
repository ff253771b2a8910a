// Drives a node's Kafka face with kafkajs: node kafkajs_smoke.mjs HOST:PORT
//
// Exits non-zero with the failed expectation. Needs: npm install kafkajs, beside this file's copy

import { Kafka, logLevel } from "kafkajs";

const address = process.argv[2] ?? "127.0.0.1:9092";
const run = Date.now().toString(36);

function expect(condition, message) {
  if (condition) return;
  console.error(`FAILED: ${message}`);
  process.exit(1);
}

const kafka = new Kafka({ clientId: "smoke", brokers: [address], logLevel: logLevel.ERROR });
const topic = `js-${run}`;
const admin = kafka.admin();
await admin.connect();
await admin.createTopics({
  topics: [{
    topic, numPartitions: 3, configEntries: [{ name: "cleanup.policy", value: "compact" }],
  }],
});
const resource = { type: 2, name: topic, configNames: ["cleanup.policy"] };
const described = await admin.describeConfigs({ resources: [resource] });
expect(described.resources[0].configEntries[0].configValue === "compact", "settings come back");

const producer = kafka.producer({
  transactionalId: `js-${run}`, idempotent: true, maxInFlightRequests: 1,
});
await producer.connect();
for (const [number, commits] of [true, false, true].entries()) {
  const transaction = await producer.transaction();
  const messages = [0, 1, 2, 3].map((n) => ({ key: `k${n}`, value: `${number}-${n}` }));
  await transaction.send({ topic, messages });
  const partitions = [{ partition: 0, offset: String(number) }];
  await transaction.sendOffsets({
    consumerGroupId: `offsets-${run}`, topics: [{ topic, partitions }],
  });
  await (commits ? transaction.commit() : transaction.abort());
}
const offsets = await admin.fetchOffsets({ groupId: `offsets-${run}`, topics: [topic] });
const first = offsets[0].partitions.find((one) => one.partition === 0);
expect(first.offset === "2", `offsets are committed with their transaction, got ${first.offset}`);

const consumer = kafka.consumer({ groupId: `group-${run}` });
await consumer.connect();
await consumer.subscribe({ topic, fromBeginning: true });
const seen = [];
await new Promise((done) => consumer.run({
  eachMessage: async ({ message }) => {
    seen.push(message.value.toString());
    if (seen.length === 8) done();
  },
}));
const expected = [0, 2].flatMap((number) => [0, 1, 2, 3].map((n) => `${number}-${n}`));
expect(seen.sort().join() === expected.join(), `committed records only, got ${seen}`);
const groups = await admin.describeGroups([`group-${run}`]);
expect(groups.groups[0].state === "Stable", `the group is stable, got ${groups.groups[0].state}`);
await consumer.disconnect();
await producer.disconnect();
await admin.disconnect();
console.log("kafkajs: all well");
