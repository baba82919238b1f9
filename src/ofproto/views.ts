/** Flows and megaflows as management shows them. */
import { formatExactActions } from './actions-exact.ts';
import { formatActions } from './actions-format.ts';
import { formatActions13 } from './actions-format13.ts';
import type { ActionForm, DatapathFlowView, FlowView } from './api.ts';
import { type Match, newMatch } from './match.ts';
import { formatMatch } from './match-format.ts';
import type { InstalledFlow } from './megaflow.ts';
import { formatOdpActions, formatOdpKey } from './odp-format.ts';
import type { PortNames } from './ofp-port.ts';
import type { Rule } from './rule.ts';

/** The match being printed: a dump of many flows makes none for each. */
const scratch = newMatch();

function actionText(rule: Rule, match: Match, form: ActionForm, names: PortNames | undefined): string {
  if (form === 'exact') return formatExactActions(rule.actions);
  return form === 'nicira' ? formatActions(rule.actions, names) : formatActions13(rule.actions, match, names);
}

/** @param now ms; @param names ports to print by name. */
export function flowView(rule: Rule, now: number, form: ActionForm, names: PortNames | undefined): FlowView {
  const { flags } = rule;
  const match = rule.match(scratch);
  return {
    table: rule.table,
    priority: rule.priority,
    cookie: `0x${rule.cookie.toString(16)}`,
    duration: (now - rule.created) / 1000,
    idleTimeout: rule.idleTimeout,
    hardTimeout: rule.hardTimeout,
    importance: rule.importance,
    flags,
    packets: rule.packets,
    bytes: rule.bytes,
    idleAge: Math.max(0, Math.floor((now - rule.used) / 1000)),
    hardAge: Math.max(0, Math.floor((now - rule.modified) / 1000)),
    match: formatMatch(match, names),
    actions: actionText(rule, match, form, names),
  };
}

export function datapathFlowView(
  { id, flow, packets, bytes, used, tcpFlags }: InstalledFlow,
  now: number,
): DatapathFlowView {
  return {
    id,
    match: formatOdpKey(flow),
    actions: formatOdpActions(flow.actions, flow),
    packets,
    bytes,
    used: used === 0 ? -1 : Math.max(0, now - used) / 1000,
    tcpFlags,
  };
}
