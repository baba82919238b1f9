/** rw-cni: a plugin of the Container Network Interface 1.1 that attaches containers to a bridge of the switch. */
import process from 'node:process';
import { Attachments } from './cni/attach.ts';
import { type Delegate, delegateTo } from './cni/ipam.ts';
import {
  type Attachment,
  CniError,
  type CniResult,
  CODE,
  type Config,
  decode,
  type Environment,
  formatError,
  formatResult,
  NEWEST,
  readConfig,
  readEnvironment,
  VERSIONS,
  versionOf,
} from './cni/protocol.ts';

async function readInput(): Promise<string> {
  const parts: Buffer[] = [];
  try {
    for await (const part of process.stdin) parts.push(part as Buffer);
  } catch (error) {
    throw new CniError(CODE.io, `standard input: ${(error as Error).message}`);
  }
  return Buffer.concat(parts).toString();
}

/** What is there already, and what was made, as one result. */
function merge(config: Config, made: Awaited<ReturnType<Attachments['add']>>, addressed: CniResult): CniResult {
  const before = config.prevResult;
  const interfaces = [...(before?.interfaces ?? []), ...made.interfaces];
  const ips = (addressed.ips ?? []).map((ip) => ({ ...ip, interface: interfaces.length - 1 }));
  return {
    cniVersion: config.cniVersion,
    interfaces,
    ips: [...(before?.ips ?? []), ...ips],
    routes: [...(before?.routes ?? []), ...(addressed.routes ?? [])],
    dns: addressed.dns ?? config.dns ?? before?.dns ?? {},
  };
}

async function add(
  config: Config,
  attachments: Attachments,
  attachment: Attachment,
  netns: string,
  ipam: Delegate | undefined,
): Promise<object> {
  // Before its addresses are asked for: taking those back would take them from the attachment that there is.
  await attachments.refuseAgain(attachment);
  let addressed: CniResult = { cniVersion: config.cniVersion };
  try {
    addressed = (await ipam?.run('ADD')) ?? addressed;
    return formatResult(merge(config, await attachments.add(attachment, netns, addressed), addressed));
  } catch (error) {
    // Section 4: a delegated ADD is taken back, failed or not.
    await ipam?.run('DEL').catch(() => undefined);
    throw error;
  }
}

async function collect(config: Config, attachments: Attachments, ipam: Delegate | undefined): Promise<void> {
  if (!config.valid) {
    throw new CniError(CODE.config, 'cni.dev/valid-attachments is missing: the list of attachments to keep');
  }
  const done = await Promise.allSettled([attachments.collect(config.valid), ipam?.run('GC')]);
  const failed = done.find((each) => each.status === 'rejected');
  if (failed) throw failed.reason;
}

/** @returns what goes to standard output; undefined: nothing. */
async function serve({ command, netns, ...environment }: Environment, input: string): Promise<object | undefined> {
  const fields = decode(input);
  const config = readConfig(fields, environment);
  const attachments = new Attachments(config);
  const ipam = config.ipam === '' ? undefined : delegateTo(config.ipam, environment.path, input);
  switch (command) {
    case 'ADD':
      return add(config, attachments, environment, netns, ipam);
    case 'DEL': {
      const done = await Promise.allSettled([ipam?.run('DEL'), attachments.delete(environment)]);
      const failed = done.find((each) => each.status === 'rejected');
      if (failed) throw failed.reason;
      return undefined;
    }
    case 'CHECK':
      if (!config.prevResult) throw new CniError(CODE.config, 'prevResult is missing');
      await attachments.check(environment, netns, config.prevResult);
      await ipam?.run('CHECK');
      return undefined;
    case 'GC':
      await collect(config, attachments, ipam);
      return undefined;
    default:
      await attachments.status();
      await ipam?.run('STATUS');
      return undefined;
  }
}

async function main(): Promise<void> {
  let version: string = NEWEST;
  try {
    const environment = readEnvironment(process.env);
    const input = await readInput();
    if (environment.command === 'VERSION') {
      process.stdout.write(`${JSON.stringify({ cniVersion: NEWEST, supportedVersions: VERSIONS })}\n`);
      return;
    }
    version = versionOf(decode(input));
    const answer = await serve(environment, input);
    if (answer) process.stdout.write(`${JSON.stringify(answer, undefined, 2)}\n`);
  } catch (error) {
    const told = error instanceof CniError ? error : new CniError(CODE.failed, (error as Error).message);
    process.stdout.write(`${JSON.stringify(formatError(version, told), undefined, 2)}\n`);
    process.exitCode = 1;
  }
}

await main();
