import test from 'ava';
import { addAddress, findLink, InterfaceMonitor, linkFacts, setLink } from '#ports/kernel/interfaces.ts';
import { parseCidr } from '#ports/kernel/options.ts';
import type { Link } from '#ports/kernel/rtnetlink.ts';
import { netnsMissing } from '../../support/netns.ts';
import { run, runOk, until } from '../../support/process.ts';

test('an interface is found by its name, and told as facts', (t) => {
  const link = findLink('lo')!;
  t.is(link.name, 'lo');
  t.true(link.ifindex >= 1);
  t.is(link.mac, '00:00:00:00:00:00');
  t.is(linkFacts(link)['ifindex'], String(link.ifindex));
  t.is(findLink('no-such-device'), undefined);
});

const missing = netnsMissing();
const root = missing ? test.serial.skip : test.serial;

root(`interfaces are changed, and watched as they come, change and go${missing && ` (${missing})`}`, async (t) => {
  const name = `rwi${process.pid}`;
  const monitor = new InterfaceMonitor();
  const seen: (Link | undefined)[] = [];
  const { stop, link } = monitor.watch(name, (now) => seen.push(now));
  try {
    t.is(link, undefined);
    await runOk('ip', ['link', 'add', name, 'type', 'veth', 'peer', 'name', `${name}p`]);
    await until('the interface to be seen', () => seen.at(-1)?.name === name);
    const there = findLink(name)!;
    t.is(there.kind, 'veth');
    setLink(there, { mtu: 1400, mac: '02:00:00:00:00:77' });
    setLink(there, { up: true });
    addAddress(there, parseCidr('address', '192.0.2.1/31'));
    addAddress(there, parseCidr('address', '192.0.2.1/31'));
    addAddress(there, parseCidr('address', '2001:db8::1/127'));
    const now = findLink(name)!;
    t.deepEqual([now.mtu, now.mac, now.up], [1400, '02:00:00:00:00:77', true]);
    const addresses = await runOk('ip', ['address', 'show', name]);
    t.regex(addresses, /inet 192\.0\.2\.1\/31/);
    t.regex(addresses, /inet6 2001:db8::1\/127/);
    await until('the changes to be seen', () => seen.at(-1)?.mtu === 1400 && seen.at(-1)?.up === true);
    t.throws(() => setLink(now, { mtu: 1 }), { message: /EINVAL/ });
    await runOk('ip', ['link', 'del', name]);
    await until('the end to be seen', () => seen.length > 0 && seen.at(-1) === undefined);
    t.throws(() => setLink(now, { up: true }), { message: /ENODEV/ });
  } finally {
    stop();
    await run('ip', ['link', 'del', name]);
  }
});
