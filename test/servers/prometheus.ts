// Debian's Prometheus, as its users run it, and its check of an exposition.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import { freePort } from '@fleetreel/deploy/local/port';

/** One series of an answer: its labels and its newest value. */
export type Sample = { labels: Record<string, string>; value: number };

/** What `promtool check metrics` says of a page: nothing when it finds no fault. */
export function promtool(page: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile('promtool', ['check', 'metrics'], (error, stdout, stderr) => {
      if (error && typeof error.code !== 'number') reject(error);
      else resolve(`${stdout}${stderr}`.trim());
    });
    child.stdin?.end(page);
  });
}

/** A Prometheus on loopback that scrapes every second. */
export class Prometheus implements AsyncDisposable {
  readonly #url: string;
  readonly #child: Child;
  readonly #folder: string;

  private constructor(url: string, child: Child, folder: string) {
    this.#url = url;
    this.#child = child;
    this.#folder = folder;
  }

  /** @param scrape one entry of `scrape_configs`, in YAML's form of JSON */
  static async start(scrape: object): Promise<Prometheus> {
    const folder = mkdtempSync(join(tmpdir(), 'fleetreel-prometheus-'));
    const config = join(folder, 'prometheus.yml');
    writeFileSync(config, JSON.stringify({ global: { scrape_interval: '1s' }, scrape_configs: [scrape] }));
    const address = `127.0.0.1:${await freePort()}`;
    const args = [
      `--config.file=${config}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=${address}`,
    ];
    const child = await Child.start({ name: 'Prometheus', command: 'prometheus', args });
    const server = new Prometheus(`http://${address}`, child, folder);
    try {
      await child.untilReady(async (signal) => {
        const answer = await fetch(`http://${address}/-/ready`, { signal }).catch(() => undefined);
        return answer?.ok === true;
      }, 30_000);
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
    return server;
  }

  /** The answer to an instant query, now. */
  async query(expression: string): Promise<Sample[]> {
    const answer = await fetch(`${this.#url}/api/v1/query?query=${encodeURIComponent(expression)}`);
    const { status, data, error } = (await answer.json()) as {
      status: string;
      error?: string;
      data?: { result: { metric: Record<string, string>; value: [number, string] }[] };
    };
    if (status !== 'success' || !data) throw new Error(`Prometheus can't answer ${expression}: ${error}`);
    return data.result.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stop();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
