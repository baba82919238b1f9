/** What a device needs of its surroundings, and what its handlers give back. */
import type { VhostUserAttachment } from './attachment.ts';
import type { Settings } from './options.ts';

export interface DeviceHost {
  readonly portNo: number;
  readonly mtu: number;
  readonly settings: Settings;
  /** Offers a vIOMMU. */
  readonly iommu?: boolean;
  /** Where the journal of rings in flight lies. */
  readonly rundir: string;
  /** Replaces the workers' attachment; resolves when all have it. */
  attach(attachment: VhostUserAttachment | undefined): Promise<void>;
  /** Resolves when every worker has ended the burst that it is in. */
  barrier?(): Promise<void>;
}

/** A message that cannot be obeyed. Where it asked for no answer, the connection has no sense any more. */
export class RefusedError extends Error {
  override name = 'RefusedError';
}

/** An answer's payload, and a descriptor that goes with it and is the receiver's. */
export interface AnswerWithFd {
  readonly payload: Uint8Array;
  readonly fd: number;
}

export type Answer = Uint8Array | AnswerWithFd | undefined;
