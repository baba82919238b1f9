/** Patch ports: one translation through several bridges. */
import test from 'ava';
import { OFPP_LOCAL } from '#ofproto/ofp-port.ts';
import { OfprotoRig } from '../support/ofproto-rig.ts';
import { startOvsDummy, unavailable } from '../support/ovs-dummy.ts';
import { portSpec } from '../support/random-tables.ts';

const patch = (name: string, peer: string, ofportRequest = 0) =>
  portSpec(name, { type: 'patch', options: { peer }, ofportRequest });

/** br0 with p1, p2 and patch port pa (10); br1 with q1 (1), q2 (2) and patch port pb (20). */
async function twoBridges(failMode: 'standalone' | 'secure' = 'standalone'): Promise<OfprotoRig> {
  const rig = await OfprotoRig.start([{}, {}], { failMode });
  await rig.theSwitch.addBridge({ name: 'br1', datapathId: '', failMode, otherConfig: {} });
  for (const name of ['q1', 'q2']) await rig.theSwitch.addPort('br1', portSpec(name, {}));
  await rig.theSwitch.addPort('br0', patch('pa', 'pb', 10));
  await rig.theSwitch.addPort('br1', patch('pb', 'pa', 20));
  return rig;
}

const A = '00:00:00:00:00:0a';
const B = '00:00:00:00:00:0b';

test('NORMAL floods across, learns in both bridges, and sends replies one way only', async (t) => {
  const rig = await twoBridges();
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=ff:ff:ff:ff:ff:ff`), '2,3,4!');
  const [br0, br1] = ['br0', 'br1'].map((name) => rig.theSwitch.bridges.get(name)!);
  t.like(br1!.fdb()[0], { mac: A, portName: 'pb', port: 20 });
  t.like(br0!.fdb()[0], { mac: A, portName: 'p1', port: 1 });
  // q1 is datapath port 3.
  const key = rig.packet(`in_port=1,dl_src=${B},dl_dst=${A}`);
  key[0] = 3;
  t.deepEqual(
    rig.datapath.receive(key).outputs.map(({ port }) => port),
    [1],
  );
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=${B}`), '3!');
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=${B}`), '3');
});

test('both ports of a pair count what passes, in its direction', async (t) => {
  const rig = await twoBridges();
  for (let i = 0; i < 3; i++) rig.send(`in_port=1,dl_src=${A},dl_dst=ff:ff:ff:ff:ff:ff`, 100);
  const { counters: out } = rig.theSwitch.portStatistics('br0', 'pa');
  const { counters: into } = rig.theSwitch.portStatistics('br1', 'pb');
  t.like(out, { tx_packets: 3, tx_bytes: 300, rx_packets: 0 });
  t.like(into, { rx_packets: 3, rx_bytes: 300, tx_packets: 0 });
});

test('registers, metadata and tunnel id stay in their bridge; packet fields go along and come back', async (t) => {
  const rig = await twoBridges('secure');
  await rig.add(
    'table=0,actions=load:5->NXM_NX_REG0[],load:7->NXM_NX_TUN_ID[],mod_dl_dst:00:00:00:00:00:01,output:10,resubmit(,1)',
  );
  await rig.add('table=1,reg0=5,tun_id=7,dl_dst=00:00:00:00:00:01,actions=output:2');
  const br1 = rig.theSwitch.bridges.get('br1')!;
  await br1.modifyFlows([
    { command: 'add', flow: 'priority=9,reg0=5,actions=drop' },
    { command: 'add', flow: 'priority=8,tun_id=7,actions=drop' },
    { command: 'add', flow: 'in_port=20,dl_dst=00:00:00:00:00:01,actions=mod_dl_dst:00:00:00:00:00:02,output:1' },
  ]);
  const { outputs } = rig.send(`in_port=1,dl_src=${A},dl_dst=${B}`);
  t.deepEqual(
    outputs.map(({ port, key }) => [port, key[2], key[3]! >>> 16]),
    [
      [3, 0, 2],
      [2, 0, 1],
    ],
  );
});

test('flows of the other bridge are obeyed at once, and its packets counted', async (t) => {
  const rig = await twoBridges();
  const br1 = rig.theSwitch.bridges.get('br1')!;
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=${B}`), '2,3,4!');
  await br1.modifyFlows([{ command: 'add', flow: `priority=5,in_port=20,dl_dst=${B},actions=output:2` }]);
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=${B}`), '2,4');
  t.is(br1.dumpFlows('in_port=20')[0]!.packets, 1);
  await rig.theSwitch.deletePort('br1', 'pb');
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=${B}`), '2');
  await rig.theSwitch.addPort('br1', patch('pb', 'pa', 20));
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=${B}`), '2,4');
});

test('a station that moves behind a patch port is followed in every bridge', async (t) => {
  const rig = await twoBridges();
  const from = (port: number, text: string) => {
    const key = rig.packet(`in_port=1,${text}`);
    key[0] = port;
    return rig.datapath.receive(key).outputs.map((output) => output.port);
  };
  from(3, `dl_src=${B},dl_dst=ff:ff:ff:ff:ff:ff`);
  t.deepEqual(from(1, `dl_src=${A},dl_dst=${B}`), [3]);
  from(4, `dl_src=${B},dl_dst=ff:ff:ff:ff:ff:ff`);
  t.deepEqual(from(1, `dl_src=${A},dl_dst=${B}`), [4]);
  from(2, `dl_src=${B},dl_dst=ff:ff:ff:ff:ff:ff`);
  t.deepEqual(from(1, `dl_src=${A},dl_dst=${B}`), [2]);
});

test('a pair that cannot work says why, and how to put it right', async (t) => {
  const rig = await twoBridges();
  const error = async (spec: ReturnType<typeof patch>, bridge = 'br0') =>
    (await rig.theSwitch.addPort(bridge, spec)).datapath!.lastError;
  t.regex(await error(patch('c1', 'nobody')), /there is no port nobody yet: add it with type=patch and peer=c1/);
  t.regex(await error(patch('c2', 'c2')), /c2 is its own peer/);
  t.regex(await error(patch('c3', 'q1')), /q1 is no patch port/);
  t.regex(await error(patch('c4', 'pb')), /pb has another peer: set its option peer to c4/);
  t.regex(await error(portSpec('c5', { type: 'patch' })), /option peer is missing/);
  t.is(await error(patch('nobody', 'c1'), 'br1'), '');
  t.is(rig.bridge.port('c1')!.datapath!.lastError, '', 'the first is well once the other is there');
  await t.throwsAsync(rig.theSwitch.addPort('br0', portSpec('c6', { type: 'patch', options: { pear: 'x' } })), {
    message: /no option pear/,
  });
  await rig.theSwitch.setPort('br1', portSpec('nobody', { type: '' }));
  t.regex(rig.bridge.port('c1')!.datapath!.lastError, /nobody is no patch port/);
});

test('a ring of patch ports ends in a drop that says so', async (t) => {
  const rig = await twoBridges();
  await rig.theSwitch.addPort('br0', patch('ra', 'rb'));
  await rig.theSwitch.addPort('br1', patch('rb', 'ra'));
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=ff:ff:ff:ff:ff:ff`), 'translation_error!');
});

test('a bridge with patch ports goes, and nothing refers to it', async (t) => {
  const rig = await twoBridges();
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=${B}`), '2,3,4!');
  await rig.theSwitch.deleteBridge('br1');
  rig.send(`in_port=1,dl_src=${A},dl_dst=${B}`);
  t.is(rig.fate(`in_port=1,dl_src=${A},dl_dst=${B}`), '2');
  t.regex(rig.bridge.port('pa')!.datapath!.lastError, /there is no port pb/);
});

const FLOWS = ['in_port=1,actions=mod_dl_dst:00:00:00:00:00:05,output:10,output:2', 'in_port=10,actions=output:1'];
const PEER_FLOWS = [
  'in_port=20,ip,actions=mod_dl_src:00:00:00:00:00:06,output:1,output:20,IN_PORT',
  'in_port=20,arp,actions=NORMAL',
];
const PACKETS = ['in_port=1,ip,dl_src=00:00:00:00:00:01', 'in_port=1,arp,dl_src=00:00:00:00:00:01', 'in_port=2,tcp'];

const reason = unavailable();
const live = reason === undefined ? test : test.skip;
live(`a trace through a patch port reads as that of Open vSwitch${reason ? ` (${reason})` : ''}`, async (t) => {
  const ovs = await startOvsDummy(2);
  try {
    await ovs.vsctl('add-br', 'br1', '--', 'set', 'bridge', 'br1', 'datapath_type=dummy', 'fail_mode=secure');
    const ports: [string, string, string, number][] = [
      ['br0', 'pa', 'pb', 10],
      ['br1', 'pb', 'pa', 20],
    ];
    for (const [bridge, name, peer, number] of ports)
      await ovs.vsctl(
        'add-port',
        bridge,
        name,
        '--',
        'set',
        'Interface',
        name,
        'type=patch',
        `options:peer=${peer}`,
        `ofport_request=${number}`,
      );
    for (const name of ['q1', 'q2'])
      await ovs.vsctl(
        'add-port',
        'br1',
        name,
        '--',
        'set',
        'Interface',
        name,
        'type=dummy',
        `ofport_request=${name[1]}`,
      );
    for (const flow of FLOWS) await ovs.ofctlOk(['add-flow', 'br0', flow]);
    for (const flow of PEER_FLOWS) await ovs.ofctlOk(['add-flow', 'br1', flow]);
    const rig = await twoBridges('secure');
    await rig.add(...FLOWS);
    await rig.theSwitch.bridges.get('br1')!.modifyFlows(PEER_FLOWS.map((flow) => ({ command: 'add', flow })));
    const story = (text: string): string => text.replace(/\nMegaflow:.*$/s, '');
    for (const packet of PACKETS)
      t.is(story(rig.bridge.trace(packet).text), story(await ovs.appctlOk('ofproto/trace', 'br0', packet)), packet);
  } finally {
    await ovs.stop();
  }
});

test('a patch port is live while its peer is there', async (t) => {
  const rig = await twoBridges('secure');
  t.true(rig.bridge.isLive(10));
  await rig.theSwitch.deletePort('br1', 'pb');
  t.false(rig.bridge.isLive(10));
  t.false(rig.bridge.isLive(OFPP_LOCAL));
});
