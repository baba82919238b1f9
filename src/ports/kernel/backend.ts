/**
 * How a `system` port moves the frames of its interface: AF_XDP where that can be had, else AF_PACKET.
 *
 * The session asks the kinds in the order that option xdp-mode gives. One that cannot serve this interface throws an Error
 * whose message says why and what would help; the port's status shows it beside what is used instead. A session opens a
 * backend when the interface is there and up, and closes it when it goes down, vanishes or the port is removed.
 */
import type { Attachment } from '../port.ts';
import type { Link } from './rtnetlink.ts';

export interface BackendRequest {
  readonly portNo: number;
  /** The interface as it is now: name, index, MTU, queues, kind. */
  readonly link: Link;
  /** The port's options, checked as a whole by the session; a backend reads its own. */
  readonly options: Readonly<Record<string, string>>;
}

export interface Backend {
  /** `af_xdp` or `af_packet`, as the status shows it. */
  readonly name: string;
  /** For workers; frames longer than `mtu` (Ethernet payload) are not sent. Called again when the MTU changes. */
  attachment(mtu: number): Attachment;
  /** Further facts for the status, such as the mode in use. */
  facts(): Record<string, string>;
  /** Gives everything back. No worker has an attachment of it any more. */
  close(): void;
}

/** @throws Error with the reason why this interface cannot be served. */
export type OpenBackend = (request: BackendRequest) => Backend;
