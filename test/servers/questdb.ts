import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import { thisMachine } from '@fleetreel/deploy/local/obtain';
import { freePort } from '@fleetreel/deploy/local/port';
import { findQuestdb, type QuestdbOptions, query, questdbService } from '@fleetreel/deploy/local/questdb';
import { watch } from '../secrets.ts';

/** A QuestDB on loopback with passwords of its own. Its folder is removed with it unless it was given. */
export class Questdb implements AsyncDisposable {
  readonly httpUrl: string;
  readonly pgHost = '127.0.0.1';
  readonly pgPort: number;
  readonly user: string;
  readonly password: string;
  readonly readUser: string;
  readonly readPassword: string;
  readonly data: string;
  readonly #service: ReturnType<typeof questdbService>;
  readonly #temporary: boolean;
  readonly #lines: string[] = [];
  #child: Child | undefined;

  constructor(options: QuestdbOptions, temporary: boolean) {
    this.httpUrl = `http://127.0.0.1:${options.httpPort}`;
    this.pgPort = options.pgPort;
    this.user = options.user;
    this.password = options.password;
    this.readUser = options.readUser;
    this.readPassword = options.readPassword;
    this.data = options.data;
    this.#service = questdbService(options);
    this.#temporary = temporary;
    watch.add(options.password, options.readPassword);
    watch.program('QuestDB', this.#service, this.#lines);
  }

  get pid(): number {
    if (!this.#child || this.#child.ended) throw new Error('This QuestDB does not run.');
    return this.#child.pid;
  }

  /** What a collector is told of it, as its environment. */
  get environment(): Record<string, string> {
    return {
      FLEETREEL_QUESTDB_HTTP_URL: this.httpUrl,
      FLEETREEL_QUESTDB_PG_HOST: this.pgHost,
      FLEETREEL_QUESTDB_PG_PORT: String(this.pgPort),
      FLEETREEL_QUESTDB_USER: this.user,
      FLEETREEL_QUESTDB_PASSWORD: this.password,
      FLEETREEL_QUESTDB_READ_USER: this.readUser,
      FLEETREEL_QUESTDB_READ_PASSWORD: this.readPassword,
    };
  }

  /** Runs one statement as the writing user. */
  async query(sql: string): Promise<{ columns: string[]; rows: unknown[][] }> {
    return await query(this, sql);
  }

  /** Starts it again on the same ports and data; stops it before when it runs. */
  async restart(): Promise<void> {
    await this.stop();
    this.#child = await Child.start(this.#service, (line) => this.#lines.push(line));
    await this.#child.untilReady(this.#service.ready, 60_000);
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    await this.#child?.kill();
  }

  async stop(): Promise<void> {
    await this.#child?.stop(10_000);
  }

  /** Stops it from answering while its connections stay open. Returns when all of its threads stand still. */
  freeze(): void {
    this.#child?.signal('SIGSTOP');
    const tasks = `/proc/${this.pid}/task`;
    const moves = (task: string) => !/\) [Tt] /.test(readFileSync(`${tasks}/${task}/stat`, 'utf8'));
    // A pause that lets nothing else of this process run: whoever calls this measures what comes after.
    while (readdirSync(tasks).some(moves)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
  }

  thaw(): void {
    this.#child?.signal('SIGCONT');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Nothing of it is needed any more when its folder goes.
    if (this.#temporary) await this.kill();
    else await this.stop();
    if (this.#temporary) await watch.folder(this.data);
    if (this.#temporary) rmSync(this.data, { recursive: true, force: true });
  }
}

export async function startQuestdb({ data }: { data?: string } = {}): Promise<Questdb> {
  const program = await findQuestdb(thisMachine());
  const password = () => randomBytes(12).toString('hex');
  const options: QuestdbOptions = {
    program,
    httpPort: await freePort(),
    pgPort: await freePort(),
    data: data ?? mkdtempSync(join(tmpdir(), 'fleetreel-questdb-')),
    user: 'fleetreel',
    password: password(),
    readUser: 'reader',
    readPassword: password(),
  };
  const server = new Questdb(options, data === undefined);
  try {
    await server.restart();
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  return server;
}
