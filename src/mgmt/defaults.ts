/** What `rw-vswitchd --default` starts with when nothing is stored: a bridge br0 that forwards, with two guest ports. */
import { join } from 'node:path';
import type { ConfigChange } from './model.ts';
import { bridgeRecord, portRecord } from './views.ts';

/** @param rundir where the ports' sockets are made: vhost0.sock and vhost1.sock. */
export function defaultConfiguration(rundir: string): ConfigChange[] {
  const port = (name: string): ConfigChange => ({
    kind: 'SetPort',
    bridge: 'br0',
    record: portRecord(
      { name, type: 'vhost-user', options: { mode: 'server', path: join(rundir, `${name}.sock`) } },
      undefined,
    ),
  });
  return [
    { kind: 'SetBridge', record: bridgeRecord({ name: 'br0', failMode: 'standalone' }) },
    port('vhost0'),
    port('vhost1'),
  ];
}
