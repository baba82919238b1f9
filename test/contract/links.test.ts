import { execFileSync } from 'node:child_process';
import test from 'ava';
import { DEVICE_NAME_MAX, IpLinks } from '#contract/links.ts';
import { runOk, which } from '../support/process.ts';

/** Whether this process may make network devices and namespaces. */
function mayMakeDevices(): boolean {
  if (!which('ip') || !which('nsenter') || process.getuid?.() !== 0) return false;
  const name = `rwt-${process.pid}`;
  try {
    execFileSync('ip', ['netns', 'add', name], { stdio: 'ignore' });
    execFileSync('ip', ['netns', 'delete', name], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const maybe = mayMakeDevices() ? test : test.skip;
const need = mayMakeDevices() ? '' : ' (needs root, ip and network namespaces)';

maybe(`a veth pair is made once, found by its alias, configured, moved and removed${need}`, async (t) => {
  const netns = `rwt-links-${process.pid}`;
  const path = `/run/netns/${netns}`;
  const host = `rwtl${process.pid % 1e6}h`;
  const peer = `rwtl${process.pid % 1e6}c`;
  t.true(host.length <= DEVICE_NAME_MAX);
  const links = new IpLinks();
  const alias = `ringway test ${process.pid}`;
  await runOk('ip', ['netns', 'add', netns]);
  try {
    const pair = { host, peer, mac: '02:00:00:00:00:42', mtu: 1400, alias };
    await links.addVeth(pair);
    await links.addVeth(pair);
    t.true(await links.exists(host));
    t.deepEqual(await links.list(alias), [host]);
    t.deepEqual(await links.list('another'), []);
    await links.move(peer, path, 'eth0');
    t.false(await links.exists(peer));
    const inside = new IpLinks(path);
    const settings = {
      addresses: ['10.9.8.7/24', 'fd00:98::7/64'],
      mtu: 1300,
      routes: [
        { to: 'default', via: '10.9.8.1' },
        { to: '2001:db8::/32', via: 'fd00:98::1' },
        { to: '10.7.0.0/16', via: '', more: ['mtu', '1200'] },
      ],
    };
    for (let time = 0; time < 2; time++) await inside.configure('eth0', settings);
    const state = await inside.show('eth0');
    t.like(state, { name: 'eth0', mac: '02:00:00:00:00:42', mtu: 1300, up: true });
    t.true(state?.addresses.includes('10.9.8.7/24'));
    t.true(state?.addresses.includes('fd00:98::7/64'));
    const routes = await inside.ip(['route', 'show']);
    t.regex(routes, /default via 10\.9\.8\.1 dev eth0/);
    t.regex(routes, /10\.7\.0\.0\/16 dev eth0 .*mtu 1200/);
    t.is(await inside.show('eth9'), undefined);
    await links.remove(host);
    await links.remove(host);
    t.false(await links.exists(host));
    t.is(await inside.show('eth0'), undefined);
  } finally {
    await links.remove(host);
    await runOk('ip', ['netns', 'delete', netns]);
  }
});

maybe(`what the kernel refuses is told in its words, and leaves no device${need}`, async (t) => {
  const links = new IpLinks();
  const host = `rwtl${process.pid % 1e6}x`;
  const pair = { host, peer: 'a-name-that-is-too-long', mac: '', mtu: 1500, alias: 'x' };
  await t.throwsAsync(links.addVeth(pair), { message: /^ip link add .*not a valid ifname/ });
  t.false(await links.exists(host));
  await t.throwsAsync(links.configure(host, { addresses: [], mtu: 0 }), { message: /Cannot find device/ });
});
