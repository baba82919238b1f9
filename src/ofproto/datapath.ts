/**
 * The data plane as ofproto sees it. Implemented over the contract by datapath-client.ts, and by a fake in tests.
 *
 * Megaflows live in every worker; ids are given out here and are also slots of the shared statistics (contract/lane.ts).
 */
import type { PortCounter, WorkerCounter } from '#contract/catalogue.ts';

/** A packet that no megaflow matched. Arrays are views into shared memory: good until the handler returns. */
export interface Upcall {
  readonly worker: number;
  /** Datapath port number. */
  readonly inPort: number;
  /** KEY_WORDS words (contract/flow-key.ts). */
  readonly key: Uint32Array;
  readonly frame: Uint8Array;
}

/** A megaflow: words of `key` lie within `mask`; both KEY_WORDS long; in_port is always matched wholly. */
export interface Megaflow {
  readonly key: Uint32Array;
  readonly mask: Uint32Array;
  /** Datapath action program (contract/actions.ts). */
  readonly actions: Uint32Array;
}

export interface InstalledMegaflow extends Megaflow {
  readonly id: number;
}

/** Answer to an upcall: `actions` are run on the packet; undefined loses it (reason `upcall_unanswered`). */
export interface UpcallAnswer {
  readonly actions: Uint32Array | undefined;
}

export interface MegaflowStats {
  packets: number;
  bytes: number;
  /** Time of the last packet, ms since the epoch; 0 = never. */
  used: number;
  tcpFlags: number;
}

/** What the control plane asks for when it adds a port; see ports/port.ts for the data plane's side. */
export interface DatapathPortConfig {
  readonly name: string;
  /** vhost-user, dpdkvhostuser, dpdkvhostuserclient, dummy, … */
  readonly type: string;
  readonly options: Readonly<Record<string, string>>;
  /** Largest Ethernet payload in bytes; 1500 where not said. */
  readonly mtu: number;
}

export interface DatapathPort extends DatapathPortConfig {
  readonly portNo: number;
  readonly state: string;
  readonly lastError: string;
  readonly linkUp: boolean;
  readonly facts: Readonly<Record<string, string>>;
}

export interface RxqInfo {
  readonly portNo: number;
  readonly queue: number;
  readonly enabled: boolean;
  /** Cycles that this queue took over the last minute, as a share of the worker's: 0..1; NaN when not known. */
  readonly usage: number;
  /** Why it is on this worker: round robin, load, or pinned. */
  readonly why: string;
}

export interface PmdInfo {
  readonly worker: number;
  /** CPU it is pinned to; -1 when free. */
  readonly core: number;
  readonly numa: number;
  readonly isolated: boolean;
  readonly asleep: boolean;
  readonly rxqs: readonly RxqInfo[];
  readonly counters: Readonly<Record<WorkerCounter, number>>;
}

export interface PortStatistics {
  readonly counters: Readonly<Record<PortCounter, number>>;
  /** Drop reason → packets; reasons that never happened are left out. */
  readonly drops: Readonly<Record<string, number>>;
}

export interface DatapathEvents {
  /** Must answer at once and never throw. */
  upcall(upcall: Upcall): UpcallAnswer;
  portStatus(port: DatapathPort): void;
  /** The data plane was (re)started or adopted: `ports` and `flows` are what it holds now. */
  connected(ports: readonly DatapathPort[], flows: readonly InstalledMegaflow[]): void;
  disconnected(): void;
}

export interface Datapath {
  readonly connected: boolean;
  /** One receiver. */
  listen(events: DatapathEvents): void;
  /** Installs a megaflow in all workers. @returns its id, or -1 when MAX_FLOWS or the flow limit is reached. */
  putFlow(flow: Megaflow): number;
  /** Gives an installed megaflow other actions. */
  setFlow(id: number, flow: Megaflow): void;
  /**
   * Deletes a megaflow. When no worker can count on it any more, `gone` is told its final statistics, and the id may be
   * given out again.
   */
  deleteFlow(id: number, gone?: (final: MegaflowStats) => void): void;
  flushFlows(): void;
  /** Resolves when every worker has done all that was asked before. */
  barrier(): Promise<void>;
  flowStats(id: number, out: MegaflowStats): void;
  /** Runs a program on a frame, as if it had come in at `inPort`. */
  execute(inPort: number, frame: Uint8Array, actions: Uint32Array): void;
  /** @throws Error with the data plane's own reason. @returns datapath port number. */
  addPort(config: DatapathPortConfig): Promise<number>;
  setPort(portNo: number, config: DatapathPortConfig): Promise<void>;
  deletePort(portNo: number): Promise<void>;
  ports(): readonly DatapathPort[];
  portStatistics(portNo: number): PortStatistics;
  pmds(): Promise<readonly PmdInfo[]>;
  clearPmdCounters(): void;
  /** Open_vSwitch other_config keys that the data plane obeys: pmd-cpu-mask, pmd-rxq-assign, pmd-sleep-max, … */
  setOptions(options: Readonly<Record<string, string>>): Promise<void>;
}
