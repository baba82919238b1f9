import { existsSync } from 'node:fs';
import test from 'ava';
import { OsError } from '#contract/os.ts';
import {
  attachXdp,
  createSocketMap,
  loadXdpProgram,
  SKB_MODE,
  setSocket,
  XDP_HAS_FRAGS,
} from '#ports/kernel/xdp/bpf.ts';
import { findFunction, kernelFunction } from '#ports/kernel/xdp/btf.ts';
import { redirectProgram } from '#ports/kernel/xdp/program.ts';

const jumps = [0x55, 0x2d];

for (const vlanTag of [0, 4711]) {
  test(`every jump of the program ${vlanTag ? 'with' : 'without'} tags ends inside it`, (t) => {
    const code = redirectProgram(9, vlanTag);
    const view = new DataView(code.buffer);
    const count = code.length / 8;
    t.is(code.length % 8, 0);
    t.is(code.at(-8), 0x95);
    for (let i = 0; i < count; i++) {
      if (!jumps.includes(view.getUint8(i * 8))) continue;
      const target = i + 1 + view.getInt16(i * 8 + 2, true);
      t.true(target > i && target < count);
    }
  });
}

/** A BTF blob of these types: name, kind, bytes behind the three words. */
function btfOf(types: readonly (readonly [string, number, number, number])[]): Uint8Array {
  const strings: string[] = [''];
  const body: number[] = [];
  for (const [name, kind, count, extra] of types) {
    const nameAt = Buffer.byteLength(`${strings.join('\0')}\0`);
    strings.push(name);
    const words = Int32Array.of(nameAt, (kind << 24) | count, 0);
    body.push(...new Uint8Array(words.buffer), ...new Array<number>(extra).fill(0xff));
  }
  const text = Buffer.from(`${strings.join('\0')}\0`);
  const header = Buffer.alloc(24);
  header.writeUInt16LE(0xeb9f, 0);
  header.writeUInt32LE(24, 4);
  header.writeUInt32LE(0, 8);
  header.writeUInt32LE(body.length, 12);
  header.writeUInt32LE(body.length, 16);
  header.writeUInt32LE(text.length, 20);
  return Buffer.concat([header, Buffer.from(body), text]);
}

test('a function is found by its name behind types of every kind', (t) => {
  const btf = btfOf([
    ['int', 1, 0, 4],
    ['list', 3, 0, 12],
    ['struct', 4, 3, 36],
    ['enum', 6, 2, 16],
    ['proto', 13, 2, 16],
    ['bpf_wanted_not', 12, 0, 0],
    ['bpf_wanted', 12, 1, 0],
    ['var', 14, 0, 4],
  ]);
  t.is(findFunction(btf, 'bpf_wanted'), 7);
  t.is(findFunction(btf, 'bpf_wante'), 0);
  t.is(findFunction(btf, 'struct'), 0);
  for (let cut = 0; cut < btf.length; cut += 3) t.notThrows(() => findFunction(btf.subarray(0, cut), 'bpf_wanted'));
});

const hasBtf = existsSync('/sys/kernel/btf/vmlinux');
const withBtf = hasBtf ? test : test.skip;
withBtf(`this kernel's functions have numbers${hasBtf ? '' : ' (skipped: it tells nothing of its types)'}`, (t) => {
  t.true(kernelFunction('bpf_redirect') > 0 || kernelFunction('schedule') > 0);
  t.is(kernelFunction('no_such_function_of_any_kernel'), 0);
});

const root = process.getuid?.() === 0;
const asRoot = root ? test : test.skip;
const why = root ? '' : ' (skipped: needs root)';

asRoot(`the verifier's own words come with a program that it refuses${why}`, (t) => {
  const map = createSocketMap(1);
  const code = redirectProgram(map, 0);
  code.fill(0, code.length - 8);
  const error = t.throws(() => loadXdpProgram(code, XDP_HAS_FRAGS, 0), { instanceOf: OsError });
  t.regex(error!.message, /BPF_PROG_LOAD.*\(E[A-Z]+\)/);
  t.regex(error!.message, /opcode|insn|exit|jump/);
});

asRoot(`a socket map takes sockets only, and a link an interface only${why}`, (t) => {
  const map = createSocketMap(1);
  t.throws(() => setSocket(map, 0, 0), { instanceOf: OsError });
  t.throws(() => attachXdp(map, 1, SKB_MODE), { instanceOf: OsError });
});
