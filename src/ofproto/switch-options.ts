/** What a switch is told when it is made. */
import type { HostNetwork } from './underlay/host.ts';

export interface SwitchOptions {
  /** Clock, ms since the epoch. */
  readonly now?: () => number;
  /** Told of errors that nobody waits for: a bug met by an upcall or by the housekeeping. */
  readonly onError?: (error: unknown) => void;
  /** Housekeeping by timer (default), or by calls of `tick` only. */
  readonly timer?: boolean;
  /** ms after which found megaflows are taken over when nobody restores a configuration. */
  readonly adoptAfterMs?: number;
  /** What the host knows of networks; this machine's when not said. */
  readonly host?: HostNetwork;
  /** Each bridge gets a device of its own name on this host, its port LOCAL. */
  readonly localDevices?: boolean;
}
