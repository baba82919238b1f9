/** Options of AF_XDP; the first two as Open vSwitch names them (ovs-vswitchd.conf.db(5)). */
import { choice, integer } from '../../options.ts';
import type { PortConfig } from '../../port.ts';

export const XDP_OPTIONS = ['xdp-mode', 'use-need-wakeup', 'busy-poll-budget', 'tx-checksum-offload'] as const;

/** Ways to open an interface, best first. */
export const XDP_MODES = ['native-with-zerocopy', 'native', 'generic'] as const;
export type XdpMode = (typeof XDP_MODES)[number];

export interface XdpOptions {
  /** What is tried, in this order. */
  readonly modes: readonly XdpMode[];
  readonly needWakeup: boolean;
  /** Packets of one busy poll (SO_BUSY_POLL_BUDGET); 0: the interface's interrupts deliver. */
  readonly busyPollBudget: number;
  /** Partial checksums are left to the kernel where it can, as those of its own stack; else they are completed here. */
  readonly txChecksum: boolean;
  /** 0: as many as the interface has. */
  readonly queues: number;
}

/**
 * `xdp-mode` best-effort tries all modes in turn; another value stands for itself. Without the option the native modes are
 * tried: a program in generic mode sees frames as the kernel's stack has them, also those of many segments, and a port
 * that has another way is better off with it.
 * @throws Error that names the option and its values.
 */
export function readXdpOptions(options: PortConfig['options']): XdpOptions {
  const mode = choice(options, 'xdp-mode', ['best-effort', ...XDP_MODES], 'best-effort');
  const all = XDP_MODES.filter((each) => each !== 'generic' || options['xdp-mode'] !== undefined);
  return {
    modes: mode === 'best-effort' ? all : [mode],
    needWakeup: choice(options, 'use-need-wakeup', ['true', 'false'], 'true') === 'true',
    busyPollBudget: integer(options, 'busy-poll-budget', 0, 1024, 0),
    txChecksum: choice(options, 'tx-checksum-offload', ['true', 'false'], 'true') === 'true',
    queues: integer(options, 'n_rxq', 0, 64, 0),
  };
}
