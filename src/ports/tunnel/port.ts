/**
 * The data plane's side of tunnel ports (vxlan, geneve, gre): a number that decapsulated packets come in at. Packets are wrapped
 * and unwrapped by actions, on their way between other ports, so there are no queues.
 */
import type { Attachment, PortConfig, PortHost, PortSession, PortStatus, WorkerPort } from '../port.ts';

export const TUNNEL_KIND = 'tunnel';

/** Worker's view: nothing to poll, nothing to send on. */
export const tunnelPort = ({ portNo }: Attachment): WorkerPort => ({ portNo, rx: [], tx: undefined, close() {} });

const UP: PortStatus = { state: 'up', lastError: '', linkUp: true, facts: {} };

/** Session: up from the start, for good. */
export const tunnelSession = ({ portNo }: PortConfig, host: PortHost): PortSession => ({
  portNo,
  start: () => host.attach(portNo, { kind: TUNNEL_KIND, portNo, rxQueues: [] }),
  reconfigure: async () => true,
  fault() {},
  status: () => UP,
  stop: async () => undefined,
});
