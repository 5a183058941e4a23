// Stores that each hold a part of the hosts: together they hold everything once. What docs/scaling.md says about them is done here.
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { expect, test } from 'vitest';
import { PublishedHost } from '../frames.ts';
import { type NatsServer, startNats } from '../servers/nats.ts';
import { startProgram } from '../servers/program.ts';
import { endOf, eventually, programs } from '../stack.ts';
import { Collector, Store } from './stores.ts';

const second = 1000;
const names = Array.from({ length: 40 }, (_, index) => `p${String(index).padStart(2, '0')}`);
const framesOfRound = 10;

/** The part of each host, counted from 1, as nats-server computes it. */
async function partsByServer(connection: NatsConnection, of: number): Promise<Map<string, number>> {
  const manager = await jetstreamManager(connection);
  const name = `PROBE_${of}`;
  await manager.streams.add({
    name,
    subjects: [`probe.${of}.*.*.*`],
    subject_transform: {
      src: `probe.${of}.*.*.*`,
      dest: `probe.${of}.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}.{{partition(${of},1,3)}}`,
    },
  });
  for (const host of names) await jetstream(connection).publish(`probe.${of}.default.frame.${host}`);
  const { state } = await manager.streams.info(name, { subjects_filter: '>' });
  return new Map(
    Object.keys(state.subjects ?? {}).map((subject) => {
      const [, , , , host = '', part] = subject.split('.');
      return [host, Number(part) + 1];
    }),
  );
}

/** Publishes some frames of each host, one a second up to now. */
async function publish(hosts: readonly PublishedHost[]): Promise<void> {
  const begin = Date.now() - framesOfRound * second;
  for (let tick = 0; tick < framesOfRound; tick++)
    await Promise.all(
      hosts.map((host) => host.publish({ memory: { total_bytes: [4096], used_bytes: [tick] } }, begin + tick * second)),
    );
}

/** Waits until both stores have so many frames of each host, and returns the store of each. */
async function storesOf(stores: readonly Store[], frames: number): Promise<Map<string, number>> {
  const total = names.length * frames;
  await eventually(`${total} rows of frames and of memory`, 120 * second, async () => {
    for (const table of ['frame', 'memory']) {
      const counts = await Promise.all(stores.map((store) => store.count(table)));
      if (counts.reduce((sum, count) => sum + count, 0) < total) throw new Error(`${table}: ${counts.join(' + ')}`);
    }
    return true;
  });
  const found = new Map<string, number>();
  for (const [index, store] of stores.entries())
    for (const [host, sessions] of await store.frames()) {
      expect(found.has(host), `${host} is in one store alone`).toBe(false);
      // None lost, none doubled.
      expect(sessions, host).toEqual([[frames, frames]]);
      found.set(host, index + 1);
    }
  for (const table of ['frame', 'memory'])
    expect((await Promise.all(stores.map((store) => store.count(table)))).reduce((a, b) => a + b)).toBe(total);
  return found;
}

const listed = async ({ address }: Collector): Promise<string[]> => {
  const { hosts } = (await (await fetch(`${address}/api/v1/hosts`)).json()) as { hosts: { host: string }[] };
  return hosts.map(({ host }) => host);
};

/** What the collector says of the stores of the log. */
async function storesListed({ url }: NatsServer): Promise<string[]> {
  const { output } = await endOf(await startProgram(programs.collector, ['stores', '--nats-url', url]), 120 * second);
  return output.split('\n').flatMap((line) => /^main\S*/.exec(line)?.[0] ?? []);
}

test('two collectors with a part each hold every host once, and keep to it', { timeout: 600 * second }, async () => {
  await using nats = await startNats();
  const stores = await Promise.all([Store.start('main'), Store.start('main')]);
  await using left = stores[0];
  await using right = stores[1];
  const connection = await connect({ servers: nats.url });
  try {
    const parts = await partsByServer(connection, 2);
    const ofPart = (number: number) => names.filter((name) => parts.get(name) === number);
    const hosts = names.map((name) => new PublishedHost(connection, name));
    {
      await using first = await Collector.start(nats.url, left, ['--partition', '1/2']);
      await using other = await Collector.start(nats.url, right, ['--partition', '2/2']);
      await Promise.all(hosts.map((host) => host.describe()));
      await publish(hosts);
      expect(await storesOf([left, right], framesOfRound)).toEqual(parts);
      await eventually('hosts of a part alone', 60 * second, async () => {
        const [own, others] = [await listed(first), await listed(other)];
        return own.length === ofPart(1).length && others.length === ofPart(2).length ? true : undefined;
      });
      expect(await listed(first)).toEqual(ofPart(1));
      expect(await listed(other)).toEqual(ofPart(2));
      first.program.signal('SIGKILL');
      await first.program.exited;
      await publish(hosts);
      await using again = await Collector.start(nats.url, left, ['--partition', '1/2']);
      expect(await storesOf([left, right], 2 * framesOfRound)).toEqual(parts);
      expect(await listed(again)).toEqual(ofPart(1));
    }
    // Twice as many: two hold what one held. One goes on with its store, the other fills an empty one from the log.
    const quarters = await partsByServer(connection, 4);
    const moved = names.filter((name) => quarters.get(name) === 3);
    expect(moved.length).toBeGreaterThan(0);
    expect(moved.map((name) => parts.get(name))).toEqual(moved.map(() => 1));
    for (const table of ['frame', 'memory']) await right.questdb.query(`TRUNCATE TABLE ${table}`);
    const flags = [...right.flags(nats.url), '--partition', '3/4'];
    const { code, output } = await endOf(
      await startProgram(programs.collector, ['rebuild', ...flags], right.questdb.environment),
      240 * second,
    );
    expect(code, output).toBe(0);
    expect(await right.frames()).toEqual(
      new Map(moved.map((name) => [name, [[2 * framesOfRound, 2 * framesOfRound]]])),
    );
    expect(await storesListed(nats)).toEqual(['main@1-of-2', 'main@2-of-2', 'main@3-of-4']);
  } finally {
    await connection.close();
  }
});
