/**
 * Answers to packets that no megaflow matched: each is translated, its MAC address learned, its megaflow installed, and its
 * actions given back. Packets of one flow that queued up behind the first find the megaflow that it made and cost no
 * translation of their own.
 */
import { drop } from '#contract/actions.ts';
import { dropReason } from '#contract/catalogue.ts';
import { W_IN_PORT } from '#contract/flow-key.ts';
import type { Upcall, UpcallAnswer } from './datapath.ts';
import type { DatapathPorts } from './datapath-ports.ts';
import type { InstalledFlow } from './megaflow.ts';
import type { Overlay } from './overlay.ts';
import type { Revalidator } from './revalidate.ts';
import { WORDS } from './subtable.ts';
import type { Translator } from './translate.ts';

const NO_SUCH_PORT = Uint32Array.from(drop(dropReason('no_such_port')));

export interface UpcallContext {
  readonly ports: DatapathPorts;
  readonly tunnels: Overlay;
  readonly revalidator: Revalidator;
  readonly translator: Translator;
  readonly now: () => number;
}

export class Upcalls {
  /** Packets answered so far. */
  count = 0;
  readonly #context: UpcallContext;
  readonly #key = new Uint32Array(WORDS);
  #recent: InstalledFlow | undefined;

  constructor(context: UpcallContext) {
    this.#context = context;
  }

  /** The megaflows are gone. */
  forget(): void {
    this.#recent = undefined;
  }

  /** @param flowLimit megaflows from which on no more are installed. */
  answer({ inPort, key, frame }: Upcall, flowLimit: number): UpcallAnswer {
    this.count++;
    const { ports, tunnels, revalidator, translator } = this.#context;
    const at = ports.at(inPort) ?? tunnels.virtual.receiver(inPort, key);
    if (at === undefined) return { actions: NO_SUCH_PORT };
    const { bridge, port } = at;
    const now = this.#context.now();
    const recent = this.#recent;
    if (recent?.installed && recent.maskClass.matches(recent.flow, key)) {
      revalidator.creditTo(recent, 1, frame.length, now);
      revalidator.followMacs();
      return { actions: recent.flow.actions };
    }
    const ofKey = this.#key;
    ofKey.set(key);
    ofKey[W_IN_PORT] = port.ofport;
    translator.run(bridge, ofKey);
    const actions = revalidator.megaflows.program(translator.state.program);
    const { credits, macs } = translator;
    if (!translator.slow && revalidator.megaflows.size < flowLimit)
      this.#recent = revalidator.install(bridge, port.ofport, key);
    for (const use of macs)
      if (use.port !== undefined) use.bridge.macs.learn(use.key, use.vlan, use.mac, use.port, now);
    revalidator.creditTo({ credits, macs: [] }, 1, frame.length, now);
    revalidator.followMacs();
    tunnels.underlay.ask();
    return { actions };
  }
}
