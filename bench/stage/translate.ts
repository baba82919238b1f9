/**
 * The slow path: upcalls answered a second, a megaflow installed for each; and translations and flow_mods alone. The data
 * plane is one that does nothing.
 */
import { KEY_WORDS, W_IN_PORT, W_NW_DST, W_NW_SRC, W_TP, W_TYPE } from '#contract/flow-key.ts';
import type { Datapath, DatapathEvents, DatapathPort, MegaflowStats } from '#ofproto/datapath.ts';
import { Switch } from '#ofproto/switch.ts';

const FLOWS = 100_000;
const RUNS = 5;

let events: DatapathEvents;
let nextId = 0;
const ports: DatapathPort[] = [];
const nothing: Datapath = {
  connected: true,
  listen: (receiver) => {
    events = receiver;
  },
  putFlow: () => nextId++,
  setFlow: () => undefined,
  deleteFlow: () => undefined,
  flushFlows: () => undefined,
  barrier: async () => undefined,
  flowStats: (_id: number, out: MegaflowStats) => {
    out.packets = 0;
    out.bytes = 0;
    out.used = 0;
    out.tcpFlags = 0;
  },
  execute: () => undefined,
  addPort: async (config) =>
    ports.push({ ...config, portNo: ports.length + 1, state: 'up', lastError: '', linkUp: true, facts: {} }),
  setPort: async () => undefined,
  deletePort: async () => undefined,
  ports: () => ports,
  portStatistics: () => ({ counters: {} as never, drops: {} }),
  pmds: async () => [],
  clearPmdCounters: () => undefined,
  setOptions: async () => undefined,
};

const theSwitch = new Switch(nothing, { timer: false });
await theSwitch.addBridge({ name: 'br0', datapathId: '', failMode: 'secure', otherConfig: {} });
const bridge = theSwitch.bridges.get('br0')!;
for (const name of ['p1', 'p2']) {
  await theSwitch.addPort('br0', {
    name,
    type: 'dummy',
    options: {},
    ofportRequest: 0,
    tag: -1,
    trunks: [],
    vlanMode: undefined,
    mtuRequest: 0,
    config: [],
    otherConfig: {},
  });
}

const address = (n: number): string => `10.${(n >> 16) & 255}.${(n >> 8) & 255}.${n & 255}`;
const mods = Array.from({ length: FLOWS }, (_, n) => ({
  command: 'add' as const,
  flow: `in_port=1,udp,nw_src=${address(n)},nw_dst=${address(n * 7)},udp_src=${n & 0xffff},udp_dst=${(n * 3) & 0xffff},actions=output:2`,
}));
const keys = Array.from({ length: FLOWS }, (_, n) => {
  const key = new Uint32Array(KEY_WORDS);
  key[W_IN_PORT] = 1;
  key[W_TYPE] = 0x08001100;
  key[W_NW_SRC] = 0x0a000000 + n;
  key[W_NW_DST] = 0x0a000000 + ((n * 7) & 0xffffff);
  key[W_TP] = (((n & 0xffff) << 16) | ((n * 3) & 0xffff)) >>> 0;
  return key;
});
const frame = new Uint8Array(64);
const wide = new Uint32Array(64);

/** Median of some runs, in operations a second. */
async function rate(run: () => unknown, between: () => Promise<void> = async () => undefined): Promise<number> {
  const values: number[] = [];
  for (let i = 0; i < RUNS; i++) {
    await between();
    const from = performance.now();
    await run();
    values.push((FLOWS / (performance.now() - from)) * 1000);
  }
  return values.sort((a, b) => a - b)[RUNS >> 1]!;
}

const adds = await rate(
  () => bridge.modifyFlows(mods),
  () => bridge.modifyFlows([{ command: 'delete', flow: '' }]),
);
const translations = await rate(() => {
  for (const key of keys) {
    wide.set(key);
    theSwitch.translator.run(bridge, wide);
  }
});
const upcalls = await rate(
  () => {
    for (const key of keys) events.upcall({ worker: 0, inPort: 1, key, frame });
  },
  () => theSwitch.flushDatapathFlows(),
);
theSwitch.close();
const thousands = (value: number): string => `${(value / 1000).toFixed(0)} k/s`;
console.log(
  `translate: ${upcalls.toFixed(0)} upcalls/s (translations ${thousands(translations)}, flow_mods ${thousands(adds)})`,
);
