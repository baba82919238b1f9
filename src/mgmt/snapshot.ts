/** All of the configuration and OpenFlow state as transactions that make it anew. */
import type { BridgeApi, FlowMod, FlowView } from '#ofproto/api.ts';
import { flowText, groupAdd } from './flow-text.ts';
import type { Change, Model, Transaction } from './model.ts';

/** Flows stored in one record. */
const CHUNK = 5_000;

/** The flows of a bridge as changes that make them anew. */
export function flowChanges(bridge: BridgeApi): Change[] {
  const mods = oldestFirst(bridge.dumpFlows('', { actions: 'exact' })).map(
    (flow): FlowMod => ({ command: 'add', flow: flowText(flow) }),
  );
  return [{ kind: 'ModifyFlows', bridge: bridge.spec.name, reset: true, mods }];
}

/** A flow that was checked for overlaps passes that check again when those before it come first. */
const oldestFirst = (flows: readonly FlowView[]): FlowView[] => [...flows].sort((a, b) => b.duration - a.duration);

/** Bit by bit, so that the store can write in between and upcalls are answered meanwhile. */
export function* snapshotOf(model: Model, bridgeOf: (name: string) => BridgeApi): Generator<Transaction> {
  const time = Date.now();
  yield { time, changes: [{ kind: 'SetSwitch', record: model.switch }] };
  for (const [name, { bridge, ports }] of model.bridges) {
    yield { time, changes: [{ kind: 'SetBridge', record: bridge }] };
    const changes = [...ports.values()].map((record): Change => ({ kind: 'SetPort', bridge: name, record }));
    if (changes.length > 0) yield { time, changes };
    const groups = bridgeOf(name).groups().map(groupAdd);
    if (groups.length > 0) yield { time, changes: [{ kind: 'ModifyGroups', bridge: name, mods: groups }] };
    yield { time, changes: [{ kind: 'ModifyFlows', bridge: name, reset: true, mods: [] }] };
    for (const { table, active } of bridgeOf(name).tables()) {
      if (active > 0)
        yield* tableFlows(name, oldestFirst(bridgeOf(name).dumpFlows(`table=${table}`, { actions: 'exact' })), time);
    }
  }
}

function* tableFlows(bridge: string, flows: readonly FlowView[], now: number): Generator<Transaction> {
  let mods: FlowMod[] = [];
  const record = (time: number): Transaction => {
    const change: Change = { kind: 'ModifyFlows', bridge, reset: false, mods };
    mods = [];
    return { time, changes: [change] };
  };
  for (const flow of flows) {
    const timed = flow.hardTimeout > 0;
    if (mods.length > 0 && (timed || mods.length >= CHUNK)) yield record(now);
    mods.push({ command: 'add', flow: flowText(flow) });
    // The record's time says when a hard timeout runs out; it counts from the last change.
    if (timed) yield record(now - flow.hardAge * 1000);
  }
  if (mods.length > 0) yield record(now);
}
