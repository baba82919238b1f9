/** The specification's own flow with network namespaces as containers: ADD, CHECK, traffic, GC, DEL. */
import { readdirSync } from 'node:fs';
import test from 'ava';
import { Attachments } from '#mgmt/cli/cni/attach.ts';
import { readConfig } from '#mgmt/cli/cni/protocol.ts';
import { NetnsLab, netnsMissing } from '../../../support/netns.ts';
import { removeScratchDir, runOk, scratchDir } from '../../../support/process.ts';
import { SwitchProcess } from '../../../support/switch.ts';
import { Runtime } from './flow.ts';

const why = netnsMissing('nsenter', 'busybox');
const maybe = why === '' ? test : test.skip;

test('a port is named after network, container and interface, in 15 characters', (t) => {
  const named = (name: string, containerID: string, ifname: string): string => {
    const config = readConfig({ cniVersion: '1.1.0', name, type: 'rw-cni' }, { args: new Map() });
    return new Attachments(config).portName({ containerID, ifname });
  };
  const all = [named('n', 'c', 'eth0'), named('n', 'c', 'eth1'), named('n', 'd', 'eth0'), named('m', 'c', 'eth0')];
  t.is(new Set(all).size, 4);
  t.true(all.every((name) => name.length === 15));
  t.is(named('n', 'c', 'eth0'), all[0]);
});

maybe(
  `veth attachments reach each other and the gateway, pass CHECK, and leave nothing${why && ` (${why})`}`,
  async (t) => {
    const lab = new NetnsLab();
    const folder = scratchDir('rwcni');
    let sw: SwitchProcess | undefined;
    const env = (pod: string, ifname = 'eth0'): Record<string, string> => ({
      CNI_CONTAINERID: pod,
      CNI_NETNS: `/run/netns/${lab.space(pod)}`,
      CNI_IFNAME: ifname,
    });
    try {
      for (const space of ['host', 'a', 'b']) await lab.add(space);
      sw = await SwitchProcess.startUnder(lab.under('host'));
      const config = { rundir: sw.rundir, bridge: 'pods', vlan: 12, mtu: 1400, isGateway: true };
      const runtime = new Runtime(folder, { ...config, ipam: { type: 'test-ipam' } }, lab.under('host'));
      await sw.vsctl('add-br', 'pods');
      t.deepEqual(await runtime.call('STATUS'), { code: 0, json: undefined });

      const added = await runtime.call('ADD', env('a'));
      t.is(added.code, 0, JSON.stringify(added.json));
      const second = await runtime.call('ADD', { ...env('b'), CNI_ARGS: 'MAC=02:00:00:00:00:bb' });
      const [hostEnd, own] = added.json.interfaces;
      t.like(own, { name: 'eth0', mtu: 1400, sandbox: `/run/netns/${lab.space('a')}` });
      t.is(second.json.interfaces[1].mac, '02:00:00:00:00:bb');
      t.deepEqual(added.json.ips[0], { address: '10.11.0.2/24', gateway: '10.11.0.1', interface: 1 });
      t.true((await sw.vsctl('list-ports', 'pods')).includes(hostEnd.name));
      t.is((await sw.vsctl('get', 'Port', hostEnd.name, 'tag')).trim(), '12');
      await lab.reaches('a', '10.11.0.3');
      await lab.reaches('a', '10.11.0.1');
      await lab.reaches('host', '10.11.0.3');
      await lab.reaches('a', 'fd00:11::3');
      t.regex(await lab.ip('a', 'route'), /default via 10\.11\.0\.1 dev eth0/);

      const check = () => runtime.call('CHECK', env('a'), { prevResult: added.json });
      t.deepEqual(await check(), { code: 0, json: undefined });
      await lab.ip('a', 'route', 'delete', 'default');
      t.like((await check()).json, { code: 101, msg: 'eth0: the route to 0.0.0.0/0 is gone' });
      await lab.ip('a', 'address', 'delete', '10.11.0.2/24', 'dev', 'eth0');
      t.like((await check()).json, { code: 101, msg: 'eth0: does not have 10.11.0.2/24' });
      await lab.ip('a', 'link', 'set', 'eth0', 'name', 'eth7');
      t.like((await check()).json, { code: 101 });

      const taken = await runtime.call('ADD', env('b', 'lo'));
      t.like(taken.json, { code: 100, msg: `CNI_IFNAME lo exists in /run/netns/${lab.space('b')}` });
      const absent = await runtime.call('ADD', { ...env('b', 'eth3'), CNI_NETNS: '/run/netns/nowhere' });
      t.like(absent.json, { code: 3 });

      const valid = [{ containerID: 'b', ifname: 'eth0' }];
      t.deepEqual(await runtime.call('GC', {}, { 'cni.dev/valid-attachments': valid }), { code: 0, json: undefined });
      t.false((await sw.vsctl('list-ports', 'pods')).includes(hostEnd.name));
      await lab.reaches('b', '10.11.0.1');
      // The container's namespace goes first, as it does when a container crashes.
      await runOk('ip', ['netns', 'delete', lab.space('b')]);
      for (let time = 0; time < 2; time++)
        t.deepEqual(await runtime.call('DEL', env('b')), { code: 0, json: undefined });
      t.is((await sw.vsctl('list-ports', 'pods')).trim(), '');
      t.notRegex(await lab.ip('host', '-o', 'link'), /: rw/);
      t.deepEqual(
        readdirSync(folder).filter((name) => name.startsWith('lease-')),
        [],
      );
    } finally {
      await sw?.close();
      removeScratchDir(folder);
      await lab.close();
    }
  },
);
