/** The tables of the contract: key words, records, counters, places of files. */
import test from 'ava';
import {
  DROP_BASE,
  DROP_REASONS,
  dropReason,
  PORT_COUNTERS,
  PORT_ROW,
  portCounter,
  WORKER_COUNTERS,
  workerCounter,
} from '#contract/catalogue.ts';
import * as key from '#contract/flow-key.ts';
import { MAX_RECORD_BYTES } from '#contract/lane.ts';
import * as records from '#contract/records.ts';
import { apiSocketPath, defaultRundir } from '#contract/rundir.ts';
import { MAX_FRAME } from '#datapath/packet/batch.ts';

test('every field of the flow key has a place of its own', (t) => {
  const words = Object.entries(key).filter(([name]) => name.startsWith('W_') && name !== 'W_TUNNEL') as [
    string,
    number,
  ][];
  const wide: Record<string, number> = {
    W_IPV6_SRC: 3,
    W_IPV6_DST: 3,
    W_ND_TARGET: 4,
    W_TUN_ID: 2,
    W_TUN_IPV6_SRC: 4,
    W_TUN_IPV6_DST: 4,
  };
  const taken = words.flatMap(([name, at]) => Array.from({ length: wide[name] ?? 1 }, (_, i) => at + i));
  t.deepEqual(
    taken.sort((a, b) => a - b),
    Array.from({ length: 40 }, (_, i) => (i < 26 ? i : key.W_TUNNEL + i - 26)),
  );
  t.true(key.W_NW_MISC < key.KEY_WORDS_SHORT && key.W_IPV6_SRC >= key.KEY_WORDS_SHORT);
});

test('an upcall record holds key and longest frame, each kind has its own number', (t) => {
  t.is(records.UPCALL_FRAME, records.UPCALL_KEY + key.KEY_WORDS);
  t.true(records.UPCALL_VNET + 3 <= records.UPCALL_KEY);
  t.true(records.UPCALL_FRAME * 4 + MAX_FRAME <= MAX_RECORD_BYTES);
  const kinds = Object.entries(records).filter(([name]) => name.startsWith('RECORD_'));
  t.is(new Set(kinds.map(([, kind]) => kind)).size, kinds.length);
  t.is(records.RECORD_PAD, 0);
});

test('counters and drop reasons have unique names, places within their rows and a word of help', (t) => {
  for (const list of [PORT_COUNTERS, DROP_REASONS, WORKER_COUNTERS]) {
    t.is(new Set(list.map(({ name }) => name)).size, list.length);
    for (const { name, help } of list) {
      t.regex(name, /^[a-z][a-z0-9_]*$/);
      t.true(help.length > 5, name);
    }
  }
  t.is(dropReason('none'), 0);
  t.is(portCounter('rx_packets'), 0);
  t.true(PORT_COUNTERS.every(({ name }) => portCounter(name) < DROP_BASE));
  t.true(DROP_REASONS.every(({ name }) => DROP_BASE + dropReason(name) < PORT_ROW));
  t.is(WORKER_COUNTERS[workerCounter('misses')]!.name, 'misses');
  t.throws(() => dropReason('bad luck' as never), { instanceOf: RangeError, message: /bad luck/ });
});

test('the run directory: option, environment, then the place for this user', (t) => {
  t.is(defaultRundir('/a/b', { RINGWAY_RUNDIR: '/c' }), '/a/b');
  t.is(defaultRundir(undefined, { RINGWAY_RUNDIR: '/c' }), '/c');
  t.is(defaultRundir('', { RINGWAY_RUNDIR: '/c/../d' }), '/d');
  const uid = process.getuid!();
  t.is(defaultRundir(undefined, { XDG_RUNTIME_DIR: '/x' }), uid === 0 ? '/run/ringway' : '/x/ringway');
  t.is(defaultRundir(undefined, {}), uid === 0 ? '/run/ringway' : `/tmp/ringway-${uid}`);
  t.is(apiSocketPath('/r'), '/r/api.sock');
});
