/** What the data process needs to know of kernel ports: how to make sessions, and workers' views. */
import { choice } from '../options.ts';
import type { PortConfig, SessionFactory } from '../port.ts';
import { InterfaceMonitor } from './interfaces.ts';
import { openPacket } from './packet.ts';
import { type SystemBackends, SystemSession } from './system.ts';
import { TapSession } from './tap.ts';
import { openXdp } from './xdp/backend.ts';
import { readXdpOptions, XDP_MODES, XDP_OPTIONS } from './xdp/options.ts';

export { PACKET_KIND, packetPort } from './packet.ts';
export { TAP_KIND, tapPort } from './tap-attachment.ts';
export { XDP_KIND, xdpPort } from './xdp/backend.ts';

const usesXdp = (options: PortConfig['options']): boolean =>
  choice(options, 'xdp-mode', ['best-effort', 'off', ...XDP_MODES], 'best-effort') !== 'off';

const BACKENDS: SystemBackends = {
  options: XDP_OPTIONS,
  check: (options) => {
    if (usesXdp(options)) readXdpOptions(options);
  },
  choose: (options) => (usesXdp(options) ? [openXdp, openPacket] : [openPacket]),
};

/** Type `afxdp`: AF_XDP in whatever mode, or nothing. */
const XDP_ONLY: SystemBackends = {
  options: XDP_OPTIONS,
  check: readXdpOptions,
  choose: () => [(wanted) => openXdp({ ...wanted, options: { 'xdp-mode': 'best-effort', ...wanted.options } })],
};

/** Session factories by type; all of them watch the host's interfaces together. */
export function kernelSessions(): readonly (readonly [string, SessionFactory])[] {
  const monitor = new InterfaceMonitor();
  const tap: SessionFactory = (config, host) => new TapSession(config, host, monitor);
  const system: SessionFactory = (config, host) => new SystemSession(config, host, monitor, BACKENDS);
  const afxdp: SessionFactory = (config, host) => new SystemSession(config, host, monitor, XDP_ONLY);
  return [
    ['system', system],
    ['afxdp', afxdp],
    ['tap', tap],
    ['internal', tap],
  ];
}
