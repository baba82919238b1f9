/** Random ports, flows, groups and packets out of small worlds, so that they meet. */
import { KEY_WORDS } from '#contract/flow-key.ts';
import type { PortSpec } from '#ofproto/api.ts';

/** A repeatable stream of numbers (mulberry32). */
export class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  }

  /** 0 .. n-1 */
  below(n: number): number {
    return this.next() % n;
  }

  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

export const portSpec = (name: string, more: Partial<PortSpec> = {}): PortSpec => ({
  name,
  type: 'dummy',
  options: {},
  ofportRequest: 0,
  tag: -1,
  trunks: [],
  vlanMode: undefined,
  mtuRequest: 0,
  config: [],
  otherConfig: {},
  ...more,
});

/** A port of any VLAN mode, over the VLANs 0, 10, 20, 30. */
export function randomPort(dice: Dice, name: string): PortSpec {
  const mode = dice.pick(['trunk', 'trunk', 'access', 'native-tagged', 'native-untagged', 'dot1q-tunnel'] as const);
  const tag = mode === 'trunk' ? -1 : dice.pick([10, 20, 30]);
  const trunks =
    mode === 'access' || mode === 'dot1q-tunnel' || dice.chance(50) ? [] : dice.pick([[10], [0, 10, 20], [20, 30]]);
  return portSpec(name, { vlanMode: mode, tag, trunks, config: dice.chance(10) ? ['no-flood'] : [] });
}

const MACS = ['02:00:00:00:00:01', '02:00:00:00:00:02', '02:00:00:00:00:03', '02:00:00:00:01:01'];
const GROUP_MACS = ['ff:ff:ff:ff:ff:ff', '01:00:5e:00:00:01', '01:80:c2:00:00:02', '01:80:c2:00:00:20'];
const ADDRESSES = ['10.0.0.1', '10.0.0.2', '10.0.1.1', '10.128.0.1', '192.168.0.1'];
const PREFIXES = ['10.0.0.0/8', '10.0.0.0/16', '10.0.0.0/24', '10.128.0.0/9', '192.168.0.0/31', '0.0.0.1/0.0.0.1'];
const PORTS = [53, 80, 443, 8080];
const NORMAL_TTL = 64;

const macWords = (dst: string, src: string): [number, number, number] => {
  const bytes = [...dst.split(':'), ...src.split(':')].map((byte) => Number.parseInt(byte, 16));
  const word = (at: number): number =>
    ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
  return [word(0), word(4), word(8)];
};
const ipWord = (text: string): number => text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);

/** A datapath key of a packet that came in at `inPort`. */
export function randomPacket(dice: Dice, inPort: number, lowTtl: boolean): Uint32Array {
  const key = new Uint32Array(KEY_WORDS);
  key[0] = inPort;
  const dst = dice.chance(15) ? dice.pick(GROUP_MACS) : dice.pick(MACS);
  [key[2], key[3], key[4]] = macWords(dst, dice.pick(MACS));
  const tag = (): number =>
    ((dice.pick([0x8100, 0x8100, 0x88a8]) << 16) |
      0x1000 |
      (dice.pick([0, 0, 3, 7]) << 13) |
      dice.pick([0, 10, 10, 20, 30, 40])) >>>
    0;
  if (dice.chance(50)) {
    key[5] = tag();
    if (dice.chance(20)) key[6] = tag();
  }
  const kind = dice.below(10);
  if (kind === 0) {
    key[7] = (0x0806 << 16) | (dice.pick([1, 2]) << 8);
    key[8] = ipWord(dice.pick(ADDRESSES));
    key[9] = ipWord(dice.pick(ADDRESSES));
    return key;
  }
  if (kind === 1) {
    key[7] = dice.pick([0x88cc, 0x05ff]) << 16;
    return key;
  }
  const ttl = lowTtl ? dice.pick([0, 1, 2, 3, NORMAL_TTL]) : 255;
  key[11] = ((dice.pick([0, 0x20, 0xb9]) << 24) | (ttl << 16)) >>> 0;
  const protocol = dice.pick([6, 17, 17, 1]);
  const fragment = dice.chance(10) ? dice.pick([1, 3]) : 0;
  const type = kind === 2 ? 0x86dd : 0x0800;
  key[7] = ((type << 16) | (protocol << 8) | fragment) >>> 0;
  key[8] = ipWord(dice.pick(ADDRESSES));
  key[9] = ipWord(dice.pick(ADDRESSES));
  if (type === 0x86dd) {
    key[12] = dice.pick([0xfd000000, 0xfe800000]);
    key[15] = dice.pick([0xfd000000, 0xfe800000]);
  }
  if (fragment === 3) return key;
  if (protocol === 1) key[10] = dice.pick([0x00080000, 0]);
  else {
    key[10] = ((dice.pick(PORTS) << 16) | dice.pick(PORTS)) >>> 0;
    if (protocol === 6) key[11]! |= dice.pick([0x02, 0x10, 0x12]);
  }
  return key;
}

export interface World {
  readonly ports: number;
  readonly tables: number;
  /** Actions with NORMAL; else with dec_ttl (never both: an expired packet may or may not teach a MAC address). */
  readonly normal: boolean;
  readonly groups: readonly number[];
}

/** A match, with what actions may rely on. */
export function randomMatch(
  dice: Dice,
  world: World,
  table: number,
): { text: string; has: 'none' | 'ip' | 'tcp' | 'udp'; vlan: boolean } {
  const terms: string[] = [];
  let has: 'none' | 'ip' | 'tcp' | 'udp' = 'none';
  let vlan = false;
  if (dice.chance(40)) terms.push(`in_port=${1 + dice.below(world.ports)}`);
  if (dice.chance(20)) terms.push(`dl_dst=${dice.pick([...MACS, '01:00:00:00:00:00/01:00:00:00:00:00'])}`);
  if (dice.chance(15)) terms.push(`dl_src=${dice.pick([...MACS, '02:00:00:00:00:00/ff:ff:ff:ff:00:00'])}`);
  if (dice.chance(20)) {
    const term = dice.pick([
      'dl_vlan=10',
      'dl_vlan=20',
      'vlan_tci=0x0000/0x1fff',
      'vlan_tci=0x1000/0x1000',
      'dl_vlan=10,dl_vlan_pcp=3',
    ]);
    vlan = !term.includes('0x1fff');
    terms.push(term);
  }
  const kind = dice.below(8);
  if (kind <= 4) {
    has = kind <= 1 ? 'ip' : kind <= 3 ? 'tcp' : 'udp';
    terms.push(has);
    if (dice.chance(40)) terms.push(`nw_dst=${dice.pick([...ADDRESSES, ...PREFIXES])}`);
    if (dice.chance(25)) terms.push(`nw_src=${dice.pick([...ADDRESSES, ...PREFIXES])}`);
    if (dice.chance(10)) terms.push(`nw_tos=${dice.pick([0, 0x20, 0xb8])}`);
    if (dice.chance(10)) terms.push(`nw_ttl=${dice.pick([0, 1, 2, 63, 64, 255])}`);
    if (dice.chance(10)) terms.push(`ip_frag=${dice.pick(has === 'ip' ? ['no', 'yes', 'later'] : ['no', 'yes'])}`);
    if (has !== 'ip' && dice.chance(40)) terms.push(`${has}_dst=${dice.pick([...PORTS, '0x40/0xffc0'])}`);
    if (has === 'tcp' && dice.chance(10)) terms.push(`tcp_flags=${dice.pick(['+syn', '+syn-ack'])}`);
  } else if (kind === 5)
    terms.push(
      dice.pick(['arp', 'arp,arp_op=1', 'ipv6', 'dl_type=0x88cc', 'ipv6,ipv6_src=fd00::/8', 'arp,arp_tpa=10.0.0.0/8']),
    );
  if (table > 0 && dice.chance(40)) {
    terms.push(
      dice.pick([
        'reg0=1',
        'reg0=2',
        'reg1=0x10/0xf0',
        'metadata=0x5',
        'metadata=0x4/0x4',
        'reg2=0x0a000000/0xff000000',
      ]),
    );
  }
  return { text: terms.join(','), has, vlan };
}

export function randomActions(dice: Dice, world: World, table: number, has: string, vlan: boolean): string {
  const actions: string[] = [];
  const out = (): string => `output:${1 + dice.below(world.ports + 1)}`;
  const set = (): string => {
    const ip =
      has === 'none'
        ? []
        : [
            `set_field:${dice.pick(ADDRESSES)}->ip_src`,
            `set_field:10.0.0.0/255.0.0.0->ip_dst`,
            `set_field:${dice.pick(ADDRESSES)}->ip_dst`,
            'mod_nw_tos:32',
            'move:NXM_OF_IP_SRC[]->NXM_NX_REG2[]',
            'move:NXM_NX_REG2[0..7]->NXM_OF_IP_DST[0..7]',
            'set_field:9->nw_ttl',
            ...(world.normal ? [] : ['dec_ttl', 'dec_ttl', 'dec_ttl']),
          ];
    const l4 =
      has === 'tcp' || has === 'udp'
        ? [`mod_tp_dst:${dice.pick(PORTS)}`, `set_field:${dice.pick(PORTS)}->${has}_src`]
        : [];
    const tags = [
      'mod_vlan_vid:10',
      'mod_vlan_vid:20',
      'mod_vlan_pcp:3',
      ...(vlan ? ['strip_vlan', 'set_field:20->vlan_vid'] : []),
    ];
    return dice.pick([
      `set_field:${dice.pick(MACS)}->eth_dst`,
      `mod_dl_src:${dice.pick(MACS)}`,
      'set_field:02:00:00:00:00:00/ff:00:00:00:00:00->eth_src',
      'move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]',
      `load:${dice.below(3)}->NXM_NX_REG0[]`,
      `load:${dice.below(3)}->NXM_NX_REG1[4..7]`,
      'move:NXM_OF_ETH_DST[0..7]->NXM_NX_REG0[0..7]',
      'move:NXM_OF_VLAN_TCI[0..11]->NXM_NX_REG0[0..11]',
      'load:0->NXM_OF_IN_PORT[]',
      ...tags,
      ...ip,
      ...l4,
    ]);
  };
  const count = dice.below(5);
  for (let i = 0; i < count; i++) {
    const kind = dice.below(14);
    if (kind <= 5) actions.push(set());
    else if (kind <= 8) actions.push(out());
    else if (kind === 9)
      actions.push(dice.pick(['IN_PORT', 'FLOOD', 'ALL', 'output:NXM_NX_REG0[0..15]', 'CONTROLLER:128', 'exit']));
    else if (kind === 10) actions.push(dice.pick([`push_vlan:0x8100`, 'push_vlan:0x88a8']));
    else if (kind === 11 && world.groups.length > 0) actions.push(`group:${dice.pick(world.groups)}`);
    else if (kind === 12) {
      const target = dice.chance(2) ? table : table + 1 + dice.below(2);
      if (target < world.tables)
        actions.push(dice.chance(20) ? `resubmit(${1 + dice.below(world.ports)},${target})` : `resubmit(,${target})`);
    } else if (world.normal) actions.push('NORMAL');
  }
  if (dice.chance(8)) actions.push('clear_actions');
  if (dice.chance(15))
    actions.push(`write_actions(${dice.pick([out(), set(), `${set()},${out()}`, `${out()},push_vlan:0x8100`])})`);
  if (dice.chance(10)) actions.push(`write_metadata:${dice.pick(['0x5', '0x4/0x4'])}`);
  if (dice.chance(30) && table + 1 < world.tables) actions.push(`goto_table:${table + 1}`);
  return actions.length === 0 ? 'drop' : actions.join(',');
}

export function randomGroup(dice: Dice, world: World, id: number): string {
  const type = dice.pick(['all', 'all', 'indirect', 'ff']);
  const buckets = type === 'indirect' ? 1 : 1 + dice.below(3);
  const parts = [`group_id=${id}`, `type=${type}`];
  for (let i = 0; i < buckets; i++) {
    const watch = type === 'ff' ? `watch_port:${1 + dice.below(world.ports)},` : '';
    const edits = dice.pick(['', `set_field:${dice.pick(MACS)}->eth_dst,`, 'mod_vlan_vid:30,', 'push_vlan:0x8100,']);
    parts.push(
      `bucket=${watch}actions=${edits}${dice.pick([`output:${1 + dice.below(world.ports)}`, ...(world.normal ? ['NORMAL'] : [])])}`,
    );
  }
  return parts.join(',');
}
