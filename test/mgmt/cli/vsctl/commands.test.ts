/** Commands of rw-vsctl on a draft, without a switch: values, columns, and the operations that come out. */
import test from 'ava';
import fc from 'fast-check';
import { Output } from '#mgmt/cli/options.ts';
import { bridgeCommands } from '#mgmt/cli/vsctl/bridges.ts';
import { findColumn, findRecord, findTable } from '#mgmt/cli/vsctl/columns.ts';
import { databaseCommands, meets } from '#mgmt/cli/vsctl/database.ts';
import { type Draft, operations, remember } from '#mgmt/cli/vsctl/draft.ts';
import { printOptions } from '#mgmt/cli/vsctl/print.ts';
import {
  bareValue,
  formatAtom,
  formatValue,
  jsonValue,
  parseAtom,
  parseMap,
  parseSet,
} from '#mgmt/cli/vsctl/values.ts';

const emptyDraft = (): Draft => ({
  uuid: '00000000-0000-4000-8000-000000000000',
  version: '1',
  generation: 1,
  switch: { otherConfig: {}, externalIds: {} },
  bridges: new Map(),
});

/** Runs commands on a draft. @returns what they print. */
function run(draft: Draft, ...lines: string[][]): string {
  let text = '';
  for (const [name, ...args] of lines) {
    const out = new Output();
    const options = new Map<string, string>();
    while (args[0]?.startsWith('--'))
      options.set(...(args.shift()!.slice(2).split('=').concat('').slice(0, 2) as [string, string]));
    const command = { ...bridgeCommands, ...databaseCommands }[name!]!;
    command.run({ draft, args, options, out, print: printOptions(options), json: false });
    text += out.take();
  }
  return text;
}

test('only what differs is sent: deletions first, then creations and changes', (t) => {
  const draft = emptyDraft();
  run(draft, ['add-br', 'br0'], ['add-port', 'br0', 'p1', 'tag=5'], ['add-port', 'br0', 'p2'], ['add-br', 'old']);
  const before = remember(draft);
  t.deepEqual(operations(before, draft), []);
  run(
    draft,
    ['del-br', 'old'],
    ['del-port', 'p2'],
    ['set', 'interface', 'p1', 'type=dummy', 'options:a=b'],
    ['add-br', 'br1'],
    ['set', 'open', '.', 'external_ids:x=y'],
  );
  const list = operations(before, draft).map((operation) => JSON.stringify(operation));
  t.is(list[0], '{"deleteBridge":"old"}');
  t.is(list[1], '{"deletePort":{"bridge":"br0","port":"p2"}}');
  t.is(list[2], '{"setSwitch":{"otherConfig":{},"externalIds":{"x":"y"}}}');
  t.regex(list[3]!, /^\{"setPort":\{"bridge":"br0","port":\{"name":"p1","type":"dummy","options":\{"a":"b"\}/);
  t.regex(list[4]!, /^\{"setBridge":\{"name":"br1"/);
  t.is(list.length, 5);
});

test('a port moves to another bridge in one transaction', (t) => {
  const draft = emptyDraft();
  run(draft, ['add-br', 'a'], ['add-br', 'b'], ['add-port', 'a', 'p']);
  const before = remember(draft);
  run(draft, ['del-port', 'p'], ['add-port', 'b', 'p']);
  t.deepEqual(
    operations(before, draft).map((operation) => Object.keys(operation)[0]),
    ['deletePort', 'setPort'],
  );
});

test("a bridge's own port is neither deleted nor changed alone", (t) => {
  const draft = emptyDraft();
  run(draft, ['add-br', 'br0']);
  t.throws(() => run(draft, ['del-port', 'br0']), { message: /local port for bridge br0/ });
  t.throws(() => run(draft, ['set', 'interface', 'br0', 'type=x']), { message: /own port/ });
  t.throws(() => run(draft, ['add-port', 'br0', 'br0']), { message: /bridge named br0 already exists/ });
});

test('find takes relations, clear and remove leave what may not be empty', (t) => {
  const draft = emptyDraft();
  run(
    draft,
    ['add-br', 'br0'],
    ['add-port', 'br0', 'p1', 'tag=5'],
    ['add-port', 'br0', 'p2', 'tag=7', 'external_ids:a=b'],
  );
  const names = (...conditions: string[]): string =>
    run(draft, ['find', '--bare', '--columns=name', 'port', ...conditions])
      .replace(/\n+/g, ' ')
      .trim();
  t.is(names('tag=5'), 'p1');
  t.is(names('tag>5'), 'p2');
  t.is(names('tag!=5', 'tag!=[]'), 'p2');
  t.is(names('external_ids:a=b'), 'p2');
  t.is(names('external_ids={a=b}'), 'p2');
  t.is(names('tag<=7', 'name=p1'), 'p1');
  const port = findTable('port');
  t.true(meets(draft, port, findRecord(draft, port, 'p1'), 'tag'));
  t.throws(() => run(draft, ['clear', 'interface', 'p1', 'type']), { message: /not allowed to be empty/ });
  t.is(
    run(draft, ['get', 'port', 'p1', 'trunks'], ['set', 'port', 'p1', 'trunks=1-3,9'], ['get', 'port', 'p1', 'trunks']),
    '[]\n[1, 2, 3, 9]\n',
  );
});

test('tables and columns are found by their beginnings in any case, with - for _', (t) => {
  t.is(findTable('Int').name, 'Interface');
  t.is(findTable('open').name, 'Open_vSwitch');
  t.is(findColumn(findTable('Bridge'), 'Other-Config').name, 'other_config');
  t.throws(() => findColumn(findTable('Interface'), 'o'), {
    message: /more than one column whose name matches "o": ofport/,
  });
});

test('any strings survive being printed and read as map and set', (t) => {
  const word = fc.string({ minLength: 1, maxLength: 12, unit: 'grapheme' });
  fc.assert(
    fc.property(fc.dictionary(word, word, { maxKeys: 5 }), (columns) => {
      const map = new Map(Object.entries(columns));
      t.deepEqual(new Map([...parseMap(formatValue(map))].sort()), new Map([...map].sort()));
      const keys = [...map.keys()];
      t.deepEqual(parseSet(formatValue(keys), 'string'), keys);
      for (const key of keys) t.is(parseAtom(formatAtom(key), 'string'), key);
    }),
  );
});

test('values as JSON and bare', (t) => {
  t.deepEqual(jsonValue([], 'string'), ['set', []]);
  t.deepEqual(jsonValue([5], 'integer'), 5);
  t.deepEqual(jsonValue(new Map([['a', '5']]), 'integer'), ['map', [['a', 5]]]);
  t.deepEqual(jsonValue('x', 'uuid'), ['uuid', 'x']);
  t.is(bareValue(new Map([['a', 'b c']])), 'a=b c');
  t.is(bareValue([1, 2]), '1 2');
  for (const wrong of ['{a=b', 'a', 'a=b}', '[']) t.throws(() => parseMap(wrong));
});
