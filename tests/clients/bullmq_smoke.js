// BullMQ against the Redis face: node bullmq_smoke.js HOST PORT
// Its scripts use some fifty commands, cjson, cmsgpack, blocking pops and streams.
const { FlowProducer, Queue, QueueEvents, Worker } = require("bullmq");

const [host, port] = process.argv.slice(2);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };

function check(holds, what) {
  if (!holds) throw new Error(`does not hold: ${what}`);
}

async function run() {
  const queue = new Queue("smoke", { connection });
  const events = new QueueEvents("smoke", { connection });
  await events.waitUntilReady();
  let attempts = 0;
  const body = async (job) => {
    if (job.name === "fails once" && attempts++ === 0) throw new Error("on purpose");
    return job.data.n * 2;
  };
  const worker = new Worker("smoke", body, { connection, concurrency: 4 });
  const jobs = await queue.addBulk(
    Array.from({ length: 20 }, (_, n) => ({ name: "plain", data: { n } })),
  );
  jobs.push(await queue.add("delayed", { n: 20 }, { delay: 50 }));
  jobs.push(await queue.add("urgent", { n: 21 }, { priority: 1 }));
  jobs.push(await queue.add("fails once", { n: 22 }, { attempts: 2, backoff: 10 }));
  const results = await Promise.all(jobs.map((job) => job.waitUntilFinished(events, 30_000)));
  check(results.every((result, n) => result === n * 2), "each job answers twice its number");
  check(attempts === 2, "the failed job is tried again");
  const counts = await queue.getJobCounts();
  check(counts.completed === 23 && counts.failed === 0, JSON.stringify(counts));

  const flows = new FlowProducer({ connection });
  const children = [1, 2].map((n) => ({ name: "child", queueName: "smoke", data: { n } }));
  const flow = await flows.add({ name: "parent", queueName: "smoke", data: { n: 5 }, children });
  check((await flow.job.waitUntilFinished(events, 30_000)) === 10, "a parent runs after its children");

  await worker.close();
  await events.close();
  await queue.obliterate({ force: true });
  await queue.close();
  await flows.close();
}

run().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
