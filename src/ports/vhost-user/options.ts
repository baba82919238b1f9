/** Settings of a vhost-user port: what the options of its three types mean, checked. */
import type { PortConfig } from '#ports/port.ts';
import { choice, integer, refuseUnknown, socketMode, socketOwner, socketPath } from '../options.ts';
import type { SocketSettings } from '../socket/endpoint.ts';
import { OFFLOAD_OPTIONS, readOffloads } from './offload-options.ts';
import { MAX_VRINGS, type VirtioFeature } from './wire.ts';

export const VHOST_USER_TYPES = ['vhost-user', 'dpdkvhostuser', 'dpdkvhostuserclient'] as const;

export interface Settings extends SocketSettings {
  /** Checksum and segmentation offloads that are offered to the guest. */
  readonly offloads: readonly VirtioFeature[];
  /** Offers packed rings. */
  readonly packed: boolean;
  /** Offers a vIOMMU; undefined: as other_config:vhost-iommu-support says. */
  readonly iommu: boolean | undefined;
  /** Looks at a full ring again, at most (ovs-vswitchd.conf.db(5), tx-retries-max). */
  readonly retries: number;
  /** Queue pairs offered. */
  readonly queuePairs: number;
}

const OWN = [
  'path',
  'mode',
  'vhost-server-path',
  'packed',
  'iommu',
  'tx-retries-max',
  'socket-mode',
  'socket-owner',
  ...OFFLOAD_OPTIONS,
];

/** @param rundir where relative paths start. @throws Error that names the option at fault and the fix. */
export function parseOptions(config: PortConfig, rundir: string): Settings {
  const { type, options } = config;
  refuseUnknown(config, OWN);
  return {
    ...parseSocket(config, rundir),
    offloads: readOffloads(options),
    packed: choice(options, 'packed', ['on', 'off'], 'on') === 'on',
    iommu: options['iommu'] === undefined ? undefined : choice(options, 'iommu', ['on', 'off'], 'off') === 'on',
    retries: integer(options, 'tx-retries-max', 0, 32, 8),
    queuePairs: integer(options, 'n_rxq', 1, MAX_VRINGS / 2, MAX_VRINGS / 2),
    socketMode: type === 'dpdkvhostuserclient' ? undefined : socketMode(options),
    socketOwner: socketOwner(options),
  };
}

function parseSocket(config: PortConfig, rundir: string): { mode: Settings['mode']; path: string } {
  const { type, name, options } = config;
  const absolute = (path: string): string => socketPath(name, path, rundir);
  if (type === 'dpdkvhostuserclient') {
    const path = options['vhost-server-path'];
    if (!path)
      throw new Error(`option vhost-server-path of port ${name} is missing: the socket that the guest listens on`);
    return { mode: 'client', path: absolute(path) };
  }
  if (options['vhost-server-path'] !== undefined) {
    throw new Error(`option vhost-server-path belongs to type dpdkvhostuserclient; port ${name} is of type ${type}`);
  }
  if (type === 'dpdkvhostuser') return { mode: 'server', path: absolute(options['path'] || name) };
  const mode = choice(options, 'mode', ['server', 'client'], 'server');
  if (mode === 'client' && !options['path']) {
    throw new Error(`option path of port ${name} is missing: the socket that the guest listens on`);
  }
  return { mode, path: absolute(options['path'] || `${name}.sock`) };
}
