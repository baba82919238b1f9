/**
 * A port of its own for a poll-mode container: the port on the bridge, and a folder that holds nothing but its socket, so
 * that mounting the folder gives the container this port and no other.
 *
 * The folder is mounted, not the socket: a socket that a restarted data plane makes anew is another file, which a mount of
 * the old one would never show.
 */
import { chmodSync, chownSync, existsSync, mkdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ApiError, type Client, Fatal, json, segment } from '../client.ts';

export const PORT_TYPES = ['vhost-user', 'memif', 'ivshmem'] as const;
export type PortType = (typeof PORT_TYPES)[number];

export interface PortWish {
  readonly name: string;
  readonly bridge: string;
  readonly type: PortType;
  /** Owner and group of folder and socket; undefined: as they come. */
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  /** Permissions of the socket, octal text; the folder's follow from it. */
  readonly mode: string;
  /** The container makes the socket, and the switch connects. */
  readonly containerListens: boolean;
  /** VLAN, 0: none. */
  readonly vlan: number;
  /** 0: the switch's own default. */
  readonly mtu: number;
  readonly isolate: boolean;
  /** Further options of the port. */
  readonly options: Readonly<Record<string, string>>;
}

/** Where the folder is in the container. */
export const mountPoint = (name: string): string => `/run/ringway/${name}`;
export const socketName = (name: string): string => `${name}.sock`;
/** Under which a port made here is found again. */
const FOLDER_ID = 'rw-docker-folder';

const portsFolder = (rundir: string): string => join(rundir, 'ports');
export const folderOf = (rundir: string, name: string): string => join(portsFolder(rundir), name);

/** Search permission wherever the socket can be used: 0660 → 0770. */
const folderMode = (mode: string): number => {
  const bits = Number.parseInt(mode, 8);
  return bits | ((bits & 0o444) >> 2) | ((bits & 0o222) >> 1);
};

function socketOptions({ type, containerListens, mode, uid, gid }: PortWish): Record<string, string> {
  if (containerListens) return type === 'memif' ? { role: 'client' } : { mode: 'client' };
  const owner: Record<string, string> =
    uid === undefined && gid === undefined ? {} : { 'socket-owner': `${uid ?? ''}:${gid ?? ''}` };
  return { 'socket-mode': mode, ...owner };
}

/** @throws Fatal that names the argument. */
export function checkWish({ name, type, mode, containerListens, vlan }: PortWish): void {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,62}$/.test(name))
    throw new Fatal(`--name "${name}": use up to 63 letters, digits and _ . @ -`);
  if (!PORT_TYPES.includes(type)) throw new Fatal(`--type "${type}": use ${PORT_TYPES.join(', ')}`);
  if (!/^0?[0-7]{3}$/.test(mode)) throw new Fatal(`--mode "${mode}": use octal permissions such as 0660`);
  if (!(vlan >= 0 && vlan <= 4094)) throw new Fatal('--vlan: use 1 to 4094');
  if (containerListens && type === 'ivshmem')
    throw new Fatal('--container-listens: the switch is always the server of an ivshmem port');
}

/** Makes folder and port. @throws Fatal or ApiError; nothing new is left then. */
export async function createPort(client: Client, rundir: string, wish: PortWish): Promise<void> {
  checkWish(wish);
  const { name, bridge, type, uid, gid, mode, vlan, mtu, isolate, options } = wish;
  const folder = folderOf(rundir, name);
  const fresh = !existsSync(folder);
  if (!existsSync(rundir)) throw new Fatal(`${rundir} is not there: is the switch running, and with this --rundir?`);
  mkdirSync(folder, { recursive: true });
  try {
    chmodSync(folder, folderMode(mode));
    const now = statSync(folder);
    if (uid !== undefined || gid !== undefined) chownSync(folder, uid ?? now.uid, gid ?? now.gid);
    const spec = {
      name,
      type,
      options: { ...socketOptions(wish), path: join(folder, socketName(name)), ...options },
      ...(vlan > 0 ? { tag: vlan } : {}),
      ...(mtu > 0 ? { mtuRequest: mtu } : {}),
      otherConfig: isolate ? { protected: 'true' } : {},
      externalIds: { [FOLDER_ID]: folder },
    };
    await client.call('POST', `/v1/bridges/${segment(bridge)}/ports`, json(spec));
  } catch (error) {
    if (fresh) rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

interface Found {
  readonly bridge: string;
  readonly name: string;
  readonly type: string;
  readonly folder: string;
  readonly linkUp: boolean;
}

/** Ports that were made here. */
export async function listPorts(client: Client): Promise<Found[]> {
  const { bridges } = await client.get('/v1/config');
  const found: Found[] = [];
  for (const { ports } of bridges) {
    for (const { spec, bridge, linkUp } of ports) {
      const folder = spec.externalIds?.[FOLDER_ID];
      if (folder !== undefined) found.push({ bridge, name: spec.name, type: spec.type, folder, linkUp });
    }
  }
  return found;
}

/** @returns whether there was such a port. @throws Fatal for a port that was not made here. */
export async function removePort(client: Client, rundir: string, name: string): Promise<boolean> {
  const found = (await listPorts(client)).find((port) => port.name === name);
  if (found) {
    try {
      await client.call('DELETE', `/v1/bridges/${segment(found.bridge)}/ports/${segment(name)}`);
    } catch (error) {
      // Another was faster.
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
    }
  }
  rmSync(found?.folder ?? folderOf(rundir, name), { recursive: true, force: true });
  return found !== undefined;
}

/** Words of the `docker run` command that gives a container the port. */
export function dockerWords(rundir: string, wish: PortWish, rest: readonly string[]): string[] {
  const { name, type, uid, gid } = wish;
  const target = mountPoint(name);
  const user = uid === undefined ? [] : ['--user', gid === undefined ? String(uid) : `${uid}:${gid}`];
  return [
    'run',
    ...['--mount', `type=bind,source=${folderOf(rundir, name)},target=${target}`],
    ...['--env', `RINGWAY_PORT_TYPE=${type}`, '--env', `RINGWAY_SOCKET=${target}/${socketName(name)}`],
    ...user,
    ...rest,
  ];
}

/** A command line as a shell reads it. */
export const shellLine = (words: readonly string[]): string =>
  words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ');
