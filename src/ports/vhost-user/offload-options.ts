/**
 * Which offloads a port offers to its guest: the options that switch them off, both ways or one by one.
 *
 * `guest_…` is what the guest may be sent, `host_…` what it may send, as in virtio's names. The narrowest option that is given
 * counts: `guest_tso4` before `tso4`, that before `tso`, that before `offload`.
 */
import type { PortConfig } from '#ports/port.ts';
import { choice } from '../options.ts';
import type { VirtioFeature } from './wire.ts';

type Options = PortConfig['options'];

interface Kind {
  readonly name: string;
  /** Feature bits for the guest, and for the host. */
  readonly guest: readonly VirtioFeature[];
  readonly host: readonly VirtioFeature[];
  /** One of these must be offered in the same direction (virtio 1.2 section 5.1.3.1). */
  readonly needs: readonly string[];
}

const KINDS: readonly Kind[] = [
  { name: 'csum', guest: ['GUEST_CSUM'], host: ['CSUM'], needs: [] },
  { name: 'tso4', guest: ['GUEST_TSO4'], host: ['HOST_TSO4'], needs: ['csum'] },
  { name: 'tso6', guest: ['GUEST_TSO6'], host: ['HOST_TSO6'], needs: ['csum'] },
  { name: 'ecn', guest: ['GUEST_ECN'], host: ['HOST_ECN'], needs: ['tso4', 'tso6'] },
  { name: 'ufo', guest: ['GUEST_UFO'], host: ['HOST_UFO'], needs: ['csum'] },
  { name: 'uso', guest: ['GUEST_USO4', 'GUEST_USO6'], host: ['HOST_USO'], needs: ['csum'] },
];
const DIRECTIONS = ['guest', 'host'] as const;

/** All options that `readOffloads` reads. */
export const OFFLOAD_OPTIONS: readonly string[] = [
  'offload',
  'tso',
  ...KINDS.flatMap(({ name }) => [name, ...DIRECTIONS.map((direction) => `${direction}_${name}`)]),
];

/** Features that are offloads. */
export const OFFLOAD_FEATURES: readonly VirtioFeature[] = KINDS.flatMap(({ guest, host }) => [...guest, ...host]);

/** What the narrowest option given says of `name` in one direction; the option's name with it, '' where none is given. */
function wish(options: Options, name: string, direction: string): { on: boolean; option: string } {
  const wider = name.startsWith('tso') ? ['tso', 'offload'] : ['offload'];
  for (const option of [`${direction}_${name}`, name, ...wider]) {
    if (options[option] !== undefined) return { on: choice(options, option, ['on', 'off'], 'on') === 'on', option };
  }
  return { on: true, option: '' };
}

/**
 * The offloads to be offered. What needs another one goes with that.
 * @throws Error that names the option which takes other values, or asks for what another one rules out.
 */
export function readOffloads(options: Options): readonly VirtioFeature[] {
  // Each value is looked at, whether it counts or not.
  for (const option of OFFLOAD_OPTIONS) choice(options, option, ['on', 'off'], 'on');
  const offered: VirtioFeature[] = [];
  for (const direction of DIRECTIONS) {
    const on = new Set<string>();
    for (const kind of KINDS) {
      const { name, needs } = kind;
      const wanted = wish(options, name, direction);
      if (!wanted.on) continue;
      if (needs.length > 0 && !needs.some((need) => on.has(need))) {
        const narrow = wanted.option === name || wanted.option === `${direction}_${name}`;
        if (narrow)
          throw new Error(
            `option ${wanted.option} is "on", but needs ${needs.join(' or ')}, which is off for the ${direction}`,
          );
        continue;
      }
      on.add(name);
      offered.push(...kind[direction]);
    }
  }
  return offered;
}
