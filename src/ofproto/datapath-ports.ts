/** Which ports of bridges the data plane's ports are, and their making, changing and ending there. */
import type { PortSpec } from './api.ts';
import type { Bridge } from './bridge.ts';
import type { Datapath } from './datapath.ts';
import type { OfPort } from './port.ts';
import { datapathConfig, sameConfig } from './specs.ts';

/** A port and its bridge. */
export interface PortPlace {
  readonly bridge: Bridge;
  readonly port: OfPort;
}

export class DatapathPorts {
  readonly #datapath: Datapath;
  readonly #byNumber: (PortPlace | undefined)[] = [];

  constructor(datapath: Datapath) {
    this.#datapath = datapath;
  }

  /** Whose a port of the data plane is; undefined when it is none of ours. */
  at(dpPort: number): PortPlace | undefined {
    return this.#byNumber[dpPort];
  }

  /** The data plane is another: no port is known to it yet. */
  clear(): void {
    this.#byNumber.length = 0;
  }

  /** A port of a bridge has this one in the data plane from now on. */
  join(bridge: Bridge, port: OfPort, dpPort: number): void {
    port.dpPort = dpPort;
    port.datapath = this.#datapath.ports().find(({ portNo }) => portNo === dpPort);
    this.#byNumber[dpPort] = { bridge, port };
  }

  /** Packets of a port of the data plane are nobody's from now on. */
  part(dpPort: number): void {
    this.#byNumber[dpPort] = undefined;
  }

  /** Takes the port of this name where the data plane has one already, else makes one. */
  async open(bridge: Bridge, port: OfPort): Promise<void> {
    this.join(bridge, port, await this.#make(port.spec));
  }

  /** Makes a port that a new data plane does not know; what hinders it is told in the port's state. */
  async putBack(bridge: Bridge, port: OfPort): Promise<void> {
    const config = datapathConfig(port.spec);
    try {
      this.join(bridge, port, await this.#datapath.addPort(config));
    } catch (error) {
      const lastError = (error as Error).message;
      port.datapath = { ...config, portNo: 0, state: 'error', lastError, linkUp: false, facts: {} };
    }
  }

  /** Gives a port what `spec` says: its own port changes where it can, and is replaced where the type differs. */
  async change(bridge: Bridge, port: OfPort, spec: PortSpec): Promise<void> {
    const config = datapathConfig(spec);
    if (port.spec.type === spec.type && port.dpPort !== 0) await this.#datapath.setPort(port.dpPort, config);
    else {
      await this.close(port);
      this.join(bridge, port, await this.#datapath.addPort(config));
    }
  }

  /** Ends the data plane's port of a port, if it has one. */
  async close(port: OfPort): Promise<void> {
    const { dpPort } = port;
    port.dpPort = 0;
    this.part(dpPort);
    if (dpPort !== 0) await this.#datapath.deletePort(dpPort);
  }

  async #make(spec: PortSpec): Promise<number> {
    const config = datapathConfig(spec);
    const old = this.#datapath.ports().find(({ name }) => name === spec.name);
    if (old === undefined || old.type !== config.type) {
      if (old !== undefined) await this.#datapath.deletePort(old.portNo);
      return this.#datapath.addPort(config);
    }
    if (!sameConfig(old, config)) await this.#datapath.setPort(old.portNo, config);
    return old.portNo;
  }
}
