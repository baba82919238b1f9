/**
 * The switch: bridges over one data plane, answers to its upcalls, and the housekeeping of both.
 *
 * Adoption. A data plane that outlived its control plane forwards on by the megaflows that it has. They are taken over once
 * the configuration is there again (`restored`): with their ids and statistics, each translated from its key, and only those
 * are touched that the tables no longer yield.
 */
import type { DropReason } from '#contract/catalogue.ts';
import { W_IN_PORT } from '#contract/flow-key.ts';
import {
  type BridgeApi,
  type BridgeSpec,
  type DatapathFlowView,
  type PortSpec,
  type PortView,
  RequestError,
  type SwitchApi,
} from './api.ts';
import { Bridge, type BridgeContext } from './bridge.ts';
import type { Datapath, DatapathPort, InstalledMegaflow, PortStatistics, Upcall, UpcallAnswer } from './datapath.ts';
import { DatapathPorts } from './datapath-ports.ts';
import { followLocal } from './local.ts';
import { OFPP_LOCAL } from './ofp-port.ts';
import { Overlay } from './overlay.ts';
import { checkPortSpec, OfPort } from './port.ts';
import { Revalidator } from './revalidate.ts';
import { checkBridgeSpec, datapathConfig, makeMac, sameConfig } from './specs.ts';
import type { SwitchOptions } from './switch-options.ts';
import { Translator } from './translate.ts';
import { linuxHost } from './underlay/host.ts';
import { Upcalls } from './upcalls.ts';
import { datapathFlowView } from './views.ts';
import { isVirtual, virtualStatistics } from './virtual-ports.ts';

const TICK_MS = 500;
const MAX_IDLE_MS = 10_000;
/** Idle time while there are more megaflows than the limit. */
const CROWDED_IDLE_MS = 100;
const FLOW_LIMIT = 200_000;
/** Megaflows of another life are taken over after this time when nobody brings a configuration (`restoring`). */
const ADOPT_AFTER_MS = 5_000;
const LOST: readonly DropReason[] = ['upcall_ring_full', 'no_control_plane', 'upcall_unanswered'];

const UNANSWERED: UpcallAnswer = { actions: undefined };

export class Switch implements SwitchApi, BridgeContext {
  readonly bridges = new Map<string, Bridge>();
  readonly revalidator: Revalidator;
  readonly translator = new Translator();
  readonly tunnels: Overlay;
  readonly #datapath: Datapath;
  readonly #now: () => number;
  readonly #onError: (error: unknown) => void;
  readonly #adoptAfterMs: number;
  readonly #localDevices: boolean;
  readonly #ports: DatapathPorts;
  readonly #upcalls: Upcalls;
  #found: InstalledMegaflow[] = [];
  #adoptTimer: NodeJS.Timeout | undefined;
  /** Between `restoring` and `restored`: what the tables hold now is not all. */
  #restoring = false;
  readonly #timer: NodeJS.Timeout | undefined;
  #ticking = false;
  #maxIdleMs = MAX_IDLE_MS;
  #flowLimit = FLOW_LIMIT;

  constructor(datapath: Datapath, options: SwitchOptions = {}) {
    this.#datapath = datapath;
    this.#ports = new DatapathPorts(datapath);
    this.#now = options.now ?? Date.now;
    this.#onError = options.onError ?? (() => undefined);
    this.#adoptAfterMs = options.adoptAfterMs ?? ADOPT_AFTER_MS;
    this.#localDevices = options.localDevices ?? false;
    this.revalidator = new Revalidator(datapath, this.translator, this.#now);
    this.tunnels = new Overlay({
      datapath,
      bridges: this.bridges,
      revalidator: this.revalidator,
      translator: this.translator,
      host: options.host ?? linuxHost,
      now: this.#now,
      onError: this.#onError,
    });
    this.#upcalls = new Upcalls({
      ports: this.#ports,
      tunnels: this.tunnels,
      revalidator: this.revalidator,
      translator: this.translator,
      now: this.#now,
    });
    datapath.listen({
      upcall: (upcall) => this.#upcall(upcall),
      portStatus: (port) => this.#portStatus(port),
      connected: (ports, flows) => this.#connected(ports, flows),
      disconnected: () => this.#disconnected(),
    });
    if (options.timer === false) return;
    this.#timer = setInterval(() => void this.tick().catch(this.#onError), TICK_MS);
    this.#timer.unref();
  }

  now(): number {
    return this.#now();
  }

  /** Ends the housekeeping. */
  close(): void {
    clearInterval(this.#timer);
    clearTimeout(this.#adoptTimer);
  }

  /** Open_vSwitch other_config keys of this side: max-idle (ms), flow-limit. Others are left to the data plane. */
  setOptions(options: Readonly<Record<string, string>>): void {
    const number = (key: string, otherwise: number): number => {
      const value = Number(options[key] ?? otherwise);
      return Number.isFinite(value) && value > 0 ? value : otherwise;
    };
    this.#maxIdleMs = number('max-idle', MAX_IDLE_MS);
    this.#flowLimit = number('flow-limit', FLOW_LIMIT);
  }

  // Upcalls

  #upcall(upcall: Upcall): UpcallAnswer {
    if (this.#found.length > 0) return UNANSWERED;
    try {
      return this.#upcalls.answer(upcall, this.#flowLimit);
    } catch (error) {
      this.#onError(error);
      return UNANSWERED;
    }
  }

  // The data plane's comings and goings

  #connected(ports: readonly DatapathPort[], flows: readonly InstalledMegaflow[]): void {
    this.revalidator.forgetAll();
    this.#ports.clear();
    this.#found = [...flows];
    const byName = new Map(ports.map((port) => [port.name, port]));
    const missing: OfPort[] = [];
    for (const bridge of this.bridges.values()) {
      for (const port of bridge.portList) {
        port.dpPort = 0;
        // A user's route may have made a LOCAL where bridges have no devices.
        if (isVirtual(port.spec.type) || (port.ofport === OFPP_LOCAL && !this.#localDevices)) continue;
        const found = byName.get(port.name);
        if (found === undefined) missing.push(port);
        else this.#ports.join(bridge, port, found.portNo);
      }
    }
    clearTimeout(this.#adoptTimer);
    if (this.#restoring) {
      // The restore makes its own ports as it goes on; those that it made before are put back.
      void this.#putBack(missing).catch(this.#onError);
    } else if (this.bridges.size > 0)
      void this.#putBack(missing)
        .then(() => this.#putBackLocal())
        .then(() => this.restored())
        .catch(this.#onError);
    else if (flows.length > 0) {
      this.#adoptTimer = setTimeout(() => void this.restored().catch(this.#onError), this.#adoptAfterMs);
      this.#adoptTimer.unref();
    }
  }

  /** Makes ports again that a new data plane does not know. */
  async #putBack(ports: readonly OfPort[]): Promise<void> {
    await this.tunnels.virtual.connected();
    for (const port of ports) {
      const bridge = [...this.bridges.values()].find((each) => each.findPort(port.name) === port);
      if (bridge !== undefined) await this.#ports.putBack(bridge, port);
    }
  }

  /** Devices of bridges that had none so far: the data plane may have been away. */
  async #putBackLocal(): Promise<void> {
    for (const bridge of this.bridges.values()) if (!bridge.portOf(OFPP_LOCAL)) await this.#setLocal(bridge);
  }

  #disconnected(): void {
    this.revalidator.forgetAll();
    this.#upcalls.forget();
  }

  /** A stored configuration is being applied: nothing is held against it before `restored`, however long that takes. */
  restoring(): void {
    clearTimeout(this.#adoptTimer);
    this.#restoring = true;
  }

  /**
   * The configuration is complete: takes over the megaflows that the data plane had before. Resolves when all of them
   * obey the tables.
   */
  async restored(): Promise<void> {
    clearTimeout(this.#adoptTimer);
    this.#restoring = false;
    const found = this.#found;
    this.#found = [];
    this.tunnels.presume(found);
    for (const flow of found) {
      const inPort = flow.key[W_IN_PORT]!;
      const at = this.#ports.at(inPort) ?? this.tunnels.virtual.receiver(inPort, flow.key);
      if (at === undefined) this.#datapath.deleteFlow(flow.id);
      else this.revalidator.adopt(at.bridge, at.port.ofport, flow);
    }
    for (const bridge of this.bridges.values()) this.revalidator.bridgeChanged(bridge);
    await this.revalidator.settle();
  }

  #portStatus(status: DatapathPort): void {
    const at = this.#ports.at(status.portNo);
    if (at === undefined) return;
    const wasLive = at.bridge.isLive(at.port.ofport);
    at.port.datapath = status;
    if (wasLive === at.bridge.isLive(at.port.ofport)) return;
    this.revalidator.groupsChanged(at.bridge);
    void this.revalidator.settle().catch(this.#onError);
  }

  // Bridges

  async addBridge(spec: BridgeSpec): Promise<BridgeApi> {
    checkBridgeSpec(spec);
    if (this.bridges.has(spec.name))
      throw new RequestError('exists', `bridge ${spec.name} exists`, { field: 'name', status: 409 });
    const bridge = new Bridge(spec, spec.datapathId || makeMac(spec.name).replaceAll(':', '').padStart(16, '0'), this);
    this.bridges.set(spec.name, bridge);
    await this.#setLocal(bridge);
    return bridge;
  }

  async setBridge(spec: BridgeSpec): Promise<void> {
    checkBridgeSpec(spec);
    const bridge = this.#bridge(spec.name);
    bridge.configure(spec);
    await this.#setLocal(bridge);
    this.revalidator.bridgeChanged(bridge);
    await this.revalidator.settle();
  }

  async #setLocal(bridge: Bridge): Promise<void> {
    if (!this.#localDevices) return;
    await followLocal(bridge, this, (port) => this.#ports.open(bridge, port));
  }

  async deleteBridge(name: string): Promise<void> {
    const bridge = this.#bridge(name);
    for (const port of [...bridge.portList]) await this.deletePort(name, port.name);
    this.revalidator.deleteOf(bridge);
    this.bridges.delete(name);
    await this.revalidator.settle();
  }

  #bridge(name: string): Bridge {
    const bridge = this.bridges.get(name);
    if (bridge === undefined)
      throw new RequestError('no_such_bridge', `no bridge named ${name}`, { field: 'bridge', status: 404 });
    return bridge;
  }

  // Ports

  async addPort(bridgeName: string, spec: PortSpec): Promise<PortView> {
    const bridge = this.#bridge(bridgeName);
    checkPortSpec(spec);
    for (const each of this.bridges.values()) {
      if (each.findPort(spec.name))
        throw new RequestError('exists', `port ${spec.name} exists on bridge ${each.name}`, {
          field: 'name',
          status: 409,
        });
    }
    const port = new OfPort(spec, bridge.freeOfport(spec.ofportRequest), makeMac(spec.name));
    // Taken before the data plane answers, so that two requests cannot get the same name or number.
    bridge.attach(port);
    try {
      if (isVirtual(spec.type)) await this.tunnels.virtual.add(bridge, port);
      else await this.#ports.open(bridge, port);
    } catch (error) {
      bridge.detach(port);
      throw error;
    }
    this.#portsChanged(bridge, spec.type);
    await this.revalidator.settle();
    return port.view();
  }

  #portsChanged(bridge: Bridge, ...types: string[]): void {
    if (types.some(isVirtual)) this.tunnels.changed();
    else this.tunnels.virtual.resolve();
    this.revalidator.bridgeChanged(bridge);
  }

  async setPort(bridgeName: string, spec: PortSpec): Promise<PortView> {
    const bridge = this.#bridge(bridgeName);
    checkPortSpec(spec);
    let port = this.#port(bridge, spec.name);
    const before = port.spec;
    if (isVirtual(before.type) || isVirtual(spec.type)) await this.#setVirtual(bridge, port, spec);
    else if (before.type !== spec.type || !sameConfig(datapathConfig(before), datapathConfig(spec))) {
      if (before.type !== spec.type || port.dpPort === 0) this.revalidator.deleteOf(bridge, port.ofport);
      await this.#ports.change(bridge, port, spec);
    }
    const wanted = spec.ofportRequest;
    if (wanted !== 0 && wanted !== port.ofport && bridge.portOf(wanted) === undefined) {
      const { dpPort } = port;
      this.revalidator.deleteOf(bridge, port.ofport);
      bridge.detach(port);
      port = new OfPort(spec, wanted, port.mac);
      bridge.attach(port);
      this.#ports.join(bridge, port, dpPort);
    }
    const vlans = JSON.stringify([before.vlanMode, before.tag, before.trunks]);
    port.configure(spec);
    if (vlans !== JSON.stringify([spec.vlanMode, spec.tag, spec.trunks])) bridge.forgetMacs(port);
    this.#portsChanged(bridge, before.type, spec.type);
    await this.revalidator.settle();
    return port.view();
  }

  /** A port that is virtual, or is to be. */
  async #setVirtual(bridge: Bridge, port: OfPort, spec: PortSpec): Promise<void> {
    const before = port.spec;
    if (before.type === spec.type && sameConfig(datapathConfig(before), datapathConfig(spec))) return;
    this.revalidator.deleteOf(bridge, port.ofport);
    if (isVirtual(before.type)) await this.tunnels.virtual.remove(port);
    else await this.#ports.close(port);
    port.datapath = undefined;
    port.configure(spec);
    if (isVirtual(spec.type)) await this.tunnels.virtual.add(bridge, port);
    else await this.#ports.open(bridge, port);
  }

  async deletePort(bridgeName: string, name: string): Promise<void> {
    const bridge = this.#bridge(bridgeName);
    const port = this.#port(bridge, name);
    const { dpPort } = port;
    bridge.detach(port);
    this.revalidator.deleteOf(bridge, port.ofport);
    const virtual = isVirtual(port.spec.type);
    if (virtual) await this.tunnels.virtual.remove(port);
    else this.#ports.part(dpPort);
    port.dpPort = 0;
    this.#portsChanged(bridge, port.spec.type);
    await this.revalidator.settle();
    if (dpPort !== 0 && !virtual) await this.#datapath.deletePort(dpPort);
  }

  #port(bridge: Bridge, name: string): OfPort {
    const port = bridge.findPort(name);
    if (port === undefined)
      throw new RequestError('no_such_port', `no port named ${name} on bridge ${bridge.name}`, {
        field: 'port',
        status: 404,
      });
    return port;
  }

  portStatistics(bridgeName: string, name: string): PortStatistics {
    const port = this.#port(this.#bridge(bridgeName), name);
    if (isVirtual(port.spec.type)) this.revalidator.creditAll();
    return isVirtual(port.spec.type) ? virtualStatistics(port) : this.#datapath.portStatistics(port.dpPort);
  }

  // Megaflows

  datapathFlows(): readonly DatapathFlowView[] {
    this.revalidator.creditAll();
    const now = this.#now();
    return Array.from(this.revalidator.megaflows.byId.values(), (flow) => datapathFlowView(flow, now));
  }

  datapathLookups(): { hit: number; missed: number; lost: number; flows: number } {
    this.revalidator.creditAll();
    let lost = 0;
    for (const { portNo } of this.#datapath.ports()) {
      const { drops } = this.#datapath.portStatistics(portNo);
      for (const reason of LOST) lost += drops[reason] ?? 0;
    }
    return { hit: this.revalidator.hits, missed: this.#upcalls.count, lost, flows: this.revalidator.megaflows.size };
  }

  async flushDatapathFlows(): Promise<void> {
    this.#upcalls.forget();
    await this.revalidator.flush();
  }

  /** One turn of housekeeping: statistics, timeouts, ageing, idle megaflows. */
  async tick(): Promise<void> {
    if (this.#ticking) return;
    this.#ticking = true;
    try {
      const crowded = this.revalidator.megaflows.size >= this.#flowLimit;
      await this.revalidator.tick(crowded ? CROWDED_IDLE_MS : this.#maxIdleMs);
      for (const bridge of this.bridges.values()) await bridge.expire();
      await this.tunnels.tick();
    } finally {
      this.#ticking = false;
    }
  }
}
