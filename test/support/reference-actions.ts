/**
 * What an action program makes of a frame, the slow and plain way: fields are lists of bit positions, checksums are
 * computed from scratch. For frames whose checksums are right to begin with.
 */
import {
  ACTION_DEC_TTL,
  ACTION_DROP,
  ACTION_OUTPUT,
  ACTION_POP_VLAN,
  ACTION_PUSH_VLAN,
  ACTION_SET,
} from '#contract/actions.ts';
import { checksum, crc32c } from './random-frames.ts';
import { referenceParse } from './reference-parser.ts';

export interface Expected {
  outputs: { port: number; frame: Uint8Array; csumStart: number }[];
  /** Drop reason operand of DROP, 'ttl', 'flow_drop' or ''. */
  end: number | 'ttl' | 'flow_drop' | '';
}

interface State {
  bytes: number[];
  /** Bytes that edits may touch. */
  window: number;
  l3: number;
  l4: number;
  type: number;
  protocol: number;
  fragment: number;
  /** The transport checksum is partial: it holds the pseudo-header's sum. */
  partial: boolean;
  csumStart: number;
}

/** @param partial the frame's transport checksum is left to the receiver. */
export function referenceRun(
  frame: Uint8Array,
  window: number,
  program: readonly number[],
  partial: boolean,
): Expected {
  const parsed = referenceParse(frame, window);
  const kind = parsed.key[7]!;
  const state: State = {
    bytes: [...frame],
    window: Math.min(window, frame.length),
    l3: parsed.l3,
    l4: parsed.l4,
    type: kind >>> 16,
    protocol: (kind >>> 8) & 0xff,
    fragment: kind & 3,
    partial: partial && parsed.l4 > 0,
    csumStart: partial ? parsed.l4 : 0,
  };
  const outputs: Expected['outputs'] = [];
  for (let at = 0; at < program.length; at += program[at]! & 0xffff) {
    const op = program[at]! >>> 16;
    const [a, b, c] = program.slice(at + 1, at + 4) as [number, number, number];
    if (op === ACTION_OUTPUT)
      outputs.push({ port: a, frame: Uint8Array.from(state.bytes), csumStart: state.csumStart });
    else if (op === ACTION_DROP) return { outputs, end: a };
    else if (op === ACTION_SET) setBits(state, fieldBits(state, a), b, c);
    else if (op === ACTION_PUSH_VLAN) resize(state, [a >>> 24, (a >>> 16) & 255, (a >>> 8) & 0xef, a & 255]);
    else if (op === ACTION_POP_VLAN && tags(state) > 0) resize(state, undefined);
    else if (op === ACTION_DEC_TTL && state.l3 > 0 && (state.type === 0x800 || state.type === 0x86dd)) {
      const ttl = state.l3 + (state.type === 0x800 ? 8 : 7);
      if (state.bytes[ttl]! <= 1) return { outputs, end: 'ttl' };
      state.bytes[ttl]!--;
      fix(state);
    }
  }
  return { outputs, end: outputs.length > 0 ? '' : 'flow_drop' };
}

const number = (bytes: readonly number[], at: number, n: number): number =>
  bytes.slice(at, at + n).reduce((sum, byte) => sum * 256 + byte, 0);

function tags(state: State): number {
  const is = (at: number): boolean => [0x8100, 0x88a8].includes(number(state.bytes, at, 2));
  if (!is(12) || state.window < 18) return 0;
  return is(16) && state.window >= 22 ? 2 : 1;
}

function resize(state: State, tag: number[] | undefined): void {
  const by = tag === undefined ? -4 : 4;
  state.bytes.splice(12, tag === undefined ? 4 : 0, ...(tag ?? []));
  state.window += by;
  if (state.l3 > 0) state.l3 += by;
  if (state.l4 > 0) state.l4 += by;
  if (state.csumStart > 0) state.csumStart += by;
}

/** Bit positions (byte * 8 + bit from the left) of key word bits 31..0; -1 = no field of this packet. */
function fieldBits(state: State, word: number): number[] {
  const none: number[] = Array(32).fill(-1);
  const run = (at: number, bits = 32): number[] => Array.from({ length: bits }, (_, i) => at * 8 + i);
  const { l3, l4 } = state;
  if (word >= 2 && word <= 4) return run((word - 2) * 4);
  if (word === 5 || word === 6) {
    if (tags(state) < word - 4) return none;
    return run(word === 5 ? 12 : 16).map((bit, i) => (i === 19 ? -1 : bit));
  }
  if (l3 === 0) return none;
  if (state.type === 0x806 || state.type === 0x8035) {
    if (word === 7 && state.bytes[l3 + 6] === 0)
      return none.map((_, i) => (i >= 16 && i < 24 ? (l3 + 7) * 8 + i - 16 : -1));
    if (word === 8) return run(l3 + 14);
    if (word === 9) return run(l3 + 24);
    if (word === 23) return run(l3 + 8);
    if (word === 24) return [...run(l3 + 12, 16), ...run(l3 + 18, 16)];
    if (word === 25) return run(l3 + 20);
    return none;
  }
  if (state.type !== 0x800 && state.type !== 0x86dd) return none;
  const v4 = state.type === 0x800;
  if (word === 8) return run(l3 + (v4 ? 12 : 20));
  if (word === 9) return run(l3 + (v4 ? 16 : 36));
  if (word === 11) {
    const tos = v4 ? run(l3 + 1, 8) : Array.from({ length: 8 }, (_, i) => l3 * 8 + 4 + i);
    return [...tos, ...run(l3 + (v4 ? 8 : 7), 8), ...none.slice(16)];
  }
  if (word === 10 && l4 > 0) {
    if (state.protocol === 1 || state.protocol === 58) {
      return [...none.slice(24), ...run(l4, 8), ...none.slice(24), ...run(l4 + 1, 8)];
    }
    return run(l4);
  }
  if (v4) return none;
  if (word >= 12 && word <= 14) return run(l3 + 8 + (word - 12) * 4);
  if (word >= 15 && word <= 17) return run(l3 + 24 + (word - 15) * 4);
  if (word === 18) return run(l3).map((bit, i) => (i < 12 ? -1 : bit));
  const nd = state.protocol === 58 && l4 > 0 && [135, 136].includes(state.bytes[l4]!) && state.bytes[l4 + 1] === 0;
  const end = Math.min(state.window, l3 + 40 + number(state.bytes, l3 + 4, 2));
  if (!nd || end < l4 + 24) return none;
  if (word >= 19 && word <= 22) return run(l4 + 8 + (word - 19) * 4);
  return none;
}

function setBits(state: State, positions: number[], value: number, mask: number): void {
  positions.forEach((position, i) => {
    if (position < 0 || ((mask >>> (31 - i)) & 1) === 0) return;
    const bit = 0x80 >>> (position & 7);
    const at = position >>> 3;
    state.bytes[at] = (state.bytes[at]! & ~bit) | ((value >>> (31 - i)) & 1 ? bit : 0);
  });
  fix(state);
}

/** Makes the checksums right again. */
function fix(state: State): void {
  const { bytes, l3, l4 } = state;
  const put16 = (at: number, sum: number): void => {
    bytes[at] = sum >>> 8;
    bytes[at + 1] = sum & 0xff;
  };
  if (l3 === 0 || (state.type !== 0x800 && state.type !== 0x86dd)) return;
  const v4 = state.type === 0x800;
  const end = v4 ? l3 + number(bytes, l3 + 2, 2) : l3 + 40 + number(bytes, l3 + 4, 2);
  if (v4) {
    const size = (bytes[l3]! & 15) * 4;
    put16(l3 + 10, 0);
    put16(l3 + 10, checksum(bytes.slice(l3, l3 + size)));
  }
  if (l4 === 0) return;
  const field = new Map([
    [6, 16],
    [17, 6],
    [58, 2],
    [1, 2],
    [132, 8],
  ]).get(state.protocol)!;
  const at = l4 + field;
  if (state.protocol === 132) {
    if (state.fragment !== 0) return;
    bytes.fill(0, at, at + 4);
    const crc = crc32c(bytes.slice(l4, end));
    bytes.splice(at, 4, crc & 0xff, (crc >>> 8) & 0xff, (crc >>> 16) & 0xff, crc >>> 24);
    return;
  }
  if (state.protocol === 17 && !state.partial && number(bytes, at, 2) === 0) return;
  const addresses = v4 ? bytes.slice(l3 + 12, l3 + 20) : [...bytes.slice(l3 + 8, l3 + 24), ...destination(state)];
  const pseudo =
    state.protocol === 1 ? [] : [...addresses, 0, 0, (end - l4) >>> 8, (end - l4) & 0xff, 0, 0, 0, state.protocol];
  if (state.partial) {
    put16(at, ~checksum(pseudo) & 0xffff);
    return;
  }
  put16(at, 0);
  const sum = checksum([...pseudo, ...bytes.slice(l4, end)]);
  put16(at, state.protocol === 17 && sum === 0 ? 0xffff : sum);
}

/** The destination that the pseudo-header has: the last one of a routing header with segments left. */
function destination(state: State): number[] {
  const { bytes, l3, l4 } = state;
  for (let type = bytes[l3 + 6]!, at = l3 + 40; at < l4; ) {
    if (type === 43 && bytes[at + 3]! > 0) return bytes.slice(at + 8, at + 24);
    const size = type === 44 ? 8 : type === 51 ? bytes[at + 1]! * 4 + 8 : bytes[at + 1]! * 8 + 8;
    type = bytes[at]!;
    at += size;
  }
  return bytes.slice(l3 + 24, l3 + 40);
}
