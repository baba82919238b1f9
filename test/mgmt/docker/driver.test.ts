import test from 'ava';
import { createEndpoint, createNetwork, id, type Rig, startRig } from './rig.ts';

async function withRig(body: (rig: Rig) => Promise<void>): Promise<void> {
  const rig = await startRig();
  try {
    await body(rig);
  } finally {
    await rig.stop();
  }
}

const HOST_END = `rwh-${id(20).slice(0, 11)}`;
const GATEWAY = `rwg-${id(1).slice(0, 11)}`;
const BRIDGE = `rw-${id(1).slice(0, 12)}`;

test('a network is a bridge whose own device has the gateway address and the MTU', async (t) => {
  await withRig(async ({ ask, manager, datapath }) => {
    t.deepEqual(await ask('CreateNetwork', createNetwork(1, { options: { 'ringway.mtu': '9000' } })), {});
    t.is(manager.model.bridges.get(BRIDGE)!.ports.size, 0);
    const device = datapath.ports().find(({ name }) => name === BRIDGE)!;
    t.like(device, { type: 'internal', mtu: 9000 });
    t.is(device.options['address'], '172.30.0.1/24');
  });
});

test('both families have their gateway', async (t) => {
  await withRig(async ({ ask, datapath }) => {
    await ask('CreateNetwork', createNetwork(1, { v6: { Pool: 'fd00:7::/64', Gateway: 'fd00:7::1/64' } }));
    t.is(datapath.ports()[0]?.options['address'], '172.30.0.1/24,fd00:7::1/64');
    await ask('CreateEndpoint', createEndpoint(1, 20, { AddressIPv6: 'fd00:7::2/64' }));
    const joined = await ask('Join', { NetworkID: id(1), EndpointID: id(20), SandboxKey: '/x', Options: {} });
    t.is(joined.Gateway, '172.30.0.1');
    t.is(joined.GatewayIPv6, 'fd00:7::1');
  });
});

test('a network without a device for its gateway is refused', async (t) => {
  await withRig(async ({ ask, manager, datapath }) => {
    datapath.addPort = async () => {
      throw new Error('the data plane needs CAP_NET_ADMIN');
    };
    t.regex(
      (await ask('CreateNetwork', createNetwork(1))).Err,
      /gateway has no device: .*CAP_NET_ADMIN: run the switch as root/,
    );
    t.is(manager.model.bridges.size, 0);
  });
});

test('an endpoint is a veth pair with a system port, and a join hands its other end over', async (t) => {
  await withRig(async ({ ask, manager, links }) => {
    await ask('CreateNetwork', createNetwork(1));
    const made = await ask('CreateEndpoint', createEndpoint(1, 20));
    t.deepEqual(made, { Interface: { MacAddress: '02:42:ac:1e:00:02' } });
    const port = manager.model.bridges.get(BRIDGE)!.ports.get(HOST_END)!;
    t.is(port.type, 'system');
    t.is(port.tag, -1);
    const pair = links.pairs.get(HOST_END)!;
    t.is(pair.mac, '02:42:ac:1e:00:02');
    t.deepEqual(await ask('Join', { NetworkID: id(1), EndpointID: id(20), SandboxKey: '/x', Options: {} }), {
      InterfaceName: { SrcName: pair.peer, DstPrefix: 'eth' },
      Gateway: '172.30.0.1',
      GatewayIPv6: '',
      StaticRoutes: [],
      DisableGatewayService: true,
    });
  });
});

test("Docker's own Ethernet address is taken, and not told back", async (t) => {
  await withRig(async ({ ask, links }) => {
    await ask('CreateNetwork', createNetwork(1));
    t.deepEqual(await ask('CreateEndpoint', createEndpoint(1, 20, { MacAddress: '02:00:00:00:00:77' })), {
      Interface: {},
    });
    t.is(links.pairs.get(HOST_END)?.mac, '02:00:00:00:00:77');
  });
});

test('VLAN, MTU and isolation reach the port; the gateway is an internal port in the VLAN', async (t) => {
  await withRig(async ({ ask, manager, links }) => {
    const options = { 'ringway.vlan': '30', 'ringway.mtu': '1400', 'ringway.isolate': 'true' };
    t.deepEqual(await ask('CreateNetwork', createNetwork(1, { options })), {});
    await ask('CreateEndpoint', createEndpoint(1, 20));
    const { ports } = manager.model.bridges.get(BRIDGE)!;
    const port = ports.get(HOST_END)!;
    t.like(port, { tag: 30, mtuRequest: 1400, otherConfig: { protected: 'true' } });
    t.is(links.pairs.get(HOST_END)?.mtu, 1400);
    t.like(ports.get(GATEWAY)!, { type: 'internal', tag: 30, mtuRequest: 1400, otherConfig: {} });
  });
});

test('isolated containers do not reach each other through the host either', async (t) => {
  await withRig(async ({ ask, manager }) => {
    await ask('CreateNetwork', createNetwork(1, { options: { 'com.docker.network.bridge.enable_icc': 'false' } }));
    const flows = manager.bridge(BRIDGE).dumpFlows('');
    const told = flows.map(({ priority, match, actions }) => `${priority} ${match} ${actions}`);
    t.true(told.includes('20001 ip,in_port=LOCAL,nw_src=172.30.0.1 NORMAL'), told.join('\n'));
    t.true(told.includes('20000 ip,in_port=LOCAL,nw_src=172.30.0.0/24 drop'), told.join('\n'));
  });
});

test('an internal network has no way out', async (t) => {
  await withRig(async ({ ask }) => {
    await ask('CreateNetwork', createNetwork(1, { internal: true }));
    await ask('CreateEndpoint', createEndpoint(1, 20));
    const joined = await ask('Join', { NetworkID: id(1), EndpointID: id(20), SandboxKey: '/x', Options: {} });
    t.like(joined, { Gateway: '', DisableGatewayService: true });
  });
});

test('a named bridge of the user keeps its ports and flows when the network goes', async (t) => {
  await withRig(async ({ ask, manager, links }) => {
    const record = {
      name: 'br0',
      datapathType: '',
      failMode: '' as const,
      otherConfig: {},
      externalIds: { mine: 'yes' },
    };
    await manager.transact([{ kind: 'SetBridge', record }]);
    const options = { 'ringway.bridge': 'br0', 'ringway.isolate': 'true' };
    t.deepEqual(await ask('CreateNetwork', createNetwork(1, { options })), {});
    await ask('CreateEndpoint', createEndpoint(1, 20));
    const ports = [...manager.model.bridges.get('br0')!.ports.keys()];
    t.deepEqual(ports, [GATEWAY, HOST_END]);
    t.deepEqual(await ask('DeleteNetwork', { NetworkID: id(1) }), {});
    const left = manager.model.bridges.get('br0')!;
    t.deepEqual(left.bridge.externalIds, { mine: 'yes' });
    t.is(left.ports.size, 0);
    t.is(links.pairs.size, 0);
    t.is(manager.bridge('br0').dumpFlows('').length, 1);
  });
});

test('two networks share a bridge by VLANs, and a bridge that the driver made goes with the last', async (t) => {
  await withRig(async ({ ask, manager, datapath }) => {
    const on = (vlan: string): object => ({ options: { 'ringway.bridge': 'lab', 'ringway.vlan': vlan } });
    await ask('CreateNetwork', createNetwork(1, on('10')));
    t.regex((await ask('CreateNetwork', createNetwork(2, on('10')))).Err, /VLAN 10 of bridge lab is Docker's network/);
    t.deepEqual(await ask('CreateNetwork', createNetwork(3, on('11'))), {});
    t.is(
      datapath.ports().find(({ name }) => name === 'lab'),
      undefined,
    );
    await ask('DeleteNetwork', { NetworkID: id(1) });
    t.true(manager.model.bridges.has('lab'));
    t.deepEqual(await ask('CreateNetwork', createNetwork(4, { options: { 'ringway.bridge': 'lab' } })), {});
    t.is(datapath.ports().find(({ name }) => name === 'lab')?.options['address'], '172.30.0.1/24');
    await ask('DeleteNetwork', { NetworkID: id(4) });
    t.is(
      datapath.ports().find(({ name }) => name === 'lab'),
      undefined,
    );
    await ask('DeleteNetwork', { NetworkID: id(3) });
    t.false(manager.model.bridges.has('lab'));
  });
});

test('every request may come twice', async (t) => {
  await withRig(async ({ ask, manager, links }) => {
    for (let time = 0; time < 2; time++) t.deepEqual(await ask('CreateNetwork', createNetwork(1)), {});
    const made = [];
    for (let time = 0; time < 2; time++) made.push(await ask('CreateEndpoint', createEndpoint(1, 20)));
    t.deepEqual(made[0], made[1]);
    const join = { NetworkID: id(1), EndpointID: id(20), SandboxKey: '/x', Options: {} };
    t.deepEqual(await ask('Join', join), await ask('Join', join));
    for (const method of ['Leave', 'DeleteEndpoint', 'DeleteNetwork'])
      for (let time = 0; time < 2; time++) t.deepEqual(await ask(method, join), {}, method);
    t.is(manager.model.bridges.size, 0);
    t.is(links.pairs.size, 0);
  });
});

test('a join makes the pair again when it went with its container', async (t) => {
  await withRig(async ({ ask, links }) => {
    await ask('CreateNetwork', createNetwork(1));
    await ask('CreateEndpoint', createEndpoint(1, 20));
    const before = links.pairs.get(HOST_END);
    links.pairs.clear();
    await ask('Join', { NetworkID: id(1), EndpointID: id(20), SandboxKey: '/x', Options: {} });
    t.deepEqual(links.pairs.get(HOST_END), before);
  });
});

test('EndpointOperInfo tells address, port number and counters', async (t) => {
  await withRig(async ({ ask }) => {
    await ask('CreateNetwork', createNetwork(1));
    await ask('CreateEndpoint', createEndpoint(1, 20));
    const { Value } = await ask('EndpointOperInfo', { NetworkID: id(1), EndpointID: id(20) });
    t.like(Value, {
      mac: '02:42:ac:1e:00:02',
      bridge: BRIDGE,
      port: HOST_END,
      ofport: '1',
      link: 'up',
      rx_packets: '0',
    });
  });
});

test('mistakes are named, with the fix, and leave nothing behind', async (t) => {
  await withRig(async ({ ask, manager, links }) => {
    const refused: [object, RegExp][] = [
      [
        createNetwork(1, { options: { 'ringway.vlna': '3' } }),
        /option ringway.vlna is not known; did you mean ringway.vlan/,
      ],
      [createNetwork(1, { options: { 'ringway.vlan': '4095' } }), /ringway.vlan is "4095"; it takes 1 to 4094/],
      [createNetwork(1, { options: { 'ringway.mtu': '1x' } }), /ringway.mtu is "1x"; it takes 68 to 65535/],
      [createNetwork(1, { options: { 'ringway.isolate': 'yes' } }), /it takes true or false/],
      [createNetwork(1, { options: { 'ringway.bridge': 'much-too-long-name' } }), /bridge name of up to 15/],
      [{ NetworkID: '../x', Options: {} }, /NetworkID .* is no id/],
      [{}, /NetworkID is missing/],
    ];
    for (const [body, error] of refused) t.regex((await ask('CreateNetwork', body)).Err, error);
    t.regex((await ask('CreateEndpoint', createEndpoint(8, 20))).Err, /has no network .*docker network rm/);
    t.regex((await ask('Join', { NetworkID: id(8), EndpointID: id(9) })).Err, /has no network/);
    t.is(manager.model.bridges.size, 0);
    links.failure = new Error('ip link add: Operation not permitted');
    await ask('CreateNetwork', createNetwork(1));
    t.regex((await ask('CreateEndpoint', createEndpoint(1, 20))).Err, /Operation not permitted/);
    t.is(manager.model.bridges.get(BRIDGE)!.ports.size, 0);
  });
});

test('published ports are refused by name', async (t) => {
  await withRig(async ({ ask }) => {
    const Options = { 'com.docker.network.portmap': [{ Proto: 6, Port: 80, HostPort: 8080 }] };
    const refused = await ask('ProgramExternalConnectivity', { NetworkID: id(1), EndpointID: id(2), Options });
    t.regex(refused.Err, /does not publish ports/);
    t.deepEqual(await ask('ProgramExternalConnectivity', { NetworkID: id(1), EndpointID: id(2) }), {});
    t.deepEqual(await ask('RevokeExternalConnectivity', { NetworkID: id(1), EndpointID: id(2) }), {});
  });
});

test('after a crash: ports of vanished containers and pairs without a port go', async (t) => {
  await withRig(async ({ ask, manager, links, driver }) => {
    await ask('CreateNetwork', createNetwork(1));
    await ask('CreateEndpoint', createEndpoint(1, 20));
    await ask('CreateEndpoint', createEndpoint(1, 21));
    const gone = `rwh-${id(21).slice(0, 11)}`;
    const pair = links.pairs.get(gone)!;
    links.pairs.delete(gone);
    links.pairs.set('rwh-leftover', { ...pair, host: 'rwh-leftover' });
    links.pairs.set('rwh-other', { ...pair, host: 'rwh-other', alias: 'ringway of another' });
    await driver.recover();
    t.deepEqual([...manager.model.bridges.get(BRIDGE)!.ports.keys()], [HOST_END]);
    t.deepEqual([...links.pairs.keys()], [HOST_END, 'rwh-other']);
  });
});
