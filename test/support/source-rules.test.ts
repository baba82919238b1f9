import test from 'ava';
import { hotBreaches, importBreaches, importsOf, isHot, isTypesOnly } from './source-rules.ts';

test('imports are found in all their forms', (t) => {
  const text = `
import './side.ts';
import a from '#contract/a.ts';
import {
  type B,
  c,
} from "./b.ts";
import type { D } from '../d.ts';
export * from './e.ts';
export { f } from './f.ts';
// import './comment.ts';
/* import './block.ts'; */
export const g = await import('./g.ts');
const s = "import x from 'no'";
`;
  t.deepEqual(importsOf(text), ['./side.ts', '#contract/a.ts', './b.ts', '../d.ts', './e.ts', './f.ts', './g.ts']);
});

const allowed: [string, string][] = [
  ['src/contract/ring.ts', './os.ts'],
  ['src/contract/os.ts', '#native'],
  ['src/datapath/parse/ip.ts', '#contract/flow-key.ts'],
  ['src/datapath/parse/ip.ts', '../packet/batch.ts'],
  ['src/ports/dummy/rx.ts', '#datapath/packet/batch.ts'],
  ['src/guest/queue.ts', '#ports/vhost-user/wire.ts'],
  ['src/guest/queue.ts', '#ports/vhost-user/wire/table.ts'],
  ['src/mgmt/routes/flows.ts', '#ofproto/api.ts'],
  ['src/contract/os/watcher.ts', '#native'],
  ['src/mgmt/cli/vsctl.ts', '#contract/messages.ts'],
  ['src/mgmt/main.ts', 'fastify'],
];
for (const [file, name] of allowed) {
  test(`${file} may import ${name}`, (t) => t.deepEqual(importBreaches(file, `import '${name}';`), []));
}

const refused: [string, string, RegExp][] = [
  ['src/contract/ring.ts', '#datapath/pipeline.ts', /contract may not import datapath/],
  ['src/ports/os.ts', '#native', /only src\/contract\/os.ts/],
  ['src/ports/dummy/rx.ts', '#datapath/pipeline.ts', /ports may not import datapath/],
  ['src/ports/dummy/rx.ts', '../../datapath/packet/batch.ts', /written with an alias/],
  ['src/datapath/pipeline.ts', '#ports/port.ts', /datapath may not import ports/],
  ['src/guest/queue.ts', '#ports/vhost-user/session.ts', /guest may not import ports/],
  ['src/ofproto/bridge.ts', '#pmd/loop.ts', /ofproto may not import pmd/],
  ['src/pmd/main.ts', '#ofproto/bridge.ts', /pmd may not import ofproto/],
  ['src/mgmt/cli/vsctl.ts', '#ofproto/api.ts', /mgmt\/cli may not import ofproto/],
  ['src/mgmt/cli/vsctl.ts', '../server.ts', /mgmt\/cli may not import mgmt/],
  ['src/pmd/main.ts', './loop', /does not end in .ts/],
];
for (const [file, name, message] of refused) {
  test(`${file} may not import ${name}`, (t) => t.regex(importBreaches(file, `import '${name}';`).join('\n'), message));
}

const inLoop = (body: string): string => `// hot
export function f(a: Uint32Array, n: number): number {
  let s = 0;
  for (let i = 0; i < n; i++) { ${body} }
  return s;
}`;

const offences: [string, RegExp][] = [
  ['s += new Uint8Array(4).length;', /new in a loop/],
  ['const g = () => i; s += g();', /closure/],
  ['const x = [i]; s += x.length;', /array literal/],
  ['const x = { i }; s += x.i;', /object literal/],
  ['s += Math.max(...a);', /spread/],
  ['for (const x of a) s += x;', /for-of/],
  ['s += Number(1n);', /BigInt/],
  ['s += Number(BigInt(i));', /BigInt/],
  ['try { s++; } catch {}', /try/],
  ['s += `x`.length;', /template/],
  ["if (String(i) === 'x') s++;", /string/],
  ['console.log(i);', /log/],
  ['const [x] = a; s += x!;', /array destructuring/],
];
for (const [body, message] of offences) {
  test(`a hot loop is refused: ${body}`, (t) => t.regex(hotBreaches('f.ts', inLoop(body)).join('\n'), message));
}

test('plain typed-array work in a hot loop is accepted', (t) => {
  t.deepEqual(hotBreaches('f.ts', inLoop('const x: number = a[i]!; s = (s + Math.imul(x, 3)) >>> 0;')), []);
});

test('set-up may allocate: module level, constructors, marked functions, outside loops', (t) => {
  const text = `// hot
const table: number[] = [];
for (let i = 0; i < 4; i++) table.push(...[i]);
export class Q {
  views: Uint32Array[] = [];
  constructor(n: number) {
    for (let i = 0; i < n; i++) this.views.push(new Uint32Array(4));
  }
}
// set-up
export function open(n: number): Uint32Array[] {
  const views: Uint32Array[] = [];
  for (let i = 0; i < n; i++) views.push(new Uint32Array(4));
  return views;
}
export function g(n: number): number {
  const start = [n];
  for (let i = start[0]!, view = new Uint8Array(1); i > 0; i--) n += view[0]!;
  return n;
}
`;
  t.deepEqual(hotBreaches('q.ts', text), []);
});

test('only the first line makes a file hot', (t) => {
  t.true(isHot('// hot\nexport {};'));
  t.true(isHot('// hot: rx of every packet\n'));
  t.false(isHot('export {};\n// hot\n'));
});

test('a file of types has nothing to test', (t) => {
  t.true(isTypesOnly("import type { A } from './a.ts';\nexport interface B { a: A }\nexport type C = B[];\n"));
  t.false(isTypesOnly('export const one = 1;\n'));
});
