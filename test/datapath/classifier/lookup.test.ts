import test from 'ava';
import { KEY_WORDS } from '#contract/flow-key.ts';
import { MatchCache } from '#datapath/cache/match-cache.ts';
import { ENTRY_KEY, ENTRY_TALLY, TALLY_FULL } from '#datapath/classifier/entry.ts';
import { FlowStats } from '#datapath/classifier/flow-stats.ts';
import { FlowTable } from '#datapath/classifier/flow-table.ts';
import { foundId, pendingSlots } from '#datapath/classifier/found.ts';
import { HASH_SEED, hashFinish, hashWord } from '#datapath/classifier/hash.ts';
import { lookup } from '#datapath/classifier/lookup.ts';
import { CompactMask, GROUP } from '#datapath/classifier/mask.ts';
import { PortFlows } from '#datapath/classifier/port-flows.ts';
import { Subtable } from '#datapath/classifier/subtable.ts';
import { PacketBatch } from '#datapath/packet/batch.ts';
import { singleRuns } from '#datapath/parse/runs.ts';

const batch = new PacketBatch();
const rows = new Float64Array(1 << 16);
const stats = new FlowStats(rows, new Float64Array([7]));
const maskOf = (...words: number[]): Uint32Array => {
  const mask = new Uint32Array(KEY_WORDS);
  for (const word of words) mask[word] = 0xffffffff;
  return mask;
};

test('a compact mask lists its words in whole groups and leaves in_port out', (t) => {
  const compact = new CompactMask(maskOf(0, 7, 8, 9, 10, 12));
  t.is(compact.used, 5);
  t.is(compact.words.length % GROUP, 0);
  t.deepEqual([...compact.words.subarray(0, 5)], [7, 8, 9, 10, 12]);
  t.deepEqual([...compact.bits.subarray(5)], [0, 0, 0]);
  t.is(new CompactMask(maskOf(0)).used, 0);
});

test('addresses that count up, in either byte order, spread over the low bits of the hash', (t) => {
  for (const step of [1, 0x100, 0x10000, 0x1000000]) {
    const places = new Set<number>();
    for (let i = 0; i < 256; i++) places.add(hashFinish(hashWord(hashWord(HASH_SEED, i * step), 80)) & 0xffff);
    t.true(places.size > 240, `step ${step}: ${places.size}`);
  }
});

for (const words of [[8], [7, 8, 9, 10, 11], [2, 3, 4, 7, 8, 9, 12, 13, 14, 15, 16, 17]]) {
  test(`a lookup of ${words.length} words leaves what it does not find pending, in order`, (t) => {
    const shared = { home: new Int32Array(64), stats };
    const mask = maskOf(...words);
    const subtable = new Subtable(1, 0, mask, mask, shared);
    const keyOf = (n: number): Uint32Array => mask.map((_, word) => (words.includes(word) ? n * 31 + word : 0));
    for (let id = 0; id < 40; id += 2) subtable.insert(id, keyOf(id), id);
    for (let slot = 0; slot < 32; slot++) {
      batch.keys.set(keyOf(slot), slot * KEY_WORDS);
      pendingSlots[slot] = slot;
    }
    t.is(lookup(subtable, batch, stats, 32, 0), 16);
    t.deepEqual(
      [...pendingSlots.subarray(0, 16)],
      Array.from({ length: 16 }, (_, i) => 2 * i + 1),
    );
    t.deepEqual(
      [...foundId],
      Array.from({ length: 32 }, (_, slot) => (slot % 2 === 0 ? slot : -1)),
    );
  });
}

test('a tally that fills up spills into the lane and loses nothing', (t) => {
  const mask = maskOf(8);
  const subtable = new Subtable(1, 0, mask, mask, { home: new Int32Array(8), stats });
  const key = maskOf(8);
  subtable.insert(3, key, 0);
  batch.keys.set(key, 0);
  batch.length[0] = 100;
  rows.fill(0);
  const entry = [...subtable.table.keys()].find((at) => subtable.table[at + ENTRY_KEY] === -1)!;
  subtable.table[entry + ENTRY_TALLY] = TALLY_FULL - 1;
  singleRuns(batch, 1);
  lookup(subtable, batch, stats, 1, 0);
  t.deepEqual([...rows.subarray(12, 16)], [262_144, 100, 7, 0xfff]);
  t.is(subtable.table[entry + ENTRY_TALLY], 0);
});

test('subtables are ranked by hits, and a port whose hits come late asks the cache', (t) => {
  const flows = new PortFlows(1);
  const tables = [7, 8, 9].map(
    (word, i) => new Subtable(1, i, maskOf(word), maskOf(word), { home: new Int32Array(8), stats }),
  );
  for (const subtable of tables) flows.add(subtable);
  tables[2]!.hits = 900;
  tables[1]!.hits = 100;
  flows.rank();
  t.deepEqual(
    flows.subtables.map((one) => one.index),
    [2, 1, 0],
  );
  t.false(flows.cached);
  for (const subtable of tables) subtable.hits = 500;
  flows.rank();
  t.true(flows.cached);
  flows.remove(tables[0]!);
  flows.remove(tables[1]!);
  t.false(flows.cached);
});

test('the match cache finds what was inserted and proves it against the flow', (t) => {
  const table = new FlowTable(stats);
  const put = (id: number, value: number): void => table.put(id, [0, 1, 0xffffffff, 8, value, 0xffffffff], 0, 2, 0);
  put(5, 1);
  const cache = new MatchCache();
  const ask = (value: number): number => {
    batch.keys[8] = value;
    pendingSlots[0] = 0;
    return cache.lookup(table, table.ports[1]!, batch, 1, 0);
  };
  t.is(ask(1), 1);
  cache.insert(0, 5);
  t.is(ask(1), 0);
  t.is(foundId[0], 5);
  put(5, 2);
  t.is(ask(1), 1);
});
