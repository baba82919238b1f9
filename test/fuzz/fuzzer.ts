/** All cases of one seed: every MESSAGE_EVERY-th is a conversation of messages, the others are rings. */

import { MessageRig } from './message-rig.ts';
import { conversation, toText } from './messages.ts';
import { Random } from './random.ts';
import { groupPlanText, RingFuzzer } from './rings.ts';

const MESSAGE_EVERY = 500;
/** Turns of the event loop: mappings that were let go are finalized then. */
const TURN_EVERY = 1024;

export interface Tally {
  cases: number;
  readonly seed: number;
  ringCases: number;
  hostileCases: number;
  brokenRings: number;
  packets: number;
  conversations: number;
  obeyed: number;
  refused: number;
  attached: number;
  fault?: { case: number; what: string; sent: readonly string[]; replay: string };
}

export class Fuzzer {
  readonly tally: Tally;
  readonly #rings: RingFuzzer;
  readonly #messages: MessageRig;
  readonly #seed: number;

  constructor(seed: number, dir: string) {
    this.#seed = seed;
    this.#rings = new RingFuzzer(seed);
    this.#messages = new MessageRig(dir);
    this.tally = {
      ...{ seed, cases: 0, ringCases: 0, hostileCases: 0, brokenRings: 0, packets: 0 },
      ...{ conversations: 0, obeyed: 0, refused: 0, attached: 0 },
    };
  }

  /** Runs cases first..end - 1, or up to the first that shows a fault. `tick` is called now and then. */
  async run(first: number, end: number, tick: () => void = () => {}): Promise<Tally> {
    const { tally } = this;
    for (let index = RingFuzzer.first(first); index < end && !tally.fault; index++) {
      const message = index % MESSAGE_EVERY === MESSAGE_EVERY - 1;
      // Rings of a replay's group only lead there.
      if (message && index >= first) await this.#converse(index);
      else if (!message) this.#ring(index);
      tally.cases++;
      if (index % TURN_EVERY === 0) {
        await new Promise((resolve) => setImmediate(resolve));
        tick();
      }
    }
    return tally;
  }

  close(): void {
    this.#rings.close();
    this.#messages.close();
  }

  /** What case `index`, the last that was run, consisted of. */
  sent(index: number): readonly string[] {
    if (index % MESSAGE_EVERY === MESSAGE_EVERY - 1) return conversation(new Random(this.#seed, index)).map(toText);
    return [groupPlanText(this.#rings), ...this.#rings.told];
  }

  #ring(index: number): void {
    const { tally } = this;
    const outcome = this.#rings.run(index);
    tally.ringCases++;
    tally.packets += outcome.packets;
    if (outcome.hostile) tally.hostileCases++;
    if (outcome.broken) tally.brokenRings++;
    if (outcome.fault) this.#failed(index, outcome.fault);
  }

  async #converse(index: number): Promise<void> {
    const { tally } = this;
    const { fault, obeyed, refused, attached } = await this.#messages.run(conversation(new Random(this.#seed, index)));
    tally.conversations++;
    tally.obeyed += obeyed;
    tally.refused += refused;
    tally.attached += attached;
    if (fault) this.#failed(index, fault);
  }

  #failed(index: number, what: string): void {
    const replay = `npm run fuzz -- --seed ${this.#seed} --case ${index}`;
    this.tally.fault = { case: index, what, sent: this.sent(index), replay };
  }
}
