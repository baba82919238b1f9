/** OpenFlow versions, as far as they change what ovs-ofctl prints. Requests go over the API whatever the version. */
import { Fatal } from '../client.ts';

export interface OfVersion {
  /** Wire version: 1 is OpenFlow 1.0, 6 is 1.5. */
  readonly number: number;
  /** ` (OF1.3)`; empty for 1.0. */
  readonly label: string;
}

const VERSIONS: readonly string[] = [
  'OpenFlow10',
  'OpenFlow11',
  'OpenFlow12',
  'OpenFlow13',
  'OpenFlow14',
  'OpenFlow15',
];

/** @param text of -O: one version or a list, of which the highest is taken. @throws Fatal */
export function parseVersion(text: string | undefined): OfVersion {
  if (text === undefined) return { number: 1, label: '' };
  let number = 0;
  for (const word of text.split(/[,\s]+/).filter((part) => part !== '')) {
    const at = VERSIONS.findIndex((name) => name.toLowerCase() === word.toLowerCase());
    if (at < 0) throw new Fatal(`Unknown OpenFlow version: "${word}"`);
    number = Math.max(number, at + 1);
  }
  if (number === 0) throw new Fatal(`Unknown OpenFlow version: "${text}"`);
  return { number, label: number === 1 ? '' : ` (OF1.${number - 1})` };
}

/**
 * First line of a multipart reply. Statistics that OpenFlow 1.0 lacks come as Nicira extensions there.
 * @param nicira name in version 1.0 where it differs.
 */
export function replyHeader(version: OfVersion, name: string, xid: number, nicira = false): string {
  const kind = nicira && version.number === 1 ? 'NXST' : 'OFPST';
  return `${kind}_${name} reply${version.label} (xid=0x${xid.toString(16)}):`;
}
