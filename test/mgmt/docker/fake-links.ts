/** Kernel devices that are only noted: pairs by their host end. */
import type { Links, VethPair } from '#contract/links.ts';

export class FakeLinks implements Links {
  readonly pairs = new Map<string, VethPair>();
  failure: Error | undefined;

  async exists(name: string): Promise<boolean> {
    return this.pairs.has(name);
  }

  async addVeth(pair: VethPair): Promise<void> {
    if (this.failure) throw this.failure;
    if (!this.pairs.has(pair.host)) this.pairs.set(pair.host, pair);
  }

  async remove(name: string): Promise<void> {
    this.pairs.delete(name);
  }

  async list(alias: string): Promise<string[]> {
    return [...this.pairs.values()].filter((pair) => pair.alias === alias).map(({ host }) => host);
  }
}
