import test from 'ava';
import { ivshmemSessions } from '#ports/ivshmem/factory.ts';
import type { PortConfig, PortHost, PortStatus } from '#ports/port.ts';
import { scratchDir } from '../../support/process.ts';

test('ports made by one factory share pools, their sockets lie in the run folder', async (t) => {
  const dir = scratchDir('rwif');
  const told: PortStatus[] = [];
  const host: PortHost = {
    attach: async () => undefined,
    status: (_portNo, status) => told.push(status),
  };
  const sessions = ivshmemSessions(dir);
  const config = (portNo: number, size: string): PortConfig => ({
    portNo,
    name: `iv${portNo}`,
    type: 'ivshmem',
    options: { pool: 'shared', size },
    mtu: 1500,
  });
  const first = sessions(config(1, '4M'), host);
  const second = sessions(config(2, '4M'), host);
  await first.start();
  await second.start();
  try {
    t.is(first.status().facts['pool'], 'shared');
    t.is(first.status().facts['socket'], `${dir}/iv1.sock`);
    t.not(first.status().facts['peer_id'], second.status().facts['peer_id']);
    await t.throwsAsync(async () => sessions(config(3, '8M'), host).start(), { message: /size/ });
    // Another data process, another registry.
    const other = ivshmemSessions(scratchDir('rwif'))(config(3, '8M'), host);
    await other.start();
    t.is(other.status().facts['pool'], 'shared');
    await other.stop();
  } finally {
    await first.stop();
    await second.stop();
  }
  t.true(told.length > 0);
});
