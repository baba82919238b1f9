/**
 * Golden outputs: commands of `golden/<tool>.commands` and what the tools of Open vSwitch 3.1 answered to them, in
 * `golden/<tool>.golden`. What differs from run to run, or names the program, is put in one form first.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startOvs } from '../support/ovs.ts';
import { run, which } from '../support/process.ts';

const FOLDER = join(import.meta.dirname, 'golden');
/** Where the tools are. */
export const BIN = join(import.meta.dirname, '../../bin');

const FILES: Readonly<Record<string, string>> = {
  'bad.flows': 'priority=9,ip,actions=1\n# comment\n\nin_port=2,bad=1,actions=3\n',
  'one.flows': 'priority=9,ip,actions=1\n',
  'two.flows': 'priority=9,ip,actions=2\npriority=1,udp,cookie=5,actions=drop',
  'pipe.flows':
    'priority=3,ip,actions=goto_table:5\npriority=5,actions=push_vlan:0x8100,set_field:4101->vlan_vid,2\n' +
    'priority=6,actions=push_vlan:0x88a8,set_field:4101->vlan_vid,2\npriority=4,ip,actions=write_actions(output:2),goto_table:5\n' +
    'priority=2,ip,actions=resubmit(,5)\n',
  'pipe2.flows':
    'priority=3,ip,actions=resubmit(,5)\npriority=5,actions=push_vlan:0x8100,set_field:4101->vlan_vid,2\n' +
    'priority=6,actions=push_vlan:0x8100,set_field:4101->vlan_vid,2\npriority=4,ip,actions=write_actions(output:3),goto_table:5\n' +
    'priority=2,ip,actions=resubmit(,5)\n',
  'mods.flows': 'add priority=3,tcp actions=drop\ndelete udp\nmodify ip actions=2\n',
};

/** Writes the files that the commands name. */
export function writeInputs(folder: string): void {
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(FILES)) writeFileSync(join(folder, name), text);
}

export const commandsOf = (tool: string): string[] =>
  readFileSync(join(FOLDER, `${tool}.commands`), 'utf8')
    .trim()
    .split('\n');

/** Words of a command line: blanks divide, single quotes keep. */
const words = (line: string): string[] =>
  [...line.matchAll(/(?:'([^']*)'|(\S+))/g)].map((found) => found[1] ?? found[2]!);

const DUMP = /^\S*ofctl .*(dump-flows|diff-flows|dump-ports|dump-groups?)\b/;

/** Order among flows and groups is nobody's promise, unless sorting was asked for. */
function inOrder(command: string, output: string): string {
  if (!DUMP.test(command) || /--r?sort/.test(command)) return output;
  const lines = output.split('\n');
  const movable = (line: string): boolean => /^( .*actions=|[-+]| group_id=)/.test(line);
  const sorted = lines.filter(movable).sort();
  return lines.map((line) => (movable(line) ? sorted.shift()! : line)).join('\n');
}

function normalise(command: string, output: string): string {
  return inOrder(
    command,
    output
      .replace(/\b(?:ovs|rw)-(vsctl|ofctl|appctl): (?:ovs-vswitchd|\/\S+\.(?:ctl|sock)):/g, '$1: DAEMON:')
      .replace(/\b(?:ovs|rw)-(vsctl|ofctl|appctl|vswitchd)\b/g, '$1')
      .replace(/xid=0x[0-9a-f]+/g, 'xid=X')
      .replace(/\b(duration|idle_age|hard_age)=[\d.]+/g, '$1=N')
      .replace(/\bhard_age=N, /g, '')
      .replace(/addr:[0-9a-f:]{17}/g, 'addr:MAC'),
  );
}

/**
 * Runs all commands of a tool's list. @param prefix what stands before `vsctl`, `ofctl`, `appctl`: `ovs-`, or a folder with `rw-`.
 * @returns the transcript.
 */
export async function transcript(
  tool: string,
  prefix: string,
  env: Record<string, string>,
  cwd: string,
  extra: Record<string, string[]> = {},
): Promise<string> {
  let text = '';
  for (const command of commandsOf(tool)) {
    const [program = '', ...args] = words(command);
    const { code, stdout, stderr } = await run(
      'env',
      ['-C', cwd, `${prefix}${program}`, ...(extra[program] ?? []), ...args],
      { env },
    );
    text += `$ ${command}\n${normalise(command, stdout + stderr)}${code === 0 ? '' : `rc=${code}\n`}`;
  }
  return text;
}

export const recorded = (tool: string): string => readFileSync(join(FOLDER, `${tool}.golden`), 'utf8');
export const record = (tool: string, text: string): void => writeFileSync(join(FOLDER, `${tool}.golden`), text);

/** The same from the tools of the Open vSwitch that is installed here, on its dummy datapath. */
export async function ovsTranscript(tool: string): Promise<string> {
  const ovs = await startOvs({
    daemon: which('ovs-vswitchd') ?? 'ovs-vswitchd',
    daemonArgs: ['--enable-dummy=override', '--disable-system'],
  });
  try {
    const inputs = join(ovs.rundir, 'inputs');
    writeInputs(inputs);
    const extra = { vsctl: [`--db=unix:${join(ovs.rundir, 'db.sock')}`], appctl: ['-t', join(ovs.rundir, 'vs.ctl')] };
    return await transcript(tool, 'ovs-', { OVS_RUNDIR: ovs.rundir }, inputs, extra);
  } finally {
    await ovs.stop();
  }
}
