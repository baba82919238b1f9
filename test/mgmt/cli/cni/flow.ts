/** A container runtime for tests: runs rw-cni as the specification says, with an IPAM plugin that hands out 10.11.0.0/24. */
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../../../support/process.ts';

const PLUGIN = fileURLToPath(new URL('../../../../bin/rw-cni', import.meta.url));

/** Addresses lie in files named after their attachment; every command is noted in `log`. */
const IPAM = (folder: string): string => `#!${process.execPath}
const fs = require('node:fs');
const folder = ${JSON.stringify(folder)};
const { CNI_COMMAND: command, CNI_CONTAINERID: id, CNI_IFNAME: ifname } = process.env;
const config = JSON.parse(fs.readFileSync(0, 'utf8'));
fs.appendFileSync(folder + '/log', command + '\\n');
const file = folder + '/lease-' + id + '-' + ifname;
const leases = () => fs.readdirSync(folder).filter((name) => name.startsWith('lease-'));
if (config.ipam.fail === command) {
  console.log(JSON.stringify({ cniVersion: config.cniVersion, code: 11, msg: 'no addresses left' }));
  process.exit(1);
}
if (command === 'ADD') {
  const used = leases().map((name) => fs.readFileSync(folder + '/' + name, 'utf8'));
  let host = 2;
  while (used.includes(String(host))) host++;
  fs.writeFileSync(file, String(host));
  const ips = [{ address: '10.11.0.' + host + '/24', gateway: '10.11.0.1' }, { address: 'fd00:0011::' + host + '/64' }];
  console.log(JSON.stringify({ cniVersion: config.cniVersion, ips, routes: [{ dst: '0.0.0.0/0' }], dns: { nameservers: ['10.11.0.1'] } }));
} else if (command === 'DEL') fs.rmSync(file, { force: true });
else if (command === 'CHECK') process.exit(fs.existsSync(file) ? 0 : 1);
else if (command === 'GC') {
  const valid = config['cni.dev/valid-attachments'].map((at) => 'lease-' + at.containerID + '-' + at.ifname);
  for (const name of leases()) if (!valid.includes(name)) fs.rmSync(folder + '/' + name);
}
`;

export interface Outcome {
  readonly code: number;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into it
  readonly json: any;
}

export class Runtime {
  readonly folder: string;
  readonly config: object;
  readonly #under: readonly string[];

  /** @param config fields of the plugin's own. @param under command that the plugin is run by. */
  constructor(folder: string, config: object, under: readonly string[] = []) {
    this.#under = under;
    this.folder = folder;
    this.config = { cniVersion: '1.1.0', name: 'testnet', type: 'rw-cni', ...config };
    writeFileSync(join(folder, 'test-ipam'), IPAM(folder));
    chmodSync(join(folder, 'test-ipam'), 0o755);
  }

  /** Commands that the IPAM plugin was given. */
  get delegated(): string[] {
    return readFileSync(join(this.folder, 'log'), 'utf8').trimEnd().split('\n');
  }

  async call(command: string, env: Record<string, string> = {}, more: object = {}): Promise<Outcome> {
    const [file, ...words] = [...this.#under, PLUGIN];
    const { code, stdout, stderr } = await run(file!, words, {
      env: { CNI_COMMAND: command, CNI_PATH: this.folder, ...env },
      input: JSON.stringify({ ...this.config, ...more }),
      timeoutMs: 60_000,
    });
    if (stdout.trim() === '') return { code, json: undefined };
    try {
      return { code, json: JSON.parse(stdout) };
    } catch {
      throw new Error(`rw-cni ${command} said: ${stdout}${stderr}`);
    }
  }
}
