/**
 * Datapath actions: what the data plane does with the packets of a megaflow.
 *
 * A program is a row of 32-bit words. Every action starts with a head word `op << 16 | words`, where `words` counts the
 * head itself, so that a reader may step over what it does not know. An empty program drops (reason `flow_drop`).
 * Actions run in order; an edit after an output does not change what was output.
 *
 * | op | operands | what it does |
 * |---|---|---|
 * | OUTPUT | port | send to the datapath port |
 * | DROP | reason | end here and count the drop reason (catalogue) |
 * | SET | word, value, mask | packet fields of key word `word` := value under mask; checksums follow |
 * | PUSH_VLAN | tpid << 16 or tci | push a tag (bit 12 of the TCI, "present", is not sent) |
 * | POP_VLAN | | remove the outer tag; no tag: no change |
 * | DEC_TTL | | decrement TTL or hop limit; at 0 or 1: end here, reason `ttl_exceeded` |
 * | CLONE | n | run the next n words on a copy of the packet; go on behind them with the packet as it was |
 * | TNL_PUSH | port, info, header … | put a header before the packet; what follows works on the packet that this makes |
 * | TNL_POP | port, kind | take the tunnel's header off and look the rest up anew, as received at the tunnel port |
 *
 * TNL_PUSH, the only action of no fixed length, carries a ready header: Ethernet (untagged), IPv4 without options or IPv6
 * without extensions, then UDP and VXLAN or Geneve, or GRE. `info` is bytes of header | kind << 8 | TNL_CHECKSUM; the header's
 * bytes follow, the first in the highest bits of the first word. The data plane fills in lengths, the IPv4 identification,
 * the UDP source port (a hash of the packet's flow: RFC 7348 section 5) and checksums; those fields are 0, but for that of
 * IPv4, which holds the ones' complement sum of the header so far. `port` is the tunnel's datapath port, told and not used.
 */
export const ACTION_OUTPUT = 1;
export const ACTION_DROP = 2;
export const ACTION_SET = 3;
export const ACTION_PUSH_VLAN = 4;
export const ACTION_POP_VLAN = 5;
export const ACTION_DEC_TTL = 6;
export const ACTION_CLONE = 7;
export const ACTION_TNL_PUSH = 8;
export const ACTION_TNL_POP = 9;

/** Kinds of tunnel. */
export const TNL_VXLAN = 1;
export const TNL_GENEVE = 2;
export const TNL_GRE = 3;
/** In `info`: fill in the checksum of UDP or GRE. */
export const TNL_CHECKSUM = 0x10000;
/** Longest header of TNL_PUSH, in bytes. */
export const MAX_TNL_HEADER = 128;

/** Longest program, in words: an output with a tag edit to every port of a large bridge. */
export const MAX_ACTION_WORDS = 8192;

/** Words of each action, its head included; index = op. 0 = no such action, or one of no fixed length. */
export const ACTION_WORDS: readonly number[] = [0, 2, 2, 4, 2, 1, 1, 2, 0, 3];

const head = (op: number): number => ((op << 16) | ACTION_WORDS[op]!) >>> 0;

export const output = (port: number): number[] => [head(ACTION_OUTPUT), port];
export const drop = (reason: number): number[] => [head(ACTION_DROP), reason];
export const set = (word: number, value: number, mask: number): number[] => [
  head(ACTION_SET),
  word,
  (value & mask) >>> 0,
  mask >>> 0,
];
export const pushVlan = (tpid: number, tci: number): number[] => [
  head(ACTION_PUSH_VLAN),
  ((tpid << 16) | (tci & 0xffff)) >>> 0,
];
export const popVlan = (): number[] => [head(ACTION_POP_VLAN)];
export const clone = (words: number): number[] => [head(ACTION_CLONE), words];
export const tunnelPop = (port: number, kind: number): number[] => [head(ACTION_TNL_POP), port, kind];

/** @param header a multiple of 2 bytes, at most MAX_TNL_HEADER. */
export function tunnelPush(port: number, kind: number, checksum: boolean, header: Uint8Array): number[] {
  const size = 3 + Math.ceil(header.length / 4);
  const words = [((ACTION_TNL_PUSH << 16) | size) >>> 0, port, header.length | (kind << 8)];
  if (checksum) words[2]! |= TNL_CHECKSUM;
  for (let at = 0; at < header.length; at += 4) {
    const byte = (i: number): number => header[at + i] ?? 0;
    words.push(((byte(0) << 24) | (byte(1) << 16) | (byte(2) << 8) | byte(3)) >>> 0);
  }
  return words;
}

/** The header that a TNL_PUSH at `at` carries. */
export function pushedHeader(words: ArrayLike<number>, at: number): Uint8Array {
  const header = new Uint8Array(words[at + 2]! & 0xff);
  for (let i = 0; i < header.length; i++) header[i] = words[at + 3 + (i >>> 2)]! >>> (24 - (i & 3) * 8);
  return header;
}

export const decTtl = (): number[] => [head(ACTION_DEC_TTL)];

/**
 * Checks a program that came from outside: known actions, whole operands, no more than MAX_ACTION_WORDS.
 * @returns undefined when sound, else what is wrong and at which word.
 */
export function checkProgram(words: ArrayLike<number>, keyWords: number): string | undefined {
  if (words.length > MAX_ACTION_WORDS)
    return `program has ${words.length} words, at most ${MAX_ACTION_WORDS} are allowed`;
  for (let at = 0; at < words.length; ) {
    const op = words[at]! >>> 16;
    const size = words[at]! & 0xffff;
    if (op === 0 || op >= ACTION_WORDS.length) return `unknown action ${op} at word ${at}`;
    if (op === ACTION_TNL_PUSH) {
      const fault = checkPush(words, at, size);
      if (fault !== undefined) return `action tnl_push at word ${at} ${fault}`;
    } else if (size !== ACTION_WORDS[op])
      return `action ${op} at word ${at} has ${size} words, not ${ACTION_WORDS[op]}`;
    if (at + size > words.length) return `action ${op} at word ${at} is cut short`;
    if (op === ACTION_CLONE && words[at + 1]! > words.length - at - size) return `clone at word ${at} is cut short`;
    if (op === ACTION_TNL_POP && (words[at + 2]! < TNL_VXLAN || words[at + 2]! > TNL_GRE))
      return `action tnl_pop at word ${at} names tunnel kind ${words[at + 2]}`;
    if (op === ACTION_SET && words[at + 1]! >= keyWords)
      return `action set at word ${at} names key word ${words[at + 1]}`;
    at += size;
  }
  return undefined;
}

/** Ethernet, IP, and the least that stands behind: what the data plane takes for granted about a header. */
function checkPush(words: ArrayLike<number>, at: number, size: number): string | undefined {
  if (size < 4 || at + size > words.length) return 'is cut short';
  const bytes = words[at + 2]! & 0xff;
  if (bytes > MAX_TNL_HEADER || (bytes & 1) !== 0 || size !== 3 + Math.ceil(bytes / 4)) return `has ${bytes} bytes`;
  const header = pushedHeader(words, at);
  const type = ((header[12] ?? 0) << 8) | (header[13] ?? 0);
  const transport = type === 0x0800 ? 34 : type === 0x86dd ? 54 : 0;
  if (transport === 0) return `has Ethernet type 0x${type.toString(16)}`;
  const protocol = header[type === 0x0800 ? 23 : 20]!;
  if (protocol !== 17 && protocol !== 47) return `has IP protocol ${protocol}`;
  return bytes < transport + (protocol === 17 ? 8 : 4) ? `has ${bytes} bytes` : undefined;
}
