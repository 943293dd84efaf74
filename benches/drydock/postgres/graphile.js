// graphile-worker on empty jobs: `graphile.js URL CONCURRENCY`.
//
// For each line "JOBS SECONDS" on stdin it puts so many jobs into the queue, works for so long, and answers "DONE SECONDS".
"use strict";

const readline = require("node:readline");
const { Logger, run, runMigrations } = require("graphile-worker");
const { Pool } = require("pg");

const [url, concurrency] = process.argv.slice(2);
// postgres://USER@FOLDER/DATABASE: a folder with a socket in it is a host to this driver.
const { username, host, pathname } = /^postgres:\/\/(?<username>[^@]*)@(?<host>[^/]*)\/(?<pathname>.*)$/.exec(url).groups;
const settings = { user: username, host: decodeURIComponent(host), database: pathname, max: Number(concurrency) + 4 };
const pgPool = new Pool(settings);
pgPool.on("error", () => {});
pgPool.on("connect", (client) => client.on("error", () => {}));
const logger = new Logger(() => () => {});

async function work(jobs, seconds) {
  await pgPool.query("TRUNCATE graphile_worker._private_jobs");
  await pgPool.query(
    "SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(SELECT json_populate_record(NULL::graphile_worker.job_spec, " +
      "'{\"identifier\":\"empty\",\"payload\":{}}'::json) FROM generate_series(1, $1::int)))",
    [jobs],
  );
  await pgPool.query("ANALYZE graphile_worker._private_jobs");
  await pgPool.query("CHECKPOINT");
  let done = 0;
  let began;
  const runner = await run({
    pgPool,
    concurrency: Number(concurrency),
    noHandleSignals: true,
    pollInterval: 1000,
    logger,
    taskList: {
      empty: async () => {
        began ??= process.hrtime.bigint();
        done += 1;
      },
    },
  });
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const [count, took] = [done, Number(process.hrtime.bigint() - began) / 1e9];
  await runner.stop();
  return [count, took];
}

async function main() {
  await runMigrations({ pgPool, logger });
  console.log("ready");
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [jobs, seconds] = line.split(" ").map(Number);
    const [done, took] = await work(jobs, seconds);
    console.log(`${done} ${took.toFixed(6)}`);
  }
  await pgPool.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
