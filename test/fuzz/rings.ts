/** Runs cases of rings: which case belongs to which group, and how far a replay must go back. */
import { PacketBatch } from '#datapath/packet/batch.ts';
import { GROUP, type GroupPlan, groupPlan } from './plan.ts';
import { Random } from './random.ts';
import { type Outcome, RingCase } from './ring-case.ts';
import { RingRig } from './ring-rig.ts';

/** Streams of groups lie where no case's are. */
const GROUPS = 2 ** 52;

export class RingFuzzer {
  readonly #seed: number;
  readonly #batch = new PacketBatch();
  #group = -1;
  #rig: RingRig | undefined;
  plan: GroupPlan | undefined;
  told: readonly string[] = [];

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** First case to be run for case `index` to find everything as it was. */
  static first(index: number): number {
    return index - (index % GROUP);
  }

  run(index: number): Outcome {
    const group = Math.floor(index / GROUP);
    if (group !== this.#group) {
      this.#rig?.close();
      this.plan = groupPlan(new Random(this.#seed, GROUPS + group));
      this.#rig = new RingRig(this.plan, this.#batch);
      this.#group = group;
    }
    const one = new RingCase(new Random(this.#seed, index), this.#rig!);
    const outcome = one.run();
    this.told = one.told;
    return outcome;
  }

  close(): void {
    this.#rig?.close();
    this.#rig = undefined;
  }
}

export const groupPlanText = (fuzzer: RingFuzzer): string => JSON.stringify(fuzzer.plan);
