/** Kernel devices that are only noted: pairs by their host end, settings as they were asked for. */
import type { DeviceSettings, Links, VethPair } from '#contract/links.ts';

export class FakeLinks implements Links {
  readonly pairs = new Map<string, VethPair>();
  readonly settings = new Map<string, DeviceSettings>();
  /** Devices that others made: the bridges' own. */
  readonly others = new Map<string, number>();
  failure: Error | undefined;

  exists(name: string): boolean {
    return this.index(name) > 0;
  }

  index(name: string): number {
    const found = [...this.pairs.keys()].indexOf(name);
    return found >= 0 ? 100 + found : (this.others.get(name) ?? 0);
  }

  async addVeth(pair: VethPair): Promise<void> {
    if (this.failure) throw this.failure;
    if (!this.pairs.has(pair.host)) this.pairs.set(pair.host, pair);
  }

  async remove(name: string): Promise<void> {
    this.pairs.delete(name);
  }

  async configure(name: string, settings: DeviceSettings): Promise<void> {
    if (this.failure) throw this.failure;
    this.settings.set(name, settings);
  }

  async list(alias: string): Promise<string[]> {
    return [...this.pairs.values()].filter((pair) => pair.alias === alias).map(({ host }) => host);
  }
}
