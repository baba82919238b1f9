import test from 'ava';
import { dockerWords, type PortWish, shellLine } from '#mgmt/cli/docker/port.ts';

const wish: PortWish = {
  name: 'p1',
  bridge: 'br0',
  type: 'memif',
  uid: 1000,
  gid: undefined,
  mode: '0660',
  containerListens: false,
  vlan: 0,
  mtu: 0,
  isolate: false,
  options: {},
};

test("docker's words mount the folder, name the socket and the user", (t) => {
  t.is(
    shellLine(dockerWords('/run/ringway', wish, ['image'])),
    'run --mount type=bind,source=/run/ringway/ports/p1,target=/run/ringway/p1 --env RINGWAY_PORT_TYPE=memif ' +
      '--env RINGWAY_SOCKET=/run/ringway/p1/p1.sock --user 1000 image',
  );
  t.false(dockerWords('/r', { ...wish, uid: undefined }, []).includes('--user'));
});

test('words come through a shell as they are', (t) => {
  t.is(shellLine(["it's", 'a b', '', 'x=1']), "'it'\\''s' 'a b' '' x=1");
});
