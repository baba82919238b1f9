/** What a switch has of patch ports and tunnels: the ports, the networks under them, and what follows when these change. */
import { W_IN_PORT } from '#contract/flow-key.ts';
import type { Bridge } from './bridge.ts';
import type { Datapath } from './datapath.ts';
import type { OfPort } from './port.ts';
import type { Revalidator } from './revalidate.ts';
import type { Translator } from './translate.ts';
import type { HostNetwork } from './underlay/host.ts';
import type { Solicitation } from './underlay/solicit.ts';
import { Underlay } from './underlay/underlay.ts';
import { VirtualPorts } from './virtual-ports.ts';

export interface OverlayParts {
  readonly datapath: Datapath;
  readonly bridges: ReadonlyMap<string, Bridge>;
  readonly revalidator: Revalidator;
  readonly translator: Translator;
  readonly host: HostNetwork;
  now(): number;
  /** Told of errors that nobody waits for. */
  onError(error: unknown): void;
}

export class Overlay {
  readonly virtual: VirtualPorts;
  readonly underlay: Underlay;
  readonly #parts: OverlayParts;

  constructor(parts: OverlayParts) {
    const { datapath, bridges, host, revalidator } = parts;
    this.#parts = parts;
    this.virtual = new VirtualPorts(datapath, bridges);
    this.underlay = new Underlay(bridges, host, () => parts.now(), {
      send: (bridge, local, solicitation) => this.#send(bridge, local, solicitation),
      neighboursChanged: () => {
        revalidator.tunnelsChanged();
        void revalidator.settle().catch((error) => parts.onError(error));
      },
    });
  }

  /** Sends a frame as if a bridge's own port had. */
  #send(bridge: Bridge, local: OfPort, { frame, key }: Solicitation): void {
    const { translator, datapath, revalidator, now } = this.#parts;
    key[W_IN_PORT] = local.ofport;
    translator.run(bridge, key);
    for (const use of translator.macs)
      if (use.port !== undefined) use.bridge.macs.learn(use.key, use.vlan, use.mac, use.port, now());
    datapath.execute(local.dpPort, frame, Uint32Array.from(translator.state.program));
    revalidator.followMacs();
  }

  /** Virtual ports or the networks under them are others now: any megaflow may go another way. */
  changed(): void {
    const { virtual, underlay } = this;
    const { bridges, revalidator, translator } = this.#parts;
    virtual.resolve();
    translator.tunnels = virtual.hasTunnels ? { underlay, listenerOf: (port) => virtual.listenerOf(port) } : undefined;
    for (const bridge of bridges.values()) {
      revalidator.bridgeChanged(bridge);
      for (const port of bridge.portList) if (port.tunnel) revalidator.deleteOf(bridge, port.ofport);
    }
  }

  /** Changes what a user set of routes or neighbours; resolves when the next packet obeys. */
  async change(what: (underlay: Underlay) => void): Promise<void> {
    what(this.underlay);
    this.changed();
    await this.#parts.revalidator.settle();
  }

  /** A turn of housekeeping. */
  async tick(): Promise<void> {
    if (!this.virtual.hasTunnels || !this.underlay.tick()) return;
    this.changed();
    await this.#parts.revalidator.settle();
  }
}
