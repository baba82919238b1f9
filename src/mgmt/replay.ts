/** Applies stored OpenFlow changes to a bridge again. */
import type { BridgeApi, FlowMod } from '#ofproto/api.ts';
import { hardTimeout } from './flow-text.ts';
import type { FlowHistory } from './model.ts';

/** A stored change that is in force no more, and why. */
export type Skipped = (mod: unknown, error: unknown) => void;

/**
 * Neighbours of one kind go together, so that the datapath is revalidated once. Flows whose hard timeout has passed are left
 * out; what leans on something that has gone since (an expired flow, say) is told to `skipped`, and the others still count.
 */
export async function replay(bridge: BridgeApi, history: readonly FlowHistory[], skipped: Skipped): Promise<void> {
  const now = Date.now();
  let flows: FlowMod[] = [];
  const flush = async (): Promise<void> => {
    if (flows.length > 0) await each(flows, (mods) => bridge.modifyFlows(mods), skipped);
    flows = [];
  };
  for (const step of history) {
    if (step.kind === 'ModifyGroups') {
      await flush();
      await each(step.mods, (mods) => bridge.modifyGroups(mods), skipped);
      continue;
    }
    if (step.reset) flows = [{ command: 'delete', flow: '' }];
    for (const mod of step.mods) {
      const lifetime = hardTimeout(mod.flow);
      if (lifetime === 0 || step.time + lifetime * 1000 > now) flows.push(mod);
    }
  }
  await flush();
}

/** All together, or one by one where that fails. */
async function each<T>(
  mods: readonly T[],
  modify: (mods: readonly T[]) => Promise<void>,
  skipped: Skipped,
): Promise<void> {
  try {
    await modify(mods);
  } catch {
    for (const mod of mods) await modify([mod]).catch((error: unknown) => skipped(mod, error));
  }
}
