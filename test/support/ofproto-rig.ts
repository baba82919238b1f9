/** A switch with one bridge over a fake data plane, and packets by text. */
import { ETH_VLAN, KEY_WORDS, VLAN_PRESENT, W_IN_PORT, W_VLAN } from '#contract/flow-key.ts';
import type { BridgeSpec, PortSpec } from '#ofproto/api.ts';
import type { Bridge } from '#ofproto/bridge.ts';
import { parseMatch } from '#ofproto/match-parse.ts';
import { Switch } from '#ofproto/switch.ts';
import { FakeDatapath, type Verdict } from './fake-datapath.ts';
import { portSpec } from './random-tables.ts';

export class OfprotoRig {
  readonly datapath: FakeDatapath;
  readonly theSwitch: Switch;
  readonly bridge: Bridge;
  /** ms */
  time = 1_700_000_000_000;

  constructor(datapath: FakeDatapath) {
    this.datapath = datapath;
    datapath.now = () => this.time;
    this.theSwitch = new Switch(datapath, { timer: false, now: () => this.time });
    this.bridge = undefined as unknown as Bridge;
  }

  /** A bridge with ports p1..pN, each with its own OpenFlow and datapath number N. */
  static async start(
    ports: readonly Partial<PortSpec>[],
    bridge: Partial<BridgeSpec> = {},
    datapath = new FakeDatapath(),
  ): Promise<OfprotoRig> {
    const rig = new OfprotoRig(datapath);
    await rig.theSwitch.addBridge({ name: 'br0', datapathId: '', failMode: 'secure', otherConfig: {}, ...bridge });
    Object.assign(rig, { bridge: rig.theSwitch.bridges.get('br0') });
    for (const [i, port] of ports.entries()) await rig.theSwitch.addPort('br0', portSpec(`p${i + 1}`, port));
    return rig;
  }

  async add(...flows: string[]): Promise<void> {
    await this.bridge.modifyFlows(flows.map((flow) => ({ command: 'add', flow })));
  }

  /** A packet described as ovs-ofctl does, in_port included. */
  packet(text: string): Uint32Array {
    const key = parseMatch(text).values.slice(0, KEY_WORDS);
    if (key[W_VLAN]! & VLAN_PRESENT && key[W_VLAN]! >>> 16 === 0) key[W_VLAN]! |= ETH_VLAN << 16;
    key[W_IN_PORT] = this.bridge.portOf(key[W_IN_PORT]!)!.dpPort;
    return key;
  }

  /** Sends a packet in. */
  send(text: string, length = 64): Verdict {
    return this.datapath.receive(this.packet(text), length);
  }

  /** Where a packet goes: `2,3`, or the drop reason; `!` behind it after an upcall. */
  fate(text: string): string {
    const { outputs, drop, upcall } = this.send(text);
    return (drop || outputs.map(({ port }) => port).join()) + (upcall ? '!' : '');
  }

  /** Megaflows as `match actions`, without what is the same in all. */
  megaflows(): string[] {
    return this.theSwitch
      .datapathFlows()
      .map(
        ({ match, actions }) =>
          `${match.replace('recirc_id(0),', '').replace('packet_type(ns=0,id=0)', '').replace(/,$/, '').replace(',,', ',')} ${actions}`,
      );
  }
}
