/**
 * NORMAL: MAC learning and VLANs of an ordinary Ethernet switch (ovs-vswitchd.conf.db(5), Port: vlan_mode, tag, trunks).
 *
 * A frame that comes in is put into a VLAN: `vid`, with the tags that are to stay below it. What a port sends is again
 * those tags, with or without one for the VLAN on top.
 */
import {
  ETH_VLAN,
  VLAN_PRESENT,
  W_DL_DST,
  W_DL_MIX,
  W_DL_SRC,
  W_IN_PORT,
  W_VLAN,
  W_VLAN_INNER,
} from '#contract/flow-key.ts';
import { macKey, macText } from './mac-learning.ts';
import type { OfPort } from './port.ts';
import type { SavedTags } from './tag-stack.ts';
import type { Translator } from './translate.ts';
import { outputPort } from './translate-actions.ts';

const VID = 0x0fff;
const PCP = 0xe000;

/** 01:80:c2:00:00:00 to 0f: never forwarded by a bridge (IEEE 802.1Q §8.6.3). */
const RESERVED_HIGH = 0x0180c200;

interface Frame {
  readonly inPort: OfPort;
  /** VLAN inside the bridge; 0 = none (untagged on a trunk). */
  readonly vid: number;
  /** Tags as received. */
  readonly tags: SavedTags;
  /** The outer tag of `tags` is the VLAN's own. */
  readonly tagged: boolean;
  /** TPID of the VLAN's tag where one has to be made. */
  readonly tpid: number;
}

/** Whether a frame with this VID (0 = none) may come in. */
function admits(port: OfPort, vid: number): boolean {
  switch (port.vlanMode) {
    case 'access':
      return vid === 0;
    case 'native-tagged':
    case 'native-untagged':
      return vid === 0 || port.carries(vid);
    case 'trunk':
      return port.carries(vid);
    case 'dot1q-tunnel':
      return true;
  }
}

export function runNormal(x: Translator): void {
  const { state, bridge } = x;
  const { flow } = state;
  const inPort = bridge.portOf(flow[W_IN_PORT]!);
  if (inPort === undefined) return x.lose('no_such_port', 'no input bundle, dropping');
  state.look(W_DL_DST, 0xffffffff);
  state.look(W_DL_MIX, 0xffffffff);
  state.look(W_DL_SRC, 0xffffffff);
  state.look(W_VLAN, VLAN_PRESENT | VID);
  const tci = flow[W_VLAN]! & 0xffff;
  const outer = (tci & VLAN_PRESENT) === 0 ? 0 : tci & VID;
  if (!admits(inPort, outer)) return x.lose('vlan_policy', refusal(inPort, outer));
  const dstHigh = flow[W_DL_DST]!;
  const dst = dstHigh * 0x10000 + (flow[W_DL_MIX]! >>> 16);
  const src = (flow[W_DL_MIX]! & 0xffff) * 0x1_0000_0000 + flow[W_DL_SRC]!;
  if (dstHigh === RESERVED_HIGH && flow[W_DL_MIX]! >>> 16 < 16 && !bridge.forwardBpdu) {
    return x.decline('reserved_multicast', 'packet has reserved destination MAC, dropping');
  }

  const tunnel = inPort.vlanMode === 'dot1q-tunnel';
  const vid = tunnel || outer === 0 ? inPort.vlan : outer;
  if ((src / 0x100_0000_0000) % 2 < 1) learn(x, vid, src, inPort);

  const frame: Frame = {
    inPort,
    vid,
    tags: state.saveTags(),
    tagged: !tunnel && (tci & VLAN_PRESENT) !== 0,
    tpid: tunnel ? inPort.qinqType : ETH_VLAN,
  };
  if ((dstHigh & 0x01000000) !== 0) {
    x.trace?.note('no learned MAC for destination, flooding');
    flood(x, frame);
    return;
  }
  // The frame's own source is learned before its destination is looked up.
  if (dst === src) return x.decline('hairpin', 'learned port is input port, dropping');
  const key = macKey(vid, dst);
  x.macs.push({ bridge, key, vlan: vid, mac: dst, port: undefined });
  const entry = bridge.macs.lookup(key);
  if (entry === undefined) {
    x.trace?.note('no learned MAC for destination, flooding');
    flood(x, frame);
  } else if (entry.port === inPort) x.decline('hairpin', 'learned port is input port, dropping');
  else if (entry.port.isProtected && inPort.isProtected) x.lose('vlan_policy', 'learned port is protected, dropping');
  else {
    x.trace?.note('forwarding to learned port');
    if (!send(x, frame, entry.port)) x.lose('vlan_policy', 'learned port takes no tagged frames');
    state.restoreTags(frame.tags);
  }
}

function learn(x: Translator, vlan: number, mac: number, port: OfPort): void {
  const key = macKey(vlan, mac);
  x.macs.push({ bridge: x.bridge, key, vlan, mac, port });
  if (x.trace === undefined) return;
  const known = x.bridge.macs.lookup(key);
  if (x.learns && known?.port !== port)
    x.trace.note(`learned that ${macText(mac)} is on port ${port.name} in VLAN ${vlan}`);
}

function refusal(port: OfPort, vid: number): string {
  if (port.vlanMode === 'access') {
    return `dropping VLAN ${vid} tagged packet received on port ${port.name} configured as VLAN ${port.vlan} access port`;
  }
  return `dropping VLAN ${vid} packet received on port ${port.name} not configured for trunking VLAN ${vid}`;
}

function flood(x: Translator, frame: Frame): void {
  const { inPort, vid } = frame;
  let sent = false;
  for (const port of x.bridge.portList) {
    if (port === inPort || !port.floods || !port.carries(vid) || (port.isProtected && inPort.isProtected)) continue;
    sent = send(x, frame, port) || sent;
  }
  x.state.restoreTags(frame.tags);
  if (!sent) x.lose('no_learnt_port', 'no port to flood to');
}

/**
 * Sends by one port, with the tags that its mode asks for. Two habits of Open vSwitch beyond its manual are kept: a trunk
 * hands a priority tag (VID 0) on when its priority is not 0, and priority-tags=always adds no tag of priority 0.
 * @returns false when the port does not take the frame: an access port takes none that is tagged within its VLAN.
 */
function send(x: Translator, { vid, tags, tagged, tpid }: Frame, port: OfPort): boolean {
  const { state } = x;
  state.restoreTags(tags);
  const { vlanMode, priorityTags } = port;
  if (vlanMode === 'access') {
    const below = tagged ? W_VLAN_INNER : W_VLAN;
    if (tags.length > (tagged ? 1 : 0)) {
      state.look(below, VLAN_PRESENT | VID);
      if ((state.flow[below]! & VID) !== 0) return false;
    }
  }
  const bare =
    vlanMode === 'access' || vlanMode === 'dot1q-tunnel' || (vlanMode === 'native-untagged' && vid === port.vlan);
  const out = bare ? 0 : vid;
  if (tagged && !bare && (state.flow[W_VLAN]! & VID) === out && (out !== 0 || priority(x) !== 0)) {
    outputPort(x, port);
    return true;
  }
  const keepsPriority =
    tags.length > 0 && (out !== 0 ? tagged : priorityTags !== 'never' && bare && vlanMode !== 'dot1q-tunnel');
  const pcp = keepsPriority ? priority(x) : 0;
  let type = out === 0 ? ETH_VLAN : tpid;
  if (tagged) {
    if (out !== 0 || pcp !== 0) {
      state.look(W_VLAN, 0xffff0000);
      type = state.flow[W_VLAN]! >>> 16;
    }
    state.popTag();
  }
  if (vlanMode === 'access') state.popTag();
  if (out !== 0 || (pcp !== 0 && !state.hasTag())) state.pushTag(type, out | pcp);
  outputPort(x, port);
  return true;
}

/** Priority bits of the outer tag. */
function priority({ state }: Translator): number {
  state.look(W_VLAN, PCP);
  return state.flow[W_VLAN]! & PCP;
}
