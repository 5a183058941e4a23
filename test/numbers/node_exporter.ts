// The real node_exporter, and what it says.
import { Child } from '@fleetreel/deploy/local/child';
import { freePort } from '../servers/program.ts';
import { nodeExporter } from './requirements.ts';

export type Labels = Readonly<Record<string, string>>;
type Sample = { labels: Labels; value: number };

/** One answer. */
export class Scrape {
  /** When it was asked for and when it had come: UTC, microseconds since 1970. */
  readonly begin_us: number;
  readonly end_us: number;
  readonly bytes: number;
  readonly samples: number;
  readonly #metrics = new Map<string, Sample[]>();

  constructor(text: string, begin_us: number, end_us: number) {
    this.begin_us = begin_us;
    this.end_us = end_us;
    this.bytes = Buffer.byteLength(text);
    let samples = 0;
    for (const line of text.split('\n')) {
      const [, name, labels = '', value] = line.match(/^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/) ?? [];
      if (name === undefined) continue;
      samples++;
      const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, text]) => [key, text]);
      const metric = this.#metrics.get(name) ?? [];
      metric.push({ labels: Object.fromEntries(pairs), value: Number(value) });
      this.#metrics.set(name, metric);
    }
    this.samples = samples;
  }

  /** The sum of the samples that have these labels; NaN when there is none. */
  sum(name: string, labels: Labels = {}): number {
    const found = this.#matching(name, labels);
    return found.length > 0 ? found.reduce((sum, { value }) => sum + value, 0) : Number.NaN;
  }

  /** The mean of the same. */
  mean(name: string, labels: Labels = {}): number {
    return this.sum(name, labels) / this.#matching(name, labels).length;
  }

  /** What a label is in the samples of a metric. */
  labels(name: string, label: string, where: Labels = {}): string[] {
    return [...new Set(this.#matching(name, where).map(({ labels }) => labels[label] ?? ''))];
  }

  #matching(name: string, labels: Labels): readonly Sample[] {
    const wanted = Object.entries(labels);
    return (this.#metrics.get(name) ?? []).filter((sample) =>
      wanted.every(([key, value]) => sample.labels[key] === value),
    );
  }
}

export class NodeExporter implements AsyncDisposable {
  readonly #child: Child;
  readonly #url: string;

  private constructor(child: Child, url: string) {
    this.#child = child;
    this.#url = url;
  }

  /** Starts it on a free port of loopback. */
  static async start(flags: readonly string[] = []): Promise<NodeExporter> {
    const command = nodeExporter();
    if (command === undefined) throw new Error('node_exporter is missing (Debian: prometheus-node-exporter).');
    const address = `127.0.0.1:${await freePort()}`;
    const args = [`--web.listen-address=${address}`, '--web.disable-exporter-metrics', ...flags];
    const child = await Child.start({ name: 'node_exporter', command, args });
    const exporter = new NodeExporter(child, `http://${address}/metrics`);
    await child.untilReady(
      async () =>
        await exporter.scrape().then(
          () => true,
          () => false,
        ),
      10_000,
    );
    return exporter;
  }

  get pid(): number {
    return this.#child.pid;
  }

  async scrape(): Promise<Scrape> {
    const begin_us = Date.now() * 1000;
    const answer = await fetch(this.#url, { headers: { 'accept-encoding': 'identity' } });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`node_exporter answered ${answer.status}: ${text}`);
    return new Scrape(text, begin_us, Date.now() * 1000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.stop();
  }
}
