/**
 * Tunnels in translation, as Open vSwitch's userspace tunnels: what goes out by a tunnel port is wrapped, and what this makes
 * goes through the tables of the bridge under the tunnel, as if that bridge's own port had sent it; what a bridge would hand
 * to its own port and is meant for a tunnel comes out at the tunnel port.
 */
import { tunnelPush } from '#contract/actions.ts';
import {
  ETH_ARP,
  ETH_IPV4,
  ETH_IPV6,
  FRAG_ANY,
  IPPROTO_ICMPV6,
  IPPROTO_UDP,
  TUN_CSUM,
  TUN_DF,
  TUN_KEY,
  TUN_OAM,
  W_DL_DST,
  W_DL_MIX,
  W_IN_PORT,
  W_IPV6_DST,
  W_ND_TARGET,
  W_NW_DST,
  W_NW_MISC,
  W_NW_SRC,
  W_SHA,
  W_SHA_THA,
  W_THA,
  W_TP,
  W_TUN_DST,
  W_TUN_ID,
  W_TUN_IPV6_DST,
  W_TUN_IPV6_SRC,
  W_TUN_MISC,
  W_TUN_SRC,
  W_TYPE,
} from '#contract/flow-key.ts';
import { formatIp, type IpAddress, ipv4, ipv6, isUnspecified } from './ip-address.ts';
import { OF_KEY_WORDS } from './key.ts';
import { macText } from './mac-learning.ts';
import { isIp } from './packet-fields.ts';
import type { OfPort } from './port.ts';
import type { Translator } from './translate.ts';
import type { Tunnel } from './tunnel.ts';
import { TUNNELS } from './tunnel.ts';
import { tunnelHeader } from './tunnel-header.ts';
import { setIps, setMacs } from './underlay/solicit.ts';
import type { Path, Underlay } from './underlay/underlay.ts';
import type { TunnelListener } from './virtual-ports.ts';

const ALL = 0xffffffff;
const TOS = 0xff000000;
const ECN = 0x03000000;
const ECN_CE = 3;

/** What translation asks about tunnels; there when the switch has any. */
export interface TunnelView {
  readonly underlay: Underlay;
  listenerOf(udpPort: number): TunnelListener | undefined;
}

const outerMac = (x: Translator): number => x.state.flow[W_DL_DST]! * 0x10000 + (x.state.flow[W_DL_MIX]! >>> 16);

/** An address that a flow says, IPv4 or else IPv6. */
function flowAddress(x: Translator, four: number, six: number): IpAddress {
  const { state } = x;
  state.look(four, ALL);
  if (state.flow[four] !== 0) return ipv4(state.flow[four]!);
  for (let w = six; w < six + 4; w++) state.look(w, ALL);
  return ipv6(state.flow, six);
}

/** A packet came in at a tunnel port: which port that is, its whole tunnel says. @returns false when it is to be dropped. */
export function receiveTunnel(x: Translator, port: OfPort): boolean {
  const { state } = x;
  for (const word of [W_TUN_ID, W_TUN_ID + 1, W_TUN_SRC, W_TUN_DST]) state.look(word, ALL);
  if (state.flow[W_TUN_SRC] === 0 && state.flow[W_TUN_DST] === 0)
    for (let w = W_TUN_IPV6_SRC; w < W_TUN_IPV6_DST + 4; w++) state.look(w, ALL);
  state.look(W_TUN_MISC, (TOS | TUN_DF | TUN_CSUM | TUN_KEY) >>> 0);
  x.credits.push(port.received);
  // Congestion met under the tunnel is told to the packet inside, or the packet is dropped (RFC 6040 section 4.2).
  if (((state.flow[W_TUN_MISC]! >>> 24) & 3) !== ECN_CE || !isIp(x)) return true;
  state.look(W_NW_MISC, ECN);
  const inner = (state.flow[W_NW_MISC]! >>> 24) & 3;
  if (inner === 0) {
    x.lose('tunnel_congestion', 'dropping tunnel packet marked ECN CE but is not ECN capable');
    return false;
  }
  state.write(W_NW_MISC, ECN, ECN);
  return true;
}

/** Sends the packet as it is now by a tunnel port. */
export function outputTunnel(x: Translator, port: OfPort): void {
  const { trace, tunnels } = x;
  const tunnel = port.tunnel!;
  if (tunnels === undefined) return x.lose('no_such_port', 'Nonexistent output port');
  const { underlay } = tunnels;
  const remote = tunnel.remote === 'flow' ? flowAddress(x, W_TUN_DST, W_TUN_IPV6_DST) : tunnel.remote;
  const flowLocal = tunnel.local === 'flow' ? flowAddress(x, W_TUN_SRC, W_TUN_IPV6_SRC) : tunnel.local;
  const local = flowLocal === undefined || isUnspecified(flowLocal) ? undefined : flowLocal;
  if (isUnspecified(remote)) return x.decline('tunnel_no_destination', 'Tunneling decided against output');
  trace?.note('output to native tunnel');
  x.encapsulates = true;
  const path = underlay.pathTo(remote, local);
  if (path === undefined || path.source.family !== remote.family)
    return x.lose('tunnel_no_route', 'native tunnel routing failed');
  trace?.note(`tunneling to ${formatIp(path.next)} via ${path.bridge.name}`);
  const mac = underlay.macOf(path);
  if (mac === undefined) {
    x.slow = true;
    underlay.want(path);
    const request = remote.family === 4 ? 'ARP' : 'ND';
    return x.lose(
      'tunnel_no_neighbour',
      `neighbor cache miss for ${formatIp(path.next)} on bridge ${path.bridge.name}, sending ${request} request`,
    );
  }
  trace?.note(
    `tunneling from ${macText(path.localMac)} ${formatIp(path.source)} to ${macText(mac)} ${formatIp(remote)}`,
  );
  x.credits.push(port.sent);
  encapsulate(x, port, path, mac, remote);
}

function encapsulate(x: Translator, port: OfPort, path: Path, mac: number, remote: IpAddress): void {
  const { state } = x;
  const tunnel = port.tunnel!;
  const { tos, ttl } = outerLife(x, tunnel);
  const checksum = tunnel.checksum || (remote.family === 6 && tunnel.dstPort !== 0);
  let key = tunnel.outKey;
  if (key === 'flow') {
    state.look(W_TUN_ID, ALL);
    state.look(W_TUN_ID + 1, ALL);
    key = (BigInt(state.flow[W_TUN_ID]!) << 32n) | BigInt(state.flow[W_TUN_ID + 1]!);
  }
  state.look(W_TUN_MISC, TUN_OAM);
  const header = tunnelHeader({
    type: tunnel.type,
    dstPort: tunnel.dstPort,
    sourceMac: path.localMac,
    destinationMac: mac,
    source: path.source,
    destination: remote,
    key,
    tos,
    ttl,
    dontFragment: tunnel.dontFragment,
    checksum,
    oam: (state.flow[W_TUN_MISC]! & TUN_OAM) !== 0,
  });
  const outer = new Uint32Array(OF_KEY_WORDS);
  outer[W_IN_PORT] = path.local.ofport;
  setMacs(outer, path.localMac, mac);
  setIps(outer, path.source, remote);
  const protocol = tunnel.dstPort === 0 ? 47 : IPPROTO_UDP;
  outer[W_TYPE] = (((remote.family === 4 ? ETH_IPV4 : ETH_IPV6) << 16) | (protocol << 8)) >>> 0;
  outer[W_NW_MISC] = ((tos << 24) | (ttl << 16)) >>> 0;
  outer[W_TP] = tunnel.dstPort;

  const { outputs } = state;
  const at = state.openClone();
  if (at < 0 || !state.encapsulate(tunnelPush(port.dpPort, TUNNELS[tunnel.type].kind, checksum, header)))
    return x.fail('program too long');
  const inner = state.enter(outer);
  x.cross(path.bridge, path.local);
  state.leave(inner);
  state.closeClone(at, outputs);
}

/** TOS and TTL of the outer header. The ECN of a packet is always carried outside too (RFC 6040 section 4.1). */
function outerLife(x: Translator, { tos, ttl }: Tunnel): { tos: number; ttl: number } {
  const { state } = x;
  const ip = isIp(x);
  let outerTos = Math.max(tos, 0) & 0xfc;
  if (ip) {
    state.look(W_NW_MISC, tos < 0 ? TOS : ECN);
    const inner = state.flow[W_NW_MISC]! >>> 24;
    if (tos < 0) outerTos = inner & 0xfc;
    outerTos |= (inner & 3) === ECN_CE ? 2 : inner & 3;
  }
  if (ttl >= 0) return { tos: outerTos, ttl };
  if (!ip) return { tos: outerTos, ttl: 64 };
  state.look(W_NW_MISC, 0x00ff0000);
  return { tos: outerTos, ttl: (state.flow[W_NW_MISC]! >>> 16) & 0xff };
}

/**
 * The packet is to go to the bridge's own port. @returns true when a tunnel takes it instead; what neighbours say of themselves
 * is noted.
 */
export function terminate(x: Translator): boolean {
  const { state, tunnels, bridge } = x;
  if (tunnels === undefined) return false;
  state.look(W_TYPE, 0xffff0000);
  const { flow } = state;
  const type = flow[W_TYPE]! >>> 16;
  if (type === ETH_ARP) {
    hearArp(x, tunnels.underlay);
    return false;
  }
  if (type !== ETH_IPV4 && type !== ETH_IPV6) return false;
  state.look(W_TYPE, 0xff00);
  const protocol = (flow[W_TYPE]! >>> 8) & 0xff;
  if (type === ETH_IPV6 && protocol === IPPROTO_ICMPV6) hearNeighbour(x, tunnels.underlay);
  if (protocol !== IPPROTO_UDP && protocol !== 47) return false;
  if (protocol === IPPROTO_UDP) state.look(W_TP, 0xffff);
  const listener = tunnels.listenerOf(protocol === IPPROTO_UDP ? flow[W_TP]! & 0xffff : 0);
  if (listener === undefined) return false;
  state.look(W_TYPE, FRAG_ANY);
  state.look(W_NW_DST, ALL);
  if (type === ETH_IPV6) for (let w = W_IPV6_DST; w < W_IPV6_DST + 3; w++) state.look(w, ALL);
  state.look(W_DL_DST, ALL);
  state.look(W_DL_MIX, 0xffff0000);
  const words = [flow[W_IPV6_DST]!, flow[W_IPV6_DST + 1]!, flow[W_IPV6_DST + 2]!, flow[W_NW_DST]!];
  const destination = type === ETH_IPV4 ? ipv4(flow[W_NW_DST]!) : ipv6(words);
  if ((flow[W_TYPE]! & FRAG_ANY) !== 0 || !tunnels.underlay.isLocal(bridge.name, destination)) return false;
  if (tunnels.underlay.localMac(bridge.name) !== outerMac(x)) return false;
  if (!state.decapsulate(listener.dpPort, TUNNELS[listener.tunnel.type].kind)) x.fail('program too long');
  return true;
}

/** Replies, and requests by which a station tells of itself, are looked at one by one: each is news of a neighbour. */
function hearArp(x: Translator, underlay: Underlay): void {
  const { state, bridge } = x;
  const { flow } = state;
  state.look(W_TYPE, 0xff00);
  const isReply = ((flow[W_TYPE]! >>> 8) & 0xff) === 2;
  if (!isReply) {
    state.look(W_NW_SRC, ALL);
    state.look(W_NW_DST, ALL);
    if (flow[W_NW_SRC] !== flow[W_NW_DST]) return;
  }
  x.slow = true;
  if (!x.learns || flow[W_NW_SRC] === 0) return;
  const mac = flow[W_SHA]! * 0x10000 + (flow[W_SHA_THA]! >>> 16);
  underlay.heard(bridge.name, ipv4(flow[W_NW_SRC]!), mac);
}

function hearNeighbour(x: Translator, underlay: Underlay): void {
  const { state, bridge } = x;
  const { flow } = state;
  state.look(W_TP, ALL);
  if (flow[W_TP] !== 136 << 16) return;
  x.slow = true;
  const mac = (flow[W_SHA_THA]! & 0xffff) * 0x1_0000_0000 + flow[W_THA]!;
  if (x.learns && mac !== 0) underlay.heard(bridge.name, ipv6(flow, W_ND_TARGET), mac);
}
