import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { removeScratchDir, scratchDir } from '../../support/process.ts';
import { SwitchProcess } from '../../support/switch.ts';
import { Runtime } from './cni/flow.ts';

const pod = (n: number): Record<string, string> => ({
  CNI_CONTAINERID: `pod${n}`,
  CNI_NETNS: `/proc/self/ns/net`,
  CNI_IFNAME: 'net1',
});
const IPAM = { ipam: { type: 'test-ipam' } };

test('VERSION needs no switch; STATUS says that there is none', async (t) => {
  const folder = scratchDir('rwcni');
  try {
    const runtime = new Runtime(folder, { rundir: join(folder, 'none') });
    const version = await runtime.call('VERSION');
    t.is(version.code, 0);
    t.deepEqual(version.json, {
      cniVersion: '1.1.0',
      supportedVersions: ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'],
    });
    t.like((await runtime.call('STATUS')).json, { code: 50, cniVersion: '1.1.0' });
    const add = await runtime.call('ADD', pod(1));
    t.is(add.code, 1);
    t.like(add.json, { code: 11 });
    t.regex(add.json.msg, /control plane is not running/);
    t.like((await runtime.call('ADD', {})).json, { code: 4 });
    t.like((await runtime.call('ADD', pod(1), { cniVersion: '3.0.0' })).json, { code: 1, cniVersion: '1.1.0' });
  } finally {
    removeScratchDir(folder);
  }
});

test('vhost-user attachments live from ADD to DEL, and GC takes the stale ones', async (t) => {
  const sw = await SwitchProcess.start();
  const folder = scratchDir('rwcni');
  const runtime = new Runtime(folder, {
    rundir: sw.rundir,
    portType: 'vhost-user',
    vlan: 7,
    mtu: 1400,
    isolate: true,
    socketMode: '0600',
    ...IPAM,
  });
  try {
    t.like((await runtime.call('STATUS')).json, { code: 50, details: 'rw-vsctl add-br br0' });
    await sw.vsctl('add-br', 'br0');
    t.deepEqual(await runtime.call('STATUS'), { code: 0, json: undefined });

    const { json: result } = await runtime.call('ADD', pod(1));
    const [own] = result.interfaces;
    t.like(own, { name: 'net1', mtu: 1400, sandbox: '/proc/self/ns/net' });
    t.deepEqual(result.ips[0], { address: '10.11.0.2/24', gateway: '10.11.0.1', interface: 0 });
    t.deepEqual(result.dns, { nameservers: ['10.11.0.1'] });
    t.is(statSync(own.socketPath).mode & 0o777, 0o600);
    const [port] = (await sw.vsctl('list-ports', 'br0')).trim().split('\n');
    t.is((await sw.vsctl('get', 'Port', port!, 'tag')).trim(), '7');
    t.regex(await sw.vsctl('get', 'Port', port!, 'other_config'), /protected="?true/);

    t.like((await runtime.call('ADD', pod(1))).json, { code: 100 });
    t.true(existsSync(own.socketPath), 'a second ADD takes nothing away');
    t.deepEqual(await runtime.call('CHECK', pod(1), { prevResult: result }), { code: 0, json: undefined });
    t.like((await runtime.call('CHECK', pod(1))).json, { code: 7, msg: 'prevResult is missing' });
    t.like((await runtime.call('CHECK', pod(2), { prevResult: result })).json, { code: 101 });

    const guest = await sw.guest(port!, { path: own.socketPath });
    await sw.linkUp(port!);
    await guest.close();

    const second = await runtime.call('ADD', pod(2));
    t.is(second.json.ips[0].address, '10.11.0.3/24');
    const valid = [{ containerID: 'pod2', ifname: 'net1' }];
    t.deepEqual(await runtime.call('GC', {}, { 'cni.dev/valid-attachments': valid }), { code: 0, json: undefined });
    t.false(existsSync(own.socketPath));
    t.true(existsSync(second.json.interfaces[0].socketPath));
    t.is((await sw.vsctl('list-ports', 'br0')).trim().split('\n').length, 1);

    for (let time = 0; time < 2; time++)
      t.deepEqual(await runtime.call('DEL', pod(2), { prevResult: second.json }), { code: 0, json: undefined });
    t.is((await sw.vsctl('list-ports', 'br0')).trim(), '');
    t.deepEqual(readdirSync(join(sw.rundir, 'cni')), []);
    t.deepEqual(
      readdirSync(folder).filter((name) => name.startsWith('lease-')),
      [],
    );
    t.true(['STATUS', 'ADD', 'CHECK', 'GC', 'DEL'].every((command) => runtime.delegated.includes(command)));
  } finally {
    removeScratchDir(folder);
    await sw.close();
  }
});

test('a failed ADD takes back what was delegated; the error is passed on', async (t) => {
  const sw = await SwitchProcess.start();
  const folder = scratchDir('rwcni');
  const runtime = new Runtime(folder, { rundir: sw.rundir, portType: 'vhost-user' });
  try {
    const absent = await runtime.call('ADD', pod(1), IPAM);
    t.like(absent.json, { code: 7, msg: 'no bridge named br0' });
    t.deepEqual(runtime.delegated, ['ADD', 'DEL']);
    await sw.vsctl('add-br', 'br0');
    const full = await runtime.call('ADD', pod(1), { ipam: { type: 'test-ipam', fail: 'ADD' } });
    t.like(full.json, { code: 11, msg: 'test-ipam: no addresses left' });
    t.like((await runtime.call('ADD', pod(1), { ipam: { type: 'nowhere' } })).json, { code: 7 });
    t.is((await sw.vsctl('list-ports', 'br0')).trim(), '');
    const prevResult = {
      cniVersion: '1.1.0',
      interfaces: [{ name: 'lo' }],
      ips: [{ address: '127.0.0.1/8', interface: 0 }],
    };
    const chained = await runtime.call('ADD', pod(1), { ...IPAM, prevResult });
    t.deepEqual(chained.json.interfaces[0], { name: 'lo' });
    t.is(chained.json.ips[1].interface, 1);
  } finally {
    removeScratchDir(folder);
    await sw.close();
  }
});
