import test from 'ava';
import { output } from '#contract/actions.ts';
import { PORT_ROW, portCounter } from '#contract/catalogue.ts';
import { FLOW_PACKETS, FLOW_ROW, H_WORKER_ASLEEP } from '#contract/lane.ts';
import { LaneClient } from '#contract/lane-client.ts';
import { close, dup, eventfd, eventfdDrain } from '#contract/os.ts';
import type { DumpResult, UsageResult } from '#pmd/verbs.ts';
import { PmdWorker, type WorkerEvents } from '#pmd/workers.ts';
import type { Attachment } from '#ports/port.ts';
import { Driver } from '../ports/vhost-user/driver.ts';
import { megaflow, PATIENCE_MS } from '../support/datapath.ts';
import { until } from '../support/process.ts';

const OPTIONS = { sleepAfterMicros: 100 };
const SILENT: WorkerEvents = { fault() {}, nonsense() {}, died() {} };

const clientOf = (worker: PmdWorker): LaneClient => new LaneClient(dup(worker.laneFd), dup(worker.wakeFd));

test('a worker answers every verb, with what it refuses as an error', async (t) => {
  const worker = new PmdWorker(0, 1, -1, OPTIONS, SILENT);
  try {
    const attachment = { kind: 'dummy', portNo: 3, rxQueues: [] };
    await worker.ask({ verb: 'attach', portNo: 3, attachment, known: true });
    await worker.ask({ verb: 'poll', queues: [] });
    await t.throwsAsync(worker.ask({ verb: 'poll', queues: [[3, 0]] }), { message: /port 3 has no rx queue 0/ });
    await t.throwsAsync(
      worker.ask({ verb: 'attach', portNo: 4, attachment: { ...attachment, kind: 'x' }, known: true }),
      { message: /no port kind x/ },
    );
    t.deepEqual(await worker.flows(), []);
    const usage = (await worker.ask({ verb: 'usage' })) as UsageResult;
    t.deepEqual(usage.queues, []);
    t.true(usage.total > 0);
    // Many at a time come back in order.
    const order: number[] = [];
    await Promise.all(
      Array.from({ length: 50 }, async (_, i) => {
        await worker.ask({ verb: 'options', options: OPTIONS });
        order.push(i);
      }),
    );
    t.deepEqual(
      order,
      Array.from({ length: 50 }, (_, i) => i),
    );
  } finally {
    await worker.close();
  }
  await t.throwsAsync(worker.flows(), { message: /stopping/ });
});

test('a new worker takes over flows and counts of one that stopped', async (t) => {
  const old = new PmdWorker(0, 1, -1, OPTIONS, SILENT);
  const fresh = new PmdWorker(0, 2, -1, OPTIONS, SILENT);
  try {
    await old.ask({ verb: 'control', doorbell: eventfd() });
    const client = clientOf(old);
    for (let id = 0; id < 3; id++) {
      const { key, mask, actions } = megaflow(id + 1, output(9));
      client.putFlow(id, key, mask, actions);
    }
    client.barrier(1);
    client.flush();
    await until('the flows to be put', () => client.passed(1), PATIENCE_MS);
    const flows = await old.flows();
    t.deepEqual(
      flows.map(({ id, words, actions }) => [id, ...words, ...actions]),
      [0, 1, 2].map((id) => [id, 0, id + 1, 0xffffffff, ...output(9)]),
    );
    await fresh.ask({ verb: 'flows', flows });
    t.deepEqual(await fresh.flows(), flows);

    old.lane.flows[2 * FLOW_ROW + FLOW_PACKETS] = 77;
    old.lane.flows[50 * FLOW_ROW + FLOW_PACKETS] = 5;
    old.lane.ports[4 * PORT_ROW + portCounter('tx_packets')] = 8;
    fresh.lane.ports[4 * PORT_ROW + portCounter('tx_packets')] = 2;
    await old.stop();
    await fresh.ask({ verb: 'inherit', countersOf: [old.laneFd], upcallsOf: [] });
    t.is(fresh.lane.flows[2 * FLOW_ROW + FLOW_PACKETS], 77);
    t.is(fresh.lane.flows[50 * FLOW_ROW + FLOW_PACKETS], 0, 'of a flow that is gone');
    t.is(fresh.lane.ports[4 * PORT_ROW + portCounter('tx_packets')], 10);
    await fresh.ask({ verb: 'attach', portNo: 4, attachment: undefined, known: false });
    t.is(fresh.lane.ports[4 * PORT_ROW + portCounter('tx_packets')], 0, 'a port that is gone');
  } finally {
    await old.close();
    await fresh.close();
  }
});

test('a worker that stops tells a guest that its last frames are done', async (t) => {
  const worker = new PmdWorker(0, 1, -1, OPTIONS, SILENT);
  const driver = new Driver(1);
  const [kickFd, callFd] = [eventfd(), eventfd()];
  try {
    const rings = driver.attachment.rings.map((ring) => ({ ...ring, kickFd, callFd: ring.index === 1 ? callFd : -1 }));
    const attachment: Attachment = Object.assign({}, driver.attachment, { rings });
    await worker.ask({ verb: 'attach', portNo: 1, attachment, known: true });
    await worker.ask({ verb: 'poll', queues: [[1, 0]] });
    await until('the worker to sleep', () => worker.lane.header[H_WORKER_ASLEEP] === 1, PATIENCE_MS);
    // Without a kick: it is the wish to stop that wakes the worker, which takes the frame in that turn.
    driver.send(Buffer.alloc(60));
    await worker.stop();
    t.is(worker.lane.ports[PORT_ROW + portCounter('rx_packets')], 1);
    t.is(eventfdDrain(callFd), 1);
  } finally {
    await worker.close();
    driver.close();
    close(kickFd);
    close(callFd);
  }
});

test('a large table is told in parts, so that packets never wait for all of it', async (t) => {
  const worker = new PmdWorker(0, 1, -1, OPTIONS, SILENT);
  try {
    const flows = Array.from({ length: 1000 }, (_, i) => ({
      id: 3 * i,
      words: Uint32Array.of(0, 1, 0xffffffff, 9, i, 0xffffffff),
      actions: Uint32Array.from(output(2)),
    }));
    await worker.ask({ verb: 'flows', flows });
    const { flows: part, next } = (await worker.ask({ verb: 'dump', from: 0 })) as DumpResult;
    t.true(part.length < 200 && next > 0);
    t.deepEqual(await worker.flows(), flows);
  } finally {
    await worker.close();
  }
});

test('nonsense in the command ring is told; stopping is no death', async (t) => {
  const told: string[] = [];
  const worker = new PmdWorker(1, 2, -1, OPTIONS, {
    ...SILENT,
    nonsense: (number, what) => told.push(`${number}: ${what}`),
    died: () => told.push('died'),
  });
  await worker.ask({ verb: 'control', doorbell: eventfd() });
  const client = clientOf(worker);
  client.reply(5, undefined);
  client.flush();
  await until('the notice', () => told.length > 0, PATIENCE_MS);
  t.deepEqual(told, ['1: answer 5 fits no upcall']);
  await worker.close();
  t.is(told.length, 1);
});
