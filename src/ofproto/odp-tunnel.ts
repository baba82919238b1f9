/** Tunnels in the texts of the datapath, as Open vSwitch prints them: tunnel(…), tnl_push(…), tnl_pop(…). */
import { pushedHeader, TNL_CHECKSUM, TNL_GRE, TNL_VXLAN } from '#contract/actions.ts';
import { TUN_CSUM, TUN_DF, TUN_KEY, TUN_OAM, W_TUN_IPV6_DST, W_TUN_IPV6_SRC, W_TUN_MISC } from '#contract/flow-key.ts';
import { formatMac } from './field-format.ts';
import { fieldOf } from './fields.ts';
import { formatIp, ipv4, ipv6 } from './ip-address.ts';
import { readField } from './key.ts';
import { hex } from './text.ts';

const FLAGS = [
  [TUN_DF, 'df'],
  [TUN_CSUM, 'csum'],
  [TUN_KEY, 'key'],
  [TUN_OAM, 'oam'],
] as const;

/** `tunnel(tun_id=0x7b,src=1.1.2.92,dst=1.1.2.88,tos=0,flags(-df-csum+key))`, or nothing. Rows of OF_KEY_WORDS words. */
export function formatTunnel(value: Uint32Array, mask: Uint32Array): string[] {
  const parts: string[] = [];
  const put = (label: string, name: string, format: (bits: bigint) => string): void => {
    const field = fieldOf(name);
    const bits = readField(mask, field);
    if (bits === 0n) return;
    parts.push(`${label}=${format(readField(value, field))}${bits === field.fullMask ? '' : `/${format(bits)}`}`);
  };
  put('tun_id', 'tun_id', hex);
  const six = [W_TUN_IPV6_SRC, W_TUN_IPV6_DST].some((word) => mask.subarray(word, word + 4).some((bits) => bits !== 0));
  const isFour = value[34] !== 0 || value[35] !== 0 || !six;
  if (isFour) {
    put('src', 'tun_src', (bits) => formatIp({ family: 4, value: bits }));
    put('dst', 'tun_dst', (bits) => formatIp({ family: 4, value: bits }));
  } else {
    put('ipv6_src', 'tun_ipv6_src', (bits) => formatIp({ family: 6, value: bits }));
    put('ipv6_dst', 'tun_ipv6_dst', (bits) => formatIp({ family: 6, value: bits }));
  }
  put('tos', 'tun_tos', hex);
  put('ttl', 'tun_ttl', String);
  const flags = FLAGS.filter(([bit]) => (mask[W_TUN_MISC]! & bit) !== 0);
  const signs = flags.map(([bit, name]) => `${(value[W_TUN_MISC]! & bit) === 0 ? '-' : '+'}${name}`);
  if (flags.length > 0) parts.push(`flags(${signs.join('')})`);
  return parts.length === 0 ? [] : [`tunnel(${parts.join(',')})`];
}

/** Numbers of the types as in Open vSwitch's own header data. */
const TYPE_NUMBERS: Readonly<Record<number, number>> = { 1: 4, 2: 5, 3: 3 };

/** `tnl_push(tnl_port(2),header(size=50,type=4,eth(…),ipv4(…),udp(…),vxlan(…)),out_port(1))` */
export function formatPush(program: ArrayLike<number>, at: number, portText: (port: number) => string): string {
  const header = pushedHeader(program, at);
  const view = new DataView(header.buffer);
  const kind = (program[at + 2]! >>> 8) & 0xff;
  const mac = (from: number): string =>
    formatMac((BigInt(view.getUint16(from)) << 32n) | BigInt(view.getUint32(from + 2)));
  const type = view.getUint16(12);
  const parts = [`eth(dst=${mac(0)},src=${mac(6)},dl_type=0x${type.toString(16).padStart(4, '0')})`];
  const six = type === 0x86dd;
  const l4 = six ? 54 : 34;
  if (six) {
    const words = Array.from({ length: 8 }, (_, i) => view.getUint32(22 + 4 * i));
    const tclass = (view.getUint16(14) >>> 4) & 0xff;
    parts.push(
      `ipv6(src=${formatIp(ipv6(words))},dst=${formatIp(ipv6(words, 4))},label=0,proto=${header[20]},tclass=${hex(tclass)},hlimit=${header[21]})`,
    );
  } else {
    const [source, destination] = [view.getUint32(26), view.getUint32(30)].map((word) => formatIp(ipv4(word)));
    const frag = hex(view.getUint16(20));
    parts.push(
      `ipv4(src=${source},dst=${destination},proto=${header[23]},tos=${hex(header[15]!)},ttl=${header[22]},frag=${frag})`,
    );
  }
  if (kind === TNL_GRE) {
    const flags = view.getUint16(l4);
    const key = (flags & 0x2000) === 0 ? '' : `,key=${hex(view.getUint32(header.length - 4))}`;
    const sum = (flags & 0x8000) === 0 ? '' : ',csum=0x0';
    parts.push(`gre((flags=${hex(flags)},proto=0x${view.getUint16(l4 + 2).toString(16)})${sum}${key})`);
  } else {
    const sum = (program[at + 2]! & TNL_CHECKSUM) === 0 ? '0x0' : '0xffff';
    parts.push(`udp(src=0,dst=${view.getUint16(l4 + 2)},csum=${sum})`);
    const vni = hex(view.getUint32(l4 + 12) >>> 8);
    if (kind === TNL_VXLAN) parts.push(`vxlan(flags=${hex(view.getUint32(l4 + 8))},vni=${vni})`);
    else parts.push(`geneve(${(header[l4 + 9]! & 0x80) === 0 ? '' : 'oam,'}vni=${vni})`);
  }
  const head = `header(size=${header.length},type=${TYPE_NUMBERS[kind]},${parts.join(',')})`;
  return `tnl_push(tnl_port(${portText(program[at + 1]!)}),${head})`;
}
