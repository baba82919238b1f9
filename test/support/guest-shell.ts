/** A Linux guest with the init of initramfs.ts, driven line by line through its console. */
import { PATIENCE_MS } from './datapath.ts';
import type { Child } from './process.ts';

export abstract class GuestShell {
  abstract readonly child: Child;

  /** Runs one line of shell in the guest. @returns what it printed. @throws Error when it ends with another code than 0. */
  async run(line: string, timeoutMs = PATIENCE_MS): Promise<string> {
    const { code, output } = await this.tryRun(line, timeoutMs);
    if (code !== 0) throw new Error(`${this.child.name}: ${line}: exit code ${code}\n${output}`);
    return output;
  }

  async tryRun(line: string, timeoutMs = PATIENCE_MS): Promise<{ code: number; output: string }> {
    const mark = this.child.mark;
    this.child.write(`${line}\n`);
    const said = await this.child.waitFor(/#ended \d+#\s*\n/, `${this.child.name} to run: ${line}`, timeoutMs, mark);
    const end = /#ended (\d+)#/.exec(said)!;
    return { code: Number(end[1]), output: said.slice(0, end.index).replaceAll('\r', '') };
  }
}
