/**
 * The `other_config` keys that this switch knows, with what their values may be; ovs-vswitchd.conf.db(5) has their
 * meaning. Unknown keys and values are refused: a misspelt key that is silently kept is worse than none.
 */
import { RequestError } from '#ofproto/api.ts';
import type { Columns } from './model.ts';

interface Key {
  readonly test: (value: string) => boolean;
  /** What a value must be. */
  readonly is: string;
}

const number = (low: number, high: number): Key => ({
  test: (value) => /^\d{1,15}$/.test(value) && Number(value) >= low && Number(value) <= high,
  is: `a number from ${low} to ${high}`,
});
const oneOf = (...words: string[]): Key => ({ test: (value) => words.includes(value), is: words.join(' or ') });
const pattern = (test: RegExp, is: string): Key => ({ test: (value) => test.test(value), is });
const bool = oneOf('true', 'false');
const mask = pattern(/^(0x)?[0-9a-fA-F]{1,64}$/, 'a hexadecimal CPU mask, for example 0x3');
const mac = pattern(/^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/, 'an Ethernet address');

export type OptionTable = Readonly<Record<string, Key>>;

/** Open_vSwitch other_config. */
export const SWITCH_OPTIONS: OptionTable = {
  'pmd-cpu-mask': mask,
  'pmd-rxq-assign': oneOf('cycles', 'roundrobin', 'group'),
  'pmd-sleep-max': number(0, 99_999),
  'vhost-iommu-support': bool,
  'max-idle': number(500, 4_294_967_295),
  'flow-limit': number(1, 262_144),
  docker: bool,
  'docker-socket': pattern(/^\/.{1,106}$/, 'an absolute path of up to 107 bytes'),
};

export const BRIDGE_OPTIONS: OptionTable = {
  hwaddr: mac,
  'datapath-id': pattern(/^(0x)?[0-9a-fA-F]{1,16}$/, 'up to 16 hexadecimal digits'),
  'mac-aging-time': number(15, 3600),
  'mac-table-size': number(1, 1_000_000),
  'forward-bpdu': bool,
  'local-device': bool,
  'local-address': pattern(
    /^[0-9a-fA-F.:]+\/\d{1,3}(,[0-9a-fA-F.:]+\/\d{1,3})*$/,
    'addresses such as 10.0.0.1/24,fd00::1/64',
  ),
  'local-mtu': number(68, 65_535),
};

/** Port and Interface other_config: a port has one interface here. */
export const PORT_OPTIONS: OptionTable = {
  'pmd-rxq-affinity': pattern(/^\d+:\d+(,\d+:\d+)*$/, 'pairs of rx queue and core, for example 0:1,1:3'),
  'priority-tags': oneOf('never', 'if-nonzero', 'always', 'true', 'false'),
  'qinq-ethtype': oneOf('802.1ad', '802.1q'),
  protected: bool,
};

/**
 * Checks keys and values of other_config that differ from `before` (what is stored already stays).
 * @throws RequestError unknown_option, bad_value.
 */
export function checkOptions(table: OptionTable, columns: Columns, before: Columns): void {
  for (const [key, value] of Object.entries(columns)) {
    if (before[key] === value) continue;
    const known = Object.hasOwn(table, key) ? table[key] : undefined;
    if (!known) {
      const near = nearest(key, Object.keys(table));
      throw new RequestError('unknown_option', `other_config: unknown key "${key}"`, {
        field: `otherConfig.${key}`,
        hint: near
          ? `did you mean ${near}?`
          : key.startsWith('dpdk-')
            ? 'there is no DPDK here: leave it out'
            : `known keys: ${Object.keys(table).join(', ')}`,
      });
    }
    if (!known.test(value)) {
      throw new RequestError('bad_value', `other_config: "${value}" is not a valid ${key}`, {
        field: `otherConfig.${key}`,
        hint: `give ${known.is}`,
      });
    }
  }
}

/** @returns the word that is at most three edits, or a third of its length, away. */
export function nearest(word: string, words: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Math.min(3, Math.ceil(word.length / 3)) + 1;
  for (const candidate of words) {
    const edits = distance(word, candidate);
    if (edits < least) [best, least] = [candidate, edits];
  }
  return best;
}

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length]!;
}
