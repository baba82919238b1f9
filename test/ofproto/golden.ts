/**
 * Texts that the tools of Open vSwitch 3.1 printed, kept beside what they were given: a line of input, then a line of
 * output behind a tab.
 */
import { readFileSync } from 'node:fs';
import { formatActions } from '#ofproto/actions-format.ts';
import { formatActions13 } from '#ofproto/actions-format13.ts';
import { RequestError } from '#ofproto/api.ts';
import { parseFlowMod } from '#ofproto/flow-parse.ts';
import { formatMatch } from '#ofproto/match-format.ts';
import type { PortNames } from '#ofproto/ofp-port.ts';

export interface Golden {
  readonly input: string;
  readonly output: string;
}

export function readGolden(name: string): Golden[] {
  const lines = readFileSync(new URL(`golden/${name}`, import.meta.url), 'utf8')
    .trimEnd()
    .split('\n');
  const pairs: Golden[] = [];
  for (let at = 0; at < lines.length; at += 2) pairs.push({ input: lines[at]!, output: lines[at + 1]!.slice(1) });
  return pairs;
}

/** Ports p1, p2, p3 as numbers 1, 2, 3: those that the texts were made with. */
export const portNames: PortNames = {
  numberOf: (name) => (/^p[123]$/.test(name) ? Number(name.slice(1)) : undefined),
  nameOf: (port) => (port >= 1 && port <= 3 ? `p${port}` : undefined),
};

/** Match and actions of a flow as dump-flows shows them without counters and flow keys. */
export function canonicalFlow(text: string): string {
  const { match, actions } = parseFlowMod('add', text, portNames);
  return `${formatMatch(match)} actions=${formatActions(actions)}`.trimStart();
}

/** The same in the terms of OpenFlow 1.3. */
export function canonicalFlow13(text: string): string {
  const { match, actions } = parseFlowMod('add', text, portNames);
  return `${formatMatch(match)} actions=${formatActions13(actions, match)}`.trimStart();
}

/** The message of the RequestError that `run` throws, or `undefined` when it does not; other errors are let through. */
export function refusal(run: () => unknown): string | undefined {
  try {
    run();
    return undefined;
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    return error.message;
  }
}
