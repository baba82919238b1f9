/**
 * Where configuration, OpenFlow state and store meet. Every change goes: check → apply to the switch → store → acknowledge;
 * what cannot be applied wholly is undone. Changes are made one after another, their fsyncs overlap.
 *
 * At start the stored configuration is applied again: bridges and ports by their final state (so that a port which the
 * data plane still runs is adopted untouched), then groups and flows in the order in which they were changed.
 */
import { randomUUID } from 'node:crypto';
import type { BridgeApi, FlowMod, GroupMod, SwitchApi } from '#ofproto/api.ts';
import { RequestError } from '#ofproto/api.ts';
import type { Datapath } from '#ofproto/datapath.ts';
import { apply, bridgeSpec, type Outcome } from './apply.ts';
import { checkChange } from './check.ts';
import { numberPorts, storedFlow } from './flow-text.ts';
import { applyChange, type Change, type Columns, type ConfigChange, emptyModel, fold, type Model } from './model.ts';
import { replay } from './replay.ts';
import { flowChanges, snapshotOf } from './snapshot.ts';
import { Store, type StoreLog } from './store.ts';

export interface ManagerLog extends StoreLog {
  info(details: object, message: string): void;
}

/** The switch with what only management needs of it. */
export interface ManagedSwitch extends SwitchApi {
  /** Open_vSwitch other_config, at start and after each change. */
  setOptions?(otherConfig: Columns): void;
  /** The stored configuration is about to be applied, which `restored` ends. */
  restoring?(): void;
  /** The stored configuration is in force: megaflows of before may be held against it. */
  restored?(): Promise<void>;
}

/** The data plane; a new `pid` means a new process, which has no options yet. */
export interface ManagedDatapath extends Datapath {
  readonly pid?: number;
}

export interface ManagerParts {
  readonly switch: ManagedSwitch;
  readonly datapath: ManagedDatapath;
  /** Folder of the stored configuration. */
  readonly config: string;
  readonly log: ManagerLog;
}

/** ms between looks whether the data plane is a new process. */
const WATCH_INTERVAL = 250;

export class Manager {
  readonly switch: ManagedSwitch;
  readonly datapath: ManagedDatapath;
  readonly #config: string;
  readonly #log: ManagerLog;
  #store: Store | undefined;
  #model: Model = emptyModel('');
  #generation = 1;
  #queue: Promise<unknown> = Promise.resolve();
  #compacting = false;
  #watch: NodeJS.Timeout | undefined;
  /**
   * Follows Open_vSwitch other_config for what management itself offers; what it throws refuses the change. It must not wait
   * for changes of its own.
   */
  onOptions: (otherConfig: Columns) => Promise<void> = async () => undefined;
  /** Why a configured port is not running: `bridge/port` → reason. */
  readonly #portErrors = new Map<string, string>();
  /** When a port was set up, ms of the monotonic clock: `bridge/port`; a bridge's own port has the bridge's name. */
  readonly #portTimes = new Map<string, number>();

  constructor(parts: ManagerParts) {
    this.switch = parts.switch;
    this.datapath = parts.datapath;
    this.#config = parts.config;
    this.#log = parts.log;
  }

  get model(): Model {
    return this.#model;
  }

  /** Open_vSwitch other_config; undefined until the store has been read. */
  get options(): Columns | undefined {
    return this.#store === undefined ? undefined : this.#model.switch.otherConfig;
  }

  /** Changes with every change of the configuration. */
  get generation(): number {
    return this.#generation;
  }

  /** Why a configured port is not running; empty when it is. */
  portError(bridge: string, port: string): string {
    return this.#portErrors.get(`${bridge}/${port}`) ?? '';
  }

  /** Seconds since a port was set up. */
  portAge(bridge: string, port: string): number {
    const since = this.#portTimes.get(`${bridge}/${port}`);
    return since === undefined ? 0 : (performance.now() - since) / 1000;
  }

  /**
   * Opens the store and applies what is in it; with an empty store, `defaults` is made and stored.
   * A port that cannot be set up stays configured and says why in its `error` column.
   * @throws Error when the store cannot be read.
   */
  async start(defaults: readonly ConfigChange[] = []): Promise<void> {
    // Reading a large store takes its time too.
    this.switch.restoring?.();
    const { store, transactions } = await Store.open(this.#config, this.#log);
    this.#store = store;
    const { model, history } = fold(transactions, randomUUID());
    this.#model = model;
    if (transactions.length === 0)
      await store.append({ time: Date.now(), changes: [{ kind: 'SetSwitch', record: model.switch }] });
    await this.#exclusive(async () => {
      await this.#pushOptions();
      for (const [name, { bridge, ports }] of model.bridges) {
        await this.switch.addBridge(bridgeSpec(bridge));
        this.#note({ kind: 'SetBridge', record: bridge });
        for (const record of ports.values()) {
          try {
            // The number in use comes back, whatever was asked for.
            const spec = { ...record, ofportRequest: record.ofport || record.ofportRequest };
            await apply(this.switch, { kind: 'SetPort', bridge: name, record: spec });
            this.#note({ kind: 'SetPort', bridge: name, record });
          } catch (error) {
            this.#portErrors.set(`${name}/${record.name}`, (error as Error).message);
            this.#log.error({ bridge: name, port: record.name, error }, 'stored port cannot be set up');
          }
        }
        await replay(this.switch.bridges.get(name)!, history.get(name) ?? [], (mod, error) => {
          this.#log.error({ bridge: name, mod, error }, 'stored change cannot be applied again');
        });
      }
    });
    if (model.bridges.size === 0 && defaults.length > 0) await this.transact(defaults);
    await this.switch.restored?.();
    if (store.wantsCompaction) await this.compact();
    this.#watchDatapath();
  }

  /** Waits for what is under way, then closes the store. */
  async stop(): Promise<void> {
    clearInterval(this.#watch);
    await this.#queue;
    await this.#store?.close();
  }

  bridge(name: string): BridgeApi {
    const bridge = this.switch.bridges.get(name);
    if (!bridge) throw new RequestError('no_such_bridge', `no bridge named ${name}`, { status: 404, field: 'bridge' });
    return bridge;
  }

  /**
   * All changes or none. @param generation refuse when the configuration has changed since.
   * @returns the new generation. @throws RequestError; its field is a path into a Transaction message.
   */
  async transact(changes: readonly ConfigChange[], generation?: number): Promise<number> {
    const { stored, now } = await this.#exclusive(async () => {
      if (generation !== undefined && generation !== this.#generation) {
        throw new RequestError('conflict', 'the configuration has changed meanwhile', {
          status: 409,
          field: 'generation',
          hint: 'read it again and repeat the request',
        });
      }
      let model = this.#model;
      for (const [at, change] of changes.entries()) {
        try {
          checkChange(model, change);
          model = applyChange(model, change);
        } catch (error) {
          throw located(at, change, error);
        }
      }
      const outcomes = await this.#applyAll(changes);
      this.#model = outcomes.reduce((folded, { change }) => applyChange(folded, change), this.#model);
      this.#generation++;
      const done: Change[] = [];
      for (const { change, flowsChanged } of outcomes) {
        done.push(change);
        this.#note(change);
        if (flowsChanged) done.push(...flowChanges(this.bridge(flowsChanged)));
      }
      return { stored: this.#append(done), now: this.#generation };
    });
    await stored;
    return now;
  }

  /** Flow mods on a bridge: all or none, stored when this resolves. @throws RequestError */
  async modifyFlows(bridge: string, mods: readonly FlowMod[]): Promise<void> {
    const stored = await this.#exclusive(async () => {
      const target = this.bridge(bridge);
      await target.modifyFlows(mods);
      const ports = portNumbers(target);
      const numbered = mods.map((mod) => ({ command: mod.command, flow: numberPorts(storedFlow(mod), ports) }));
      return { done: this.#append([{ kind: 'ModifyFlows', bridge, reset: false, mods: numbered }]) };
    });
    await stored.done;
  }

  /** As modifyFlows, with groups. */
  async modifyGroups(bridge: string, mods: readonly GroupMod[]): Promise<void> {
    const stored = await this.#exclusive(async () => {
      const target = this.bridge(bridge);
      await target.modifyGroups(mods);
      const ports = portNumbers(target);
      const numbered = mods.map(({ command, group }) => ({ command, group: numberPorts(group, ports) }));
      return { done: this.#append([{ kind: 'ModifyGroups', bridge, mods: numbered }]) };
    });
    await stored.done;
  }

  /** Hands the stored options to every new data plane. */
  #watchDatapath(): void {
    let pid = this.datapath.pid;
    let connected = this.datapath.connected;
    this.#watch = setInterval(() => {
      const { datapath } = this;
      const fresh = datapath.connected && (!connected || datapath.pid !== pid);
      pid = datapath.pid;
      connected = datapath.connected;
      if (fresh) void this.#exclusive(() => this.#pushOptions());
    }, WATCH_INTERVAL);
    this.#watch.unref();
  }

  /** Writes a snapshot of all there is. @throws Error when it cannot be written; the journal goes on then. */
  async compact(): Promise<void> {
    this.#compacting = true;
    try {
      await this.#exclusive(() => this.#store!.compact(snapshotOf(this.#model, (name) => this.bridge(name))));
    } catch (error) {
      this.#log.error({ error }, 'configuration snapshot cannot be written');
      throw error;
    } finally {
      this.#compacting = false;
    }
  }

  /** Keeps what is known of ports beside their records. */
  #note(change: ConfigChange): void {
    if (change.kind === 'SetPort') {
      const at = `${change.bridge}/${change.record.name}`;
      this.#portErrors.delete(at);
      if (!this.#portTimes.has(at)) this.#portTimes.set(at, performance.now());
    } else if (change.kind === 'SetBridge') {
      const at = `${change.record.name}/${change.record.name}`;
      if (!this.#portTimes.has(at)) this.#portTimes.set(at, performance.now());
    } else if (change.kind === 'DeletePort') {
      this.#portErrors.delete(`${change.bridge}/${change.name}`);
      this.#portTimes.delete(`${change.bridge}/${change.name}`);
    } else if (change.kind === 'DeleteBridge') {
      for (const map of [this.#portErrors, this.#portTimes]) {
        for (const at of [...map.keys()]) if (at.startsWith(`${change.name}/`)) map.delete(at);
      }
    }
  }

  async #pushOptions(): Promise<void> {
    const { otherConfig } = this.#model.switch;
    this.switch.setOptions?.(otherConfig);
    if (!this.datapath.connected) return;
    await this.datapath
      .setOptions(otherConfig)
      .catch((error: unknown) => this.#log.error({ error }, 'data plane refuses the stored options'));
  }

  /** Runs after all that was asked before; a failure there does not matter here. */
  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#queue.then(work, work);
    this.#queue = run.catch(() => undefined);
    return run;
  }

  /** Deletes that nothing after them needs go last: they cannot be undone without the guest noticing. */
  async #applyAll(changes: readonly ConfigChange[]): Promise<Outcome[]> {
    const deferred = changes.filter((change, at) => isFinalDelete(change, changes.slice(at + 1)));
    const order = [...changes.filter((change) => !deferred.includes(change)), ...deferred];
    const done: Outcome[] = [];
    try {
      for (const change of order) {
        try {
          done.push(change.kind === 'SetSwitch' ? await this.#setSwitch(change) : await apply(this.switch, change));
        } catch (error) {
          throw located(changes.indexOf(change), change, error);
        }
      }
      return done;
    } catch (error) {
      for (const outcome of done.reverse()) {
        await outcome.undo().catch((reason) => this.#log.error({ reason }, 'change cannot be undone'));
      }
      throw error;
    }
  }

  async #setSwitch(change: Extract<ConfigChange, { kind: 'SetSwitch' }>): Promise<Outcome> {
    const before = this.#model.switch.otherConfig;
    const set = async (otherConfig: Columns): Promise<void> => {
      // A data plane that is away gets the options when it is back.
      if (this.datapath.connected) await this.datapath.setOptions(otherConfig);
      this.switch.setOptions?.(otherConfig);
      await this.onOptions(otherConfig);
    };
    try {
      await set(change.record.otherConfig);
    } catch (error) {
      await set(before).catch((reason) => this.#log.error({ reason }, 'options cannot be taken back'));
      throw error;
    }
    return { change, undo: () => set(before) };
  }

  async #append(changes: readonly Change[]): Promise<void> {
    const store = this.#store!;
    try {
      await store.append({ time: Date.now(), changes });
    } catch (error) {
      throw new RequestError(
        'not_stored',
        `the change is in force but could not be stored: ${(error as Error).message}`,
        {
          status: 503,
          hint: `make room in ${this.#config}, then repeat the request`,
        },
      );
    } finally {
      if (store.wantsCompaction && !this.#compacting) this.compact().catch(() => undefined);
    }
  }
}

/** Where a change's columns stand in an Operation message. */
export const OPERATION_PATHS: Readonly<Record<ConfigChange['kind'], string>> = {
  SetSwitch: 'setSwitch',
  SetBridge: 'setBridge',
  DeleteBridge: 'deleteBridge',
  SetPort: 'setPort.port',
  DeletePort: 'deletePort',
};

/** The same error with the path of the operation before its field. */
function located(index: number, change: ConfigChange, error: unknown): RequestError {
  const at = `operations[${index}].${OPERATION_PATHS[change.kind]}`;
  const message = (error as Error).message;
  if (!(error instanceof RequestError)) return new RequestError('cannot_apply', message, { field: at });
  const { code, field, hint, status } = error;
  return new RequestError(code, message, { field: field ? `${at}.${field}` : at, hint, status });
}

function isFinalDelete(change: ConfigChange, later: readonly ConfigChange[]): boolean {
  if (change.kind !== 'DeletePort' && change.kind !== 'DeleteBridge') return false;
  return !later.some(
    (other) => other.kind === 'SetPort' || other.kind === 'SetBridge' || other.kind === 'DeleteBridge',
  );
}

const portNumbers = (bridge: BridgeApi): Map<string, number> =>
  new Map(bridge.ports().map((port) => [port.name, port.ofport] as const));
