/**
 * A port of a bridge: its OpenFlow number, its datapath port, and its settings in the form that translation needs.
 */

import { ETH_QINQ, ETH_VLAN } from '#contract/flow-key.ts';
import { type PortSpec, type PortView, RequestError, type VlanMode } from './api.ts';
import type { DatapathPort } from './datapath.ts';
import { type Credit, newCredit } from './table.ts';
import type { Pipeline } from './translate.ts';
import type { Tunnel } from './tunnel.ts';
import { checkVirtual, isVirtual } from './virtual-ports.ts';

/** Highest OpenFlow number of a real port (OpenFlow 1.0 OFPP_MAX). */
const OFPORT_MAX = 0xff00;
const CONFIG_WORDS = ['down', 'no-receive', 'no-forward', 'no-flood', 'no-packet-in', 'no-stp', 'no-receive-stp'];
const VLAN_MODES: readonly VlanMode[] = ['access', 'trunk', 'native-tagged', 'native-untagged', 'dot1q-tunnel'];

/** When an untagged output carries a tag with VID 0 for its priority (Port other_config:priority-tags). */
export type PriorityTags = 'never' | 'if-nonzero' | 'always';

/** Where a patch port leads. */
export interface PatchPeer {
  readonly bridge: Pipeline;
  readonly port: OfPort;
}

export class OfPort {
  readonly name: string;
  readonly ofport: number;
  /** Datapath port number; 0 while it has none. */
  dpPort: number;
  datapath: DatapathPort | undefined;
  spec: PortSpec;
  receives = true;
  forwards = true;
  floods = true;
  vlanMode: VlanMode = 'trunk';
  /** Access or native VLAN. */
  vlan = 0;
  /** 4096 bits of admitted VLANs; undefined = all. */
  trunks: Uint32Array | undefined;
  /** TPID of the tag that a dot1q-tunnel port adds. */
  qinqType: number = ETH_QINQ;
  priorityTags: PriorityTags = 'never';
  /** Frames are not exchanged between two protected ports. */
  isProtected = false;
  isPatch = false;
  /** The other end of a patch port; undefined while there is none. */
  peer: PatchPeer | undefined = undefined;
  /** What a tunnel port does; undefined for others. */
  tunnel: Tunnel | undefined = undefined;
  /** Packets through a port that the data plane does not count: patch and tunnel ports. */
  readonly received: Credit = newCredit();
  readonly sent: Credit = newCredit();
  /** Locally administered; shown as `addr`. */
  readonly mac: string;

  constructor(spec: PortSpec, ofport: number, mac: string) {
    this.name = spec.name;
    this.ofport = ofport;
    this.dpPort = 0;
    this.datapath = undefined;
    this.mac = mac;
    this.spec = spec;
    this.configure(spec);
  }

  /** Takes settings that `checkPortSpec` found sound. */
  configure(spec: PortSpec): void {
    this.spec = spec;
    this.isPatch = spec.type === 'patch';
    const config = new Set(spec.config);
    this.receives = !config.has('down') && !config.has('no-receive');
    this.forwards = !config.has('down') && !config.has('no-forward');
    this.floods = !config.has('no-flood');
    this.vlanMode = spec.vlanMode ?? (spec.tag >= 0 ? 'access' : 'trunk');
    this.vlan = this.vlanMode === 'trunk' ? 0 : Math.max(0, spec.tag);
    this.trunks = this.vlanMode === 'access' || this.vlanMode === 'dot1q-tunnel' ? undefined : vlanSet(spec.trunks);
    if (this.vlanMode.startsWith('native') && this.vlan !== 0) {
      // The native VLAN is always carried, and VLAN 0 never apart from it (ovs-vswitchd.conf.db(5), Port vlan_mode).
      this.trunks ??= new Uint32Array(128).fill(0xffffffff);
      this.trunks[this.vlan >>> 5]! |= 1 << (this.vlan & 31);
      this.trunks[0]! &= ~1;
    }
    this.qinqType = spec.otherConfig['qinq-ethtype'] === '802.1q' ? ETH_VLAN : ETH_QINQ;
    const tags = spec.otherConfig['priority-tags'];
    this.priorityTags =
      tags === 'true' || tags === 'if-nonzero' ? 'if-nonzero' : tags === 'always' ? 'always' : 'never';
    this.isProtected = spec.otherConfig['protected'] === 'true';
  }

  /** Whether frames of a VLAN may pass (0 = untagged on a trunk). */
  carries(vlan: number): boolean {
    if (this.vlanMode === 'access' || this.vlanMode === 'dot1q-tunnel') return vlan === this.vlan;
    return this.trunks === undefined || (this.trunks[vlan >>> 5]! & (1 << (vlan & 31))) !== 0;
  }

  view(): PortView {
    return { ...this.spec, ofport: this.ofport, mac: this.mac, datapath: this.datapath };
  }
}

function vlanSet(vlans: readonly number[]): Uint32Array | undefined {
  if (vlans.length === 0) return undefined;
  const set = new Uint32Array(128);
  for (const vlan of vlans) set[vlan >>> 5]! |= 1 << (vlan & 31);
  return set;
}

const bad = (field: string, message: string, hint = ''): RequestError =>
  new RequestError('bad_value', message, { field, hint });

/** @throws RequestError at the first setting that makes no sense. */
export function checkPortSpec(spec: PortSpec): void {
  if (!/^[A-Za-z0-9_.:@-]{1,63}$/.test(spec.name))
    throw bad('name', `"${spec.name}" is no port name`, 'letters, digits, _ . : @ -');
  if (!Number.isInteger(spec.ofportRequest) || spec.ofportRequest < 0 || spec.ofportRequest >= OFPORT_MAX) {
    throw bad(
      'ofportRequest',
      `OpenFlow port ${spec.ofportRequest} is out of range`,
      `1 to ${OFPORT_MAX - 1}, or 0 for any`,
    );
  }
  if (!Number.isInteger(spec.tag) || spec.tag < -1 || spec.tag > 4095)
    throw bad('tag', `VLAN ${spec.tag} is out of range`, '0 to 4095');
  for (const vlan of spec.trunks) {
    if (!Number.isInteger(vlan) || vlan < 0 || vlan > 4095)
      throw bad('trunks', `VLAN ${vlan} is out of range`, '0 to 4095');
  }
  if (spec.vlanMode !== undefined && !VLAN_MODES.includes(spec.vlanMode)) {
    throw bad('vlanMode', `"${spec.vlanMode}" is no VLAN mode`, VLAN_MODES.join(', '));
  }
  if (!Number.isInteger(spec.mtuRequest) || spec.mtuRequest < 0 || spec.mtuRequest > 65_535) {
    throw bad('mtuRequest', `MTU ${spec.mtuRequest} is out of range`, '68 to 65535, or 0 for 1500');
  }
  if (isVirtual(spec.type)) checkVirtual(spec);
  for (const word of spec.config) {
    if (!CONFIG_WORDS.includes(word))
      throw bad('config', `unknown port configuration "${word}"`, CONFIG_WORDS.join(', '));
  }
}
