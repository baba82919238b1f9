/** AF_XDP as a backend of ports on kernel interfaces, and the worker's side of it. */
import type { Attachment, PortFactory } from '../../port.ts';
import type { OpenBackend } from '../backend.ts';
import { attachXdpPort } from './attachment.ts';
import type { XdpPiece } from './layout.ts';
import { XdpDevice } from './open.ts';
import { readXdpOptions } from './options.ts';

export const XDP_KIND = 'af_xdp';

interface XdpAttachment extends Attachment {
  readonly kind: typeof XDP_KIND;
  readonly piece: XdpPiece;
}

/**
 * Interfaces that software feeds (veth, tun, …) are served only when option xdp-mode asks for it. The stack behind them leaves
 * checksums and segmentation to its device, with notes that XDP does not show: those of TCP and UDP are recognised
 * (partial.ts), those of SCTP and of encapsulated frames cannot be; and while XDP is on, that stack segments TCP itself.
 * @throws Error with the reason why this interface cannot be served by AF_XDP.
 */
export const openXdp: OpenBackend = ({ portNo, link, options }) => {
  if (link.kind !== '' && options['xdp-mode'] === undefined) {
    throw new Error(
      `AF_XDP would hide the offloads of ${link.kind} interface ${link.name}; use it with options:xdp-mode=best-effort`,
    );
  }
  const device = new XdpDevice(link, readXdpOptions(options));
  return {
    name: 'af_xdp',
    attachment: (mtu): XdpAttachment => {
      const piece = device.piece(mtu);
      return { kind: XDP_KIND, portNo, rxQueues: piece.sockets.map(({ queue }) => queue), piece };
    },
    facts: () => device.facts(),
    close: () => device.close(),
  };
};

/** Makes a worker's view. */
export const xdpPort: PortFactory = (attachment, context, previous) => {
  previous?.close();
  return attachXdpPort((attachment as XdpAttachment).piece, attachment.portNo, context);
};
