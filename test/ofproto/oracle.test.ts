/** Cached verdict = verdict of a naive switch, over random tables, ports and packets, with changes in between. */
import test from 'ava';
import { RequestError } from '#ofproto/api.ts';
import type { Bridge } from '#ofproto/bridge.ts';
import { parseFlowMod } from '#ofproto/flow-parse.ts';
import { parseGroupMod } from '#ofproto/group-parse.ts';
import { WORDS } from '#ofproto/subtable.ts';
import { Switch } from '#ofproto/switch.ts';
import { FakeDatapath, runProgram } from '../support/fake-datapath.ts';
import { type NaivePort, NaiveSwitch } from '../support/naive-switch.ts';
import {
  Dice,
  randomActions,
  randomGroup,
  randomMatch,
  randomPacket,
  randomPort,
  type World,
} from '../support/random-tables.ts';

const PACKETS = Number(process.env['RINGWAY_ORACLE_PACKETS'] ?? 100_000);
const WORLDS = 40;

interface Rig {
  readonly dice: Dice;
  readonly world: World;
  readonly datapath: FakeDatapath;
  readonly theSwitch: Switch;
  readonly bridge: Bridge;
  readonly naive: NaiveSwitch;
}

async function build(seed: number): Promise<Rig> {
  const dice = new Dice(seed);
  const datapath = new FakeDatapath();
  const theSwitch = new Switch(datapath, { timer: false });
  await theSwitch.addBridge({ name: 'br0', datapathId: '', failMode: 'secure', otherConfig: {} });
  const bridge = theSwitch.bridges.get('br0')!;
  const world = { ports: 5, tables: 4, normal: seed % 2 === 0, groups: [1, 2, 3] };
  const rig = { dice, world, datapath, theSwitch, bridge, naive: new NaiveSwitch() };
  // The numbers of datapath and OpenFlow ports differ, so that none is taken for the other.
  await datapath.addPort({ name: 'other', type: 'dummy', options: {}, mtu: 1500 });
  for (let n = 1; n <= world.ports; n++) await theSwitch.addPort('br0', randomPort(dice, `p${n}`));
  tellPorts(rig);
  for (const id of world.groups) await changeGroup(rig, id);
  for (let i = 0; i < 30; i++) await addFlow(rig);
  return rig;
}

function tellPorts({ naive, bridge, datapath }: Rig): void {
  const learned = [...naive.fdb].map(([key, port]) => [key, port.ofport] as const);
  naive.ports = bridge.portList.map(
    (port): NaivePort => ({
      ofport: port.ofport,
      dpPort: port.dpPort,
      mode: port.spec.vlanMode!,
      vlan: Math.max(0, port.spec.tag),
      trunks: port.spec.trunks,
      live: datapath.portMap.get(port.dpPort)!.linkUp,
      floods: !port.spec.config.includes('no-flood'),
    }),
  );
  naive.fdb = new Map(learned.map(([key, ofport]) => [key, naive.ports.find((port) => port.ofport === ofport)!]));
}

async function change(rig: Rig, command: Parameters<typeof parseFlowMod>[0], flow: string): Promise<void> {
  const { bridge, naive } = rig;
  let spec: ReturnType<typeof parseFlowMod>;
  try {
    spec = parseFlowMod(command, flow, bridge.portNames);
  } catch (error) {
    if (error instanceof RequestError) return;
    throw error;
  }
  // Which of two overlapping flows of one priority is taken is not defined: keep them apart.
  const clash =
    (command === 'add' || command.startsWith('modify')) &&
    naive.flows.some((old) => old.table === spec.table && old.priority === spec.priority);
  if (clash && command === 'add') return;
  if (command.startsWith('modify') && !clash && spec.table === 255) return;
  await bridge.modifyFlows([{ command, flow }]);
  naive.apply(spec);
}

async function addFlow(rig: Rig): Promise<void> {
  const { dice, world } = rig;
  const table = dice.below(world.tables);
  const { text, has, vlan } = randomMatch(dice, world, table);
  const actions = randomActions(dice, world, table, has, vlan);
  await change(rig, 'add', `table=${table},priority=${dice.below(60_000)}${text && `,${text}`},actions=${actions}`);
}

async function changeGroup({ dice, world, bridge, naive }: Rig, id: number): Promise<void> {
  const group = randomGroup(dice, world, id);
  await bridge.modifyGroups([{ command: 'add_or_modify', group }]);
  naive.groups.set(id, parseGroupMod('add', group, bridge.portNames));
}

async function disturb(rig: Rig): Promise<string> {
  const { dice, world, bridge, naive, theSwitch, datapath } = rig;
  const table = dice.below(world.tables);
  const kind = dice.below(12);
  if (kind <= 3) await addFlow(rig);
  else if (kind <= 5)
    await change(rig, 'delete', `table=${table},${randomMatch(dice, world, table).text}`.replace(/,$/, ''));
  else if (kind === 6 && naive.flows.length > 0) {
    const victim = dice.pick(naive.flows);
    const view = bridge.dumpFlows(`table=${victim.table}`).find(({ priority }) => priority === victim.priority)!;
    await change(
      rig,
      'delete_strict',
      `table=${view.table},priority=${view.priority}${view.match && `,${view.match}`}`,
    );
  } else if (kind === 7) {
    const { text, has, vlan } = randomMatch(dice, world, table);
    const filter = `table=${table}${text && `,${text}`}`;
    if (bridge.dumpFlows(filter).length > 0)
      await change(rig, 'modify', `${filter},actions=${randomActions(dice, world, table, has, vlan)}`);
  } else if (kind === 8) await changeGroup(rig, dice.pick(world.groups));
  else if (kind === 9) {
    const name = `p${1 + dice.below(world.ports)}`;
    await theSwitch.setPort('br0', { ...randomPort(dice, name), ofportRequest: 0 });
    const ofport = bridge.findPort(name)!.ofport;
    naive.fdb = new Map(
      [...naive.fdb].filter(
        ([, port]) => port.ofport !== ofport || bridge.fdb().some((entry) => entry.port === ofport),
      ),
    );
    tellPorts(rig);
  } else if (kind === 10) {
    await bridge.flushFdb();
    naive.fdb.clear();
  } else {
    const port = bridge.portList[dice.below(bridge.portList.length)]!;
    datapath.setLink(port.dpPort, !datapath.portMap.get(port.dpPort)!.linkUp);
    tellPorts(rig);
    await theSwitch.revalidator.settle();
  }
  return String(kind);
}

const show = (outputs: readonly { port: number; key: Uint32Array }[]): string =>
  outputs.map(({ port, key }) => `${port}:${[...key].map((word) => word.toString(16)).join(' ')}`).join('\n');

test(`the cached verdict is that of a naive switch, ${PACKETS} packets in ${WORLDS} worlds`, async (t) => {
  let hits = 0;
  let sent = 0;
  let changes = 0;
  for (let seed = 1; seed <= WORLDS; seed++) {
    const rig = await build(seed);
    const { dice, datapath, bridge, naive, theSwitch, world } = rig;
    const history: string[] = [];
    for (let i = 0; i < PACKETS / WORLDS; i++) {
      if (dice.chance(3)) {
        history.push(await disturb(rig));
        changes++;
      }
      const port = dice.pick(naive.ports);
      const packet = randomPacket(dice, port.dpPort, !world.normal);
      const ofPacket = new Uint32Array(WORDS);
      ofPacket.set(packet);
      ofPacket[0] = port.ofport;
      const expected = show(naive.receive(ofPacket));
      naive.learn();
      const verdict = datapath.receive(packet);
      if (!verdict.upcall) hits++;
      if (verdict.outputs.length > 0) sent++;
      if (show(verdict.outputs) !== expected) {
        const story = bridge.trace(`in_port=${port.ofport}`);
        t.is(
          show(verdict.outputs),
          expected,
          `seed ${seed}, packet ${i}, ${verdict.upcall ? 'upcall' : 'cached'}: ${[...packet].map((w) => w.toString(16))}; changes ${history.join()}\n${story.text}`,
        );
        return;
      }
    }
    // Every megaflow that a packet falls into gives the same.
    for (let i = 0; i < 200; i++) {
      const packet = randomPacket(dice, dice.pick(naive.ports).dpPort, !world.normal);
      const results = new Set(
        datapath.matching(packet).map((id) => show(runProgram(datapath.flows.get(id)!.actions, packet).outputs)),
      );
      t.true(results.size <= 1, `seed ${seed}: megaflows disagree`);
    }
    theSwitch.close();
  }
  t.log(`${hits} hits, ${sent} packets sent on, ${changes} changes`);
  t.true(hits > PACKETS / 20, `${hits} hits`);
});
