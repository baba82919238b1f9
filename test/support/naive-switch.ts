/**
 * The oracle of ofproto's tests: an OpenFlow switch that does everything the slow and obvious way, packet by packet, with a
 * list of flows, no caches and no wildcards. It shares the parser's types with the product, nothing else.
 */
import { KEY_WORDS, W_TUNNEL } from '#contract/flow-key.ts';
import type { Action } from '#ofproto/actions.ts';
import type { FlowModSpec } from '#ofproto/flow-parse.ts';
import type { GroupModSpec } from '#ofproto/group-parse.ts';
import { applyWrites, readSubfield, writeSubfield } from '#ofproto/key.ts';
import { matchesKey, sameMatch } from '#ofproto/match.ts';

export interface NaivePort {
  readonly ofport: number;
  readonly dpPort: number;
  readonly mode: 'access' | 'trunk' | 'native-tagged' | 'native-untagged' | 'dot1q-tunnel';
  readonly vlan: number;
  /** Empty = all. */
  readonly trunks: readonly number[];
  readonly live: boolean;
  readonly floods: boolean;
}

export interface NaiveOutput {
  readonly port: number;
  readonly key: Uint32Array;
}

class Failure extends Error {}
class Exit extends Error {}

const IN_PORT = 0xfff8;
const NORMAL = 0xfffa;
const FLOOD = 0xfffb;
const ALL = 0xfffc;
const CONTROLLER = 0xfffd;
const PRESENT = 0x1000;

/** State of one packet on its way. */
class Packet {
  key: Uint32Array;
  /** Tags, outermost first, as key words. */
  tags: number[];
  set: Action[] = [];
  outputs: NaiveOutput[] = [];
  table = 0;
  depth = 0;
  resubmits = 0;

  constructor(key: Uint32Array) {
    this.key = key.slice();
    this.tags = [key[5]!, key[6]!].filter((tag) => tag & PRESENT);
  }

  show(): void {
    this.key[5] = this.tags[0] ?? 0;
    this.key[6] = this.tags[1] ?? 0;
  }

  count(): void {
    if (this.depth >= 64 || ++this.resubmits > 4096) throw new Failure();
  }
}

export class NaiveSwitch {
  flows: FlowModSpec[] = [];
  groups = new Map<number, GroupModSpec>();
  ports: NaivePort[] = [];
  fdb = new Map<string, NaivePort>();
  /** Flows that a packet went through, in order. */
  used: FlowModSpec[] = [];

  apply(mod: FlowModSpec): void {
    const inTable = (flow: FlowModSpec): boolean => mod.table === 255 || flow.table === mod.table;
    const strictly = (flow: FlowModSpec): boolean =>
      inTable(flow) && flow.priority === mod.priority && sameMatch(flow.match, mod.match);
    const loosely = (flow: FlowModSpec): boolean =>
      inTable(flow) &&
      flow.match.masks.every((mask, w) => {
        const asked = mod.match.masks[w]!;
        return (mask & asked) >>> 0 === asked && ((flow.match.values[w]! ^ mod.match.values[w]!) & asked) === 0;
      });
    const cookie = (flow: FlowModSpec): boolean => ((flow.newCookie ?? 0n) & mod.cookieMask) === mod.cookie;
    const add = (): void => {
      const flow = { ...mod, table: mod.table === 255 ? 0 : mod.table, newCookie: mod.newCookie ?? 0n };
      const at = this.flows.findIndex(
        (old) => old.table === flow.table && old.priority === flow.priority && sameMatch(old.match, flow.match),
      );
      if (at >= 0) this.flows[at] = flow;
      else this.flows.push(flow);
    };
    const selected = (flow: FlowModSpec): boolean =>
      cookie(flow) && (mod.command.endsWith('strict') ? strictly(flow) : loosely(flow));
    if (mod.command === 'add') add();
    else if (mod.command.startsWith('delete')) this.flows = this.flows.filter((flow) => !selected(flow));
    else if (!this.flows.some(selected)) {
      if (mod.cookieMask === 0n) add();
    } else {
      this.flows = this.flows.map((flow) =>
        selected(flow) ? { ...flow, actions: mod.actions, newCookie: mod.newCookie ?? flow.newCookie } : flow,
      );
    }
  }

  /** Frames that leave when a packet comes in; key has the OpenFlow port as in_port. */
  receive(key: Uint32Array): readonly NaiveOutput[] {
    const packet = new Packet(key);
    this.used = [];
    try {
      this.#table(packet, 0, key[0]!);
      const set = packet.set;
      packet.set = [];
      this.#run(packet, ordered(set));
    } catch (error) {
      if (error instanceof Failure) return [];
      if (!(error instanceof Exit)) throw error;
      const set = packet.set;
      packet.set = [];
      try {
        this.#run(packet, ordered(set));
      } catch (again) {
        if (again instanceof Failure) return [];
        if (!(again instanceof Exit)) throw again;
      }
    }
    return packet.outputs;
  }

  #table(p: Packet, table: number, inPort: number): void {
    p.show();
    const key = p.key.slice();
    key[0] = inPort;
    let best: FlowModSpec | undefined;
    for (const flow of this.flows) {
      if (flow.table === table && (!best || flow.priority > best.priority) && matchesKey(flow.match, key)) best = flow;
    }
    if (!best) return;
    this.used.push(best);
    const before = p.table;
    p.table = table;
    this.#run(p, best.actions);
    p.table = before;
  }

  #resubmit(p: Packet, table: number, inPort: number): void {
    p.count();
    const deeper = table <= p.table;
    if (deeper) p.depth++;
    this.#table(p, table, inPort);
    if (deeper) p.depth--;
  }

  #run(p: Packet, actions: readonly Action[]): void {
    for (const action of actions) if (!this.#action(p, action)) return;
  }

  #action(p: Packet, action: Action): boolean {
    const type = p.key[7]! >>> 16;
    const isIp = type === 0x800 || type === 0x86dd;
    const transport = isIp && [6, 17, 132].includes((p.key[7]! >>> 8) & 255) && (p.key[7]! & 2) === 0;
    const has = (needs: string): boolean => {
      const proto = (p.key[7]! >>> 8) & 255;
      if (needs === 'none') return true;
      if (needs === 'vlan') return p.tags.length > 0;
      if (needs === 'ip') return isIp;
      if (needs === 'ipv4') return type === 0x800;
      if (needs === 'ipv6') return type === 0x86dd;
      if (needs === 'arp') return type === 0x806 || type === 0x8035;
      if (needs === 'tcp') return transport && proto === 6;
      if (needs === 'udp') return transport && proto === 17;
      throw new Error(`the oracle knows no ${needs}`);
    };
    const setTag = (value: number, mask: number): void => {
      if (p.tags.length === 0) {
        if (value & mask & PRESENT) p.tags.unshift((0x81000000 | (value & mask)) >>> 0);
      } else if (mask & PRESENT && !(value & PRESENT)) p.tags.shift();
      else p.tags[0] = ((p.tags[0]! & ~mask) | (value & mask) | PRESENT) >>> 0;
      p.show();
    };
    const write = (writes: readonly { word: number; value: number; mask: number }[]): void => {
      for (const one of writes) {
        if (one.word === 5) setTag(one.value, one.mask);
        else applyWrites(p.key, [one]);
      }
    };
    switch (action.kind) {
      case 'output':
        this.#output(p, action.port);
        return true;
      case 'output_field':
        this.#output(p, Number(readSubfield(p.key, action.source)) & 0xffff);
        return true;
      case 'set_field':
        if (has(action.field.prerequisite)) write(action.writes);
        return true;
      case 'legacy_set': {
        const { name } = action;
        const ok = name.startsWith('mod_tp')
          ? transport
          : name === 'mod_nw_src' || name === 'mod_nw_dst'
            ? type === 0x800
            : name.startsWith('mod_nw')
              ? isIp
              : true;
        if (ok) write(action.writes);
        return true;
      }
      case 'mod_vlan_vid':
        setTag(PRESENT | action.vid, PRESENT | 0xfff);
        return true;
      case 'mod_vlan_pcp':
        setTag(PRESENT | (action.pcp << 13), PRESENT | 0xe000);
        return true;
      case 'push_vlan':
        p.tags.unshift(((action.ethertype << 16) | PRESENT) >>> 0);
        if (p.tags.length > 8) throw new Failure();
        p.show();
        return true;
      case 'pop_vlan':
        p.tags.shift();
        p.show();
        return true;
      case 'move': {
        if (!has(action.source.field.prerequisite) || !has(action.destination.field.prerequisite)) return true;
        writeSubfield(p.key, action.destination, readSubfield(p.key, action.source));
        return true;
      }
      case 'dec_ttl': {
        if (!isIp) return true;
        const ttl = (p.key[11]! >>> 16) & 255;
        if (ttl <= 1) return false;
        p.key[11]! -= 0x10000;
        return true;
      }
      case 'resubmit':
        this.#resubmit(
          p,
          action.table === 255 ? p.table : action.table,
          action.port === IN_PORT ? p.key[0]! : action.port,
        );
        return true;
      case 'goto_table':
        this.#resubmit(p, action.table, p.key[0]!);
        return true;
      case 'group':
        this.#group(p, action.groupId);
        return true;
      case 'write_actions':
        p.set.push(...action.actions);
        return true;
      case 'clear_actions':
        p.set = [];
        return true;
      case 'write_metadata':
        p.key[48] = Number((BigInt(p.key[48]!) & ~(action.mask >> 32n)) | ((action.value & action.mask) >> 32n));
        p.key[49] = Number(
          (BigInt(p.key[49]!) & ~action.mask & 0xffffffffn) | (action.value & action.mask & 0xffffffffn),
        );
        return true;
      case 'exit':
        throw new Exit();
      case 'controller':
      case 'note':
        return true;
    }
  }

  #group(p: Packet, id: number): void {
    p.count();
    const group = this.groups.get(id);
    if (!group) return;
    const live = group.buckets.filter(
      ({ watchPort }) => watchPort === 0xffff || this.ports.find(({ ofport }) => ofport === watchPort)?.live,
    );
    const chosen = group.type === 'all' ? group.buckets : group.type === 'indirect' ? group.buckets : live.slice(0, 1);
    p.depth++;
    for (const bucket of chosen) {
      const { key, tags, set } = p;
      p.key = key.slice();
      p.tags = [...tags];
      p.set = [];
      try {
        this.#run(p, ordered(bucket.actions));
      } catch (error) {
        if (!(error instanceof Exit)) throw error;
      }
      Object.assign(p, { key, tags, set });
    }
    p.depth--;
  }

  #output(p: Packet, port: number): void {
    const inPort = p.key[0]!;
    if (port === NORMAL) return this.#normal(p);
    if (port === CONTROLLER) return;
    if (port === FLOOD || port === ALL) {
      for (const each of this.ports)
        if (each.ofport !== inPort && (port === ALL || each.floods)) this.#send(p, each, p.tags);
      return;
    }
    if (port === inPort) return;
    const to = this.ports.find(({ ofport }) => ofport === (port === IN_PORT ? inPort : port));
    if (to) this.#send(p, to, p.tags);
  }

  #send(p: Packet, port: NaivePort, tags: readonly number[]): void {
    const key = p.key.slice(0, KEY_WORDS);
    // What it knows of a tunnel is no part of a packet.
    key.fill(0, W_TUNNEL);
    key[0] = 0;
    key[5] = tags[0] ?? 0;
    key[6] = tags[1] ?? 0;
    p.outputs.push({ port: port.dpPort, key });
  }

  #normal(p: Packet): void {
    const from = this.ports.find(({ ofport }) => ofport === p.key[0]);
    if (!from) return;
    const outer = p.tags[0];
    const vid = outer === undefined ? 0 : outer & 0xfff;
    const carries = (port: NaivePort, vlan: number): boolean => {
      if (port.mode === 'access' || port.mode === 'dot1q-tunnel') return vlan === port.vlan;
      if (port.mode !== 'trunk' && vlan === port.vlan) return true;
      if (port.mode !== 'trunk' && vlan === 0 && port.vlan !== 0) return false;
      return port.trunks.length === 0 || port.trunks.includes(vlan);
    };
    if (from.mode === 'access' && vid !== 0) return;
    if (from.mode === 'trunk' && !carries(from, vid)) return;
    if (from.mode.startsWith('native') && vid !== 0 && !carries(from, vid)) return;
    const macs = [p.key[2]!, p.key[3]!, p.key[4]!];
    const dst = `${macs[0]}.${macs[1]! >>> 16}`;
    const src = `${macs[1]! & 0xffff}.${macs[2]}`;
    if (macs[0] === 0x0180c200 && macs[1]! >>> 16 < 16) return;
    const tunnel = from.mode === 'dot1q-tunnel';
    const vlan = tunnel || vid === 0 ? from.vlan : vid;
    const multicastSource = (macs[1]! >>> 8) & 1;
    const rest = tunnel ? p.tags : p.tags.slice(1);
    const tag = tunnel ? undefined : outer;
    const send = (to: NaivePort): void => {
      const bare =
        to.mode === 'access' ||
        to.mode === 'dot1q-tunnel' ||
        (to.mode === 'native-untagged' && vlan === to.vlan) ||
        (vlan === 0 && !((tag ?? 0) & 0xe000));
      if (to.mode === 'access' && (rest[0] ?? 0) & 0xfff) return;
      if (to.mode === 'access') return this.#send(p, to, rest.slice(1));
      const top = tag === undefined ? (tunnel ? 0x88a80000 : 0x81000000) : tag & 0xffffe000;
      this.#send(p, to, bare ? rest : [(top | PRESENT | vlan) >>> 0, ...rest]);
    };
    const own = hexMac(dst) === hexMac2(src);
    const known = own ? from : this.fdb.get(`${vlan} ${hexMac(dst)}`);
    const isMulticast = (macs[0]! >>> 24) & 1;
    if (!isMulticast && known) {
      if (known !== from) send(known);
    } else for (const to of this.ports) if (to !== from && to.floods && carries(to, vlan)) send(to);
    if (!multicastSource) this.#learned.push([`${vlan} ${hexMac2(src)}`, from]);
  }

  #learned: [string, NaivePort][] = [];

  /** Takes what the last packet taught; lookups of a packet see the table as it was before it. */
  learn(): void {
    for (const [key, port] of this.#learned) this.fdb.set(key, port);
    this.#learned = [];
  }
}

const hexMac = (dst: string): string => {
  const [high, low] = dst.split('.').map(Number);
  return (high! * 0x10000 + low!).toString(16);
};
const hexMac2 = (src: string): string => {
  const [high, low] = src.split('.').map(Number);
  return (high! * 0x1_0000_0000 + low!).toString(16);
};

/** Order of an action set: OpenFlow 1.3 section 5.10. */
function ordered(actions: readonly Action[]): Action[] {
  const last = (...kinds: string[]): Action[] => {
    const found = actions.filter(({ kind }) => kinds.includes(kind));
    return found.slice(-1);
  };
  const sets = actions.filter(({ kind }) =>
    ['set_field', 'legacy_set', 'move', 'mod_vlan_vid', 'mod_vlan_pcp'].includes(kind),
  );
  const group = last('group');
  const output = group.length > 0 ? [] : last('output', 'output_field', 'controller', 'resubmit');
  return [...last('pop_vlan'), ...last('push_vlan'), ...last('dec_ttl'), ...sets, ...group, ...output];
}
