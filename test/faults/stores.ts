// Collectors and the stores that they fill, each with its own database; and whether two stores hold the same.
import { catalog } from '@fleetreel/proto';
import { freePort, type Program, startProgram } from '../servers/program.ts';
import { type Questdb, startQuestdb } from '../servers/questdb.ts';
import { eventually, programs } from '../stack.ts';

/** A collector as a program, and what it says of itself. */
export class Collector implements AsyncDisposable {
  readonly program: Program;
  readonly address: string;

  private constructor(program: Program, address: string) {
    this.program = program;
    this.address = address;
  }

  /** Starts one; settled when it is ready. */
  static async start(url: string, store: Store, flags: readonly string[] = []): Promise<Collector> {
    const port = await freePort();
    const faces = ['--http-port', String(port), '--grpc-port', '0', '--access-anonymous', 'admin'];
    const program = await startProgram(
      programs.collector,
      ['run', ...store.flags(url), ...faces, ...flags],
      store.questdb.environment,
    );
    const collector = new Collector(program, `http://127.0.0.1:${port}`);
    const said = () => program.lines.slice(-10).join('\n');
    await eventually(`a collector of the store ${store.name} that is ready`, 120_000, async () => {
      const { status } = await fetch(`${collector.address}/readyz`, { signal: AbortSignal.timeout(5000) });
      if (status !== 200) throw new Error(`/readyz: ${status}\n${said()}`);
      return true;
    });
    return collector;
  }

  /** A counter of its own. */
  async counted(name: string): Promise<number> {
    const text = await (await fetch(`${this.address}/metrics`)).text();
    const values = text.matchAll(new RegExp(`^fleetreel_collector_${name}(?:\\{.*\\})? (\\S+)$`, 'gm'));
    return [...values].reduce((sum, [, value]) => sum + Number(value), 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.program.stop();
  }
}

/** A store by its name, and the QuestDB that it is in. */
export class Store implements AsyncDisposable {
  readonly name: string;
  readonly questdb: Questdb;

  constructor(name: string, questdb: Questdb) {
    this.name = name;
    this.questdb = questdb;
  }

  static async start(name: string): Promise<Store> {
    return new Store(name, await startQuestdb());
  }

  /** Flags of a collector that fills it from this log; where it is comes by the environment. */
  flags(url: string): string[] {
    return ['--nats-url', url, '--store', this.name];
  }

  async count(table = 'frame'): Promise<number> {
    return Number((await this.questdb.query(`SELECT count() FROM ${table}`)).rows[0]?.[0]);
  }

  /** Of every host, for each of its sessions: how many rows of frames there are, and how many sequences these have. */
  async frames(): Promise<Map<string, [rows: number, sequences: number][]>> {
    const { rows } = await this.questdb.query('SELECT host, session, count(), count_distinct(sequence) FROM frame');
    const hosts = new Map<string, [number, number][]>();
    for (const [host, , count, sequences] of rows)
      hosts.set(String(host), [...(hosts.get(String(host)) ?? []), [Number(count), Number(sequences)]]);
    return hosts;
  }

  /** Of every table and simulated host the number of rows and of values, and the sum of each field. */
  async content(): Promise<Map<string, number[]>> {
    const found = new Map<string, number[]>();
    for (const { name, fields } of catalog) {
      const columns = fields.flatMap((field) => [`count("${field.name}")`, `sum("${field.name}")`]);
      const { rows } = await this.questdb.query(
        `SELECT host, count(), ${columns.join(', ')} FROM "${name}" WHERE host LIKE 'host-%'`,
      );
      for (const [host, ...numbers] of rows) found.set(`${name} ${String(host)}`, numbers.map(Number));
    }
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.questdb[Symbol.asyncDispose]();
  }
}

/** What is different between two stores: nothing when they hold the same. Sums of doubles depend on their order a little. */
export function contentDifferences(
  one: ReadonlyMap<string, readonly number[]>,
  other: ReadonlyMap<string, readonly number[]>,
): string[] {
  const differing: string[] = [];
  for (const key of new Set([...one.keys(), ...other.keys()])) {
    const [a, b] = [one.get(key), other.get(key)];
    const same = a?.length === b?.length && a?.every((value, place) => alike(value, b?.[place] ?? Number.NaN));
    if (!same) differing.push(`${key}: ${a?.join(' ')} | ${b?.join(' ')}`);
  }
  return differing;
}

const alike = (a: number, b: number): boolean =>
  a === b || Math.abs(a - b) <= 1e-9 * Math.max(Math.abs(a), Math.abs(b));
