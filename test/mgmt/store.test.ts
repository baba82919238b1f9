/** The store against crashes: whatever byte a write ends at, what was acknowledged is there again. */
import { cp, mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import avro from 'avsc';
import fc from 'fast-check';
import { END_FRAME, fileHeader, frame } from '#mgmt/log-file.ts';
import type { Transaction } from '#mgmt/model.ts';
import { Store } from '#mgmt/store.ts';
import { quiet } from './harness.ts';

const folder = (): Promise<string> => mkdtemp(join(tmpdir(), 'rw-store-'));

const flows = (n: number, size = 1): Transaction => ({
  time: n,
  changes: [
    {
      kind: 'ModifyFlows',
      bridge: 'br0',
      reset: false,
      mods: Array.from({ length: size }, (_, at) => ({
        command: 'add' as const,
        flow: `priority=${n},in_port=${at} actions=drop`,
      })),
    },
  ],
});

const every: Transaction = {
  time: 1,
  changes: [
    { kind: 'SetSwitch', record: { uuid: 'u', otherConfig: { a: 'b' }, externalIds: {} } },
    {
      kind: 'SetBridge',
      record: { name: 'br0', datapathType: 'netdev', failMode: 'secure', otherConfig: {}, externalIds: { x: 'ÿ' } },
    },
    {
      kind: 'SetPort',
      bridge: 'br0',
      record: {
        name: 'p1',
        type: 'vhost-user',
        options: { path: '/tmp/x' },
        ofport: 3,
        ofportRequest: 0,
        tag: 5,
        trunks: [1, 2],
        vlanMode: 'access',
        mtuRequest: 9000,
        config: ['no-flood'],
        otherConfig: {},
        externalIds: {},
      },
    },
    { kind: 'ModifyGroups', bridge: 'br0', mods: [{ command: 'add', group: 'group_id=1,type=all' }] },
    { kind: 'DeletePort', bridge: 'br0', name: 'p1' },
    { kind: 'DeleteBridge', name: 'br0' },
  ],
};

async function contents(path: string): Promise<Transaction[]> {
  const { store, transactions } = await Store.open(path, quiet);
  await store.close();
  return transactions;
}

test('every kind of change comes back as it was', async (t) => {
  const path = await folder();
  const { store } = await Store.open(path, quiet);
  await store.append(every);
  await store.close();
  t.deepEqual(JSON.parse(JSON.stringify(await contents(path))), JSON.parse(JSON.stringify([every])));
  await rm(path, { recursive: true });
});

test('a journal cut at any byte keeps every transaction that lies before the cut, and can be continued', async (t) => {
  const path = await folder();
  const { store } = await Store.open(path, quiet);
  const ends: number[] = [];
  const journal = join(path, 'journal-0.avro');
  const start = (await readFile(journal)).length;
  for (let n = 0; n < 6; n++) {
    await store.append(flows(n));
    ends.push((await readFile(journal)).length);
  }
  await store.close();
  const whole = await readFile(journal);
  for (let cut = start; cut <= whole.length; cut++) {
    await writeFile(journal, whole.subarray(0, cut));
    const opened = await Store.open(path, quiet);
    const kept = ends.filter((end) => end <= cut).length;
    t.deepEqual(
      opened.transactions.map(({ time }) => time),
      [0, 1, 2, 3, 4, 5].slice(0, kept),
      `cut at ${cut}`,
    );
    await opened.store.append(flows(99));
    await opened.store.close();
    t.is((await contents(path)).at(-1)!.time, 99, `continued after a cut at ${cut}`);
  }
  await rm(path, { recursive: true });
});

test('a changed byte anywhere in the journal never makes a transaction that was not stored', async (t) => {
  const path = await folder();
  const { store } = await Store.open(path, quiet);
  for (let n = 0; n < 4; n++) await store.append(flows(n));
  await store.close();
  const journal = join(path, 'journal-0.avro');
  const whole = await readFile(journal);
  // The schema in front is under one sum: a few of its bytes speak for all.
  const schema = 16 + whole.readUInt32LE(8);
  for (let at = 0; at < whole.length; at += at < schema ? 37 : 1) {
    const bytes = Buffer.from(whole);
    bytes[at] = bytes[at]! ^ 0x41;
    await writeFile(journal, bytes);
    const times = (await contents(path)).map(({ time }) => time);
    t.deepEqual(times, [0, 1, 2, 3].slice(0, times.length), `byte ${at}`);
    for (const name of await readdir(path)) if (name.endsWith('.damaged')) await rm(join(path, name));
  }
  await rm(path, { recursive: true });
});

test('damage in the middle keeps the file aside', async (t) => {
  const path = await folder();
  const { store } = await Store.open(path, quiet);
  for (let n = 0; n < 4; n++) await store.append(flows(n));
  await store.close();
  const journal = join(path, 'journal-0.avro');
  const bytes = await readFile(journal);
  const second = bytes.indexOf('priority=1');
  bytes[second] = 0;
  await writeFile(journal, bytes);
  t.deepEqual(
    (await contents(path)).map(({ time }) => time),
    [0],
  );
  t.deepEqual(await readFile(`${journal}.damaged`), bytes);
  t.deepEqual(
    (await contents(path)).map(({ time }) => time),
    [0],
  );
  await rm(path, { recursive: true });
});

test('a compaction may stop after any of its steps, and its snapshot may be lost, without losing a transaction', async (t) => {
  const path = await folder();
  const { store } = await Store.open(path, quiet);
  for (let n = 0; n < 3; n++) await store.append(flows(n));
  await store.compact([flows(0), flows(1), flows(2)]);
  await store.append(flows(3));
  await store.close();
  const times = async (where: string): Promise<number[]> => (await contents(where)).map(({ time }) => time);
  t.deepEqual(await times(path), [0, 1, 2, 3]);

  const snapshot = await readFile(join(path, 'snapshot-1.avro'));
  for (let cut = 0; cut < snapshot.length; cut += 31) {
    const copy = await folder();
    await cp(path, copy, { recursive: true });
    // The snapshot before it and both journals say the same.
    await truncate(join(copy, 'snapshot-1.avro'), cut);
    t.deepEqual(await times(copy), [0, 1, 2, 3], `snapshot of ${cut} bytes`);
    await rm(copy, { recursive: true });
  }
  const early = await folder();
  await cp(path, early, { recursive: true });
  await rm(join(early, 'snapshot-1.avro'));
  await writeFile(join(early, 'snapshot-1.avro.tmp'), snapshot.subarray(0, 20));
  t.deepEqual(await times(early), [0, 1, 2, 3], 'journal 1 was there, its snapshot not yet');
  await rm(early, { recursive: true });
  await rm(path, { recursive: true });
});

test('a store without a sound snapshot is refused, not taken for empty', async (t) => {
  const path = await folder();
  const { store } = await Store.open(path, quiet);
  await store.compact([flows(0)]);
  await store.compact([flows(0)]);
  await store.close();
  for (const name of await readdir(path)) if (name.startsWith('snapshot')) await truncate(join(path, name), 30);
  await rm(join(path, 'journal-0.avro'), { force: true });
  await t.throwsAsync(Store.open(path, quiet), { message: /no sound configuration snapshot/ });
  await rm(path, { recursive: true });
});

test('random appends and compactions, cut anywhere in the last file: a prefix that has all that was acknowledged before it', async (t) => {
  const step = fc.oneof(
    fc.record({ append: fc.integer({ min: 1, max: 20 }) }),
    fc.constant({ compact: true as const }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 12 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      async (steps, share) => {
        const path = await folder();
        const { store } = await Store.open(path, quiet);
        const all: Transaction[] = [];
        let newest = 0;
        let last = 0;
        for (const one of steps) {
          if ('append' in one) {
            const size = one.append;
            all.push(flows(all.length, size));
            await store.append(all.at(-1)!);
          } else {
            await store.compact(all);
            newest++;
            last = all.length;
          }
        }
        await store.close();
        const journal = join(path, `journal-${newest}.avro`);
        const bytes = await readFile(journal);
        const header = bytes.indexOf(Buffer.from('RWLOG1')) + 16 + bytes.readUInt32LE(8);
        await truncate(journal, Math.round(header + share * (bytes.length - header)));
        const times = (await contents(path)).map(({ time }) => time);
        await rm(path, { recursive: true });
        t.true(times.length >= last);
        t.deepEqual(
          times,
          all.slice(0, times.length).map(({ time }) => time),
        );
      },
    ),
    { numRuns: 60 },
  );
});

test('transactions that wait together share a write, and 100 000 flows in one take no longer than a file of their size', async (t) => {
  const path = await folder();
  const { store } = await Store.open(path, quiet);
  const order: number[] = [];
  await Promise.all(Array.from({ length: 500 }, (_, n) => store.append(flows(n)).then(() => order.push(n))));
  t.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  );
  await store.append(flows(500, 100_000));
  await store.close();
  const stored = await contents(path);
  t.is(stored.length, 501);
  const [change] = stored.at(-1)!.changes;
  t.true(change!.kind === 'ModifyFlows' && change.mods.length === 100_000);
  await rm(path, { recursive: true });
});

test('a file of an older schema is read with the defaults of what it lacks', async (t) => {
  const path = await folder();
  const { store } = await Store.open(path, quiet);
  await store.close();
  const schema = JSON.parse(await readFile(new URL('../../avro/transaction.avsc', import.meta.url), 'utf8'));
  const setPort = schema.fields[1].type.items.find((item: { name: string }) => item.name === 'SetPort');
  setPort.fields = setPort.fields.filter(
    (field: { name: string }) => field.name !== 'mtuRequest' && field.name !== 'tag',
  );
  const old = avro.Type.forSchema(schema, { wrapUnions: true });
  const change = every.changes[2]! as { bridge: string; record: object };
  const record = { time: 7, changes: [{ SetPort: { bridge: change.bridge, ...change.record } }] };
  await writeFile(
    join(path, 'snapshot-1.avro'),
    Buffer.concat([fileHeader(old), frame(old.toBuffer(record)), END_FRAME]),
  );
  const [transaction] = await contents(path);
  const read = transaction!.changes[0] as { record: { tag: number; mtuRequest: number; name: string } };
  t.like(read.record, { tag: -1, mtuRequest: 0, name: 'p1' });
  await rm(path, { recursive: true });
});

test('a file of a schema that cannot be resolved is refused with what to do', async (t) => {
  const path = await folder();
  const other = avro.Type.forSchema({
    type: 'record',
    name: 'Transaction',
    fields: [{ name: 'time', type: 'string' }],
  });
  await writeFile(join(path, 'journal-0.avro'), fileHeader(other));
  await t.throwsAsync(Store.open(path, quiet), { message: /cannot read .* start the version that wrote it/ });
  await rm(path, { recursive: true });
});
