/** OpenFlow versions, as far as they change what ovs-ofctl prints and asks for. All requests go over the API. */
import { OPENFLOW_VERSIONS } from '#contract/flow-line.ts';
import { Fatal } from '../client.ts';

export interface OfVersion {
  /** Wire version: 1 is OpenFlow 1.0, 6 is 1.5. */
  readonly number: number;
  /** ` (OF1.3)`; empty for 1.0. */
  readonly label: string;
}

/** @param text of -O: one version or a list, of which the highest is taken. @throws Fatal */
export function parseVersion(text: string | undefined): OfVersion {
  if (text === undefined) return { number: 1, label: '' };
  let number = 0;
  for (const word of text.split(/[,\s]+/).filter((part) => part !== '')) {
    const at = OPENFLOW_VERSIONS.findIndex((name) => name.toLowerCase() === word.toLowerCase());
    if (at < 0) throw new Fatal(`Unknown OpenFlow version: "${word}"`);
    number = Math.max(number, at + 1);
  }
  if (number === 0) throw new Fatal(`Unknown OpenFlow version: "${text}"`);
  return { number, label: number === 1 ? '' : ` (OF1.${number - 1})` };
}

/** Name of a version as the API takes it. */
export const versionName = ({ number }: OfVersion): string => OPENFLOW_VERSIONS[number - 1]!;

/**
 * First line of a multipart reply. Statistics that OpenFlow 1.0 lacks come as Nicira extensions there.
 * @param nicira name in version 1.0 where it differs.
 */
export function replyHeader(version: OfVersion, name: string, xid: number, nicira = false): string {
  const kind = nicira && version.number === 1 ? 'NXST' : 'OFPST';
  return `${kind}_${name} reply${version.label} (xid=0x${xid.toString(16)}):`;
}
