import { setTimeout } from 'node:timers/promises';
import { decodeFrame, decodeHostDescription, decodeHostRefusal, hostKey, parseSubject } from '@fleetreel/proto';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { type Program, startProgram } from '@fleetreel/test/servers/program';
import { jetstreamManager, RetentionPolicy, StorageType } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { connect, type NatsConnection, nanos } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';

const main = 'packages/agent/src/main.ts';
let nats: NatsServer;
let connection: NatsConnection;

beforeAll(async () => {
  nats = await startNats();
  connection = await connect({ servers: nats.url, maxReconnectAttempts: -1, reconnectTimeWait: 100 });
});

afterAll(async () => {
  await connection?.close();
  await nats?.[Symbol.asyncDispose]();
});

async function makeStream(): Promise<void> {
  const manager = await jetstreamManager(connection);
  await manager.streams.add({
    name: 'FRAMES',
    subjects: ['fr.v1.>'],
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    duplicate_window: nanos(120_000),
  });
}

async function agent(host: string, ...flags: string[]): Promise<Program> {
  const args = ['run', '--host', host, '--interval', '1s', '--nats-url', nats.url, ...flags];
  const program = await startProgram(main, args, {});
  onTestFinished(async () => void (await program.kill()));
  return program;
}

/** Every message of a kind that the log has of a host, oldest first. */
async function messages(kind: 'frame' | 'host' | 'refusal', host: string): Promise<Uint8Array[]> {
  const manager = await jetstreamManager(connection);
  const { state } = await manager.streams.info('FRAMES');
  const found: Uint8Array[] = [];
  for (let seq = Math.max(state.first_seq, 1); seq <= state.last_seq; seq++) {
    const message = await manager.streams.getMessage('FRAMES', { seq });
    const address = message && parseSubject(message.subject);
    if (address?.kind === kind && address.host === host) found.push(message!.data);
  }
  return found;
}

const sequences = async (host: string) => (await messages('frame', host)).map((data) => decodeFrame(data).sequence);
const count = (length: number) => Array.from({ length }, (_, index) => index + 1);

test('frames come without gaps, also those from before there was a stream, and a description comes with them', async () => {
  const one = await agent('early');
  await setTimeout(2500);
  await makeStream();
  await expect.poll(async () => (await sequences('early')).length, { timeout: 20_000 }).toBeGreaterThan(4);
  await one.stop();
  const got = await sequences('early');
  expect(got).toEqual(count(got.length));
  const frame = decodeFrame((await messages('frame', 'early')).at(-1)!);
  expect(frame.interval_ms).toBe(1000);
  expect(frame.time_us % 1_000_000).toBeLessThan(300_000);
  expect(frame.tables.cpu?.core[0]).toBe('total');
  expect(frame.tables.source?.state.every((state) => ['ok', 'unavailable', 'failed'].includes(state))).toBe(true);
  expect(frame.tables.agent?.frames_published_total[0]).toBeGreaterThan(0);
  const described = decodeHostDescription((await messages('host', 'early'))[0]!);
  expect(described).toMatchObject({ host: 'early', platform: process.platform, interval_ms: 1000 });
  expect(described.cpu_count).toBeGreaterThan(0);
  expect(described.memory_bytes).toBeGreaterThan(2 ** 28);
});

test('nats-server killed for ten seconds leaves no hole and nothing twice', async () => {
  const one = await agent('steady');
  await expect.poll(async () => (await sequences('steady')).length, { timeout: 20_000 }).toBeGreaterThan(2);
  await nats.kill();
  await setTimeout(10_000);
  await nats.restart();
  await setTimeout(6000);
  await one.stop();
  const got = await sequences('steady');
  expect(got.length).toBeGreaterThan(14);
  expect(got.toSorted((a, b) => a - b)).toEqual(count(got.length));
});

test('a name is held by one machine; the refused one says who holds it, and has it once it is free', async () => {
  const holder = await agent('wanted', '--machine-id', 'aaaaaaaaaaaa');
  await expect.poll(async () => (await sequences('wanted')).length, { timeout: 20_000 }).toBeGreaterThan(0);
  const other = await agent('wanted', '--machine-id', 'bbbbbbbbbbbb');
  await expect.poll(async () => (await messages('refusal', 'wanted')).length, { timeout: 20_000 }).toBe(1);
  const refusal = decodeHostRefusal((await messages('refusal', 'wanted'))[0]!);
  expect(refusal).toMatchObject({ machine_id: 'bbbbbbbbbbbb', holder_machine_id: 'aaaaaaaaaaaa' });
  expect(refusal.reason).toContain('held by machine aaaaaaaaaaaa');
  await expect.poll(() => other.lines.join('\n')).toContain('held by machine aaaaaaaaaaaa');
  await holder.stop();
  const kv = await new Kvm(connection).open('claims');
  await kv.delete(hostKey('default', 'wanted'));
  const sessions = async () => new Set((await messages('frame', 'wanted')).map((data) => decodeFrame(data).session));
  await expect.poll(async () => (await sessions()).size, { timeout: 20_000 }).toBe(2);
  await other.stop();
});

test('an agent that starts again on its machine takes over, and the one it displaces stops', async () => {
  const before = await agent('again');
  await expect.poll(async () => (await sequences('again')).length, { timeout: 20_000 }).toBeGreaterThan(0);
  const after = await agent('again');
  expect(await before.exited).toMatchObject({ code: 1 });
  expect(before.lines.join('\n')).toContain('Another agent has taken the name');
  await after.stop();
});

test('a clone of a running machine is refused', async () => {
  const original = await agent('cloned', '--machine-id', 'cccccccccccc');
  await expect.poll(async () => (await sequences('cloned')).length, { timeout: 20_000 }).toBeGreaterThan(0);
  // The same machine id under another boot: what a copied disk looks like.
  const kv = await new Kvm(connection).open('claims');
  const key = hostKey('default', 'cloned');
  const entry = (await kv.get(key))!;
  const claim = entry.json<{ bootId: string }>();
  await original.stop();
  await kv.put(key, JSON.stringify({ ...claim, bootId: 'another', session: 'living' }));
  const living = connection.subscribe('fr.claim.default.cloned.living', {
    callback: (_, message) => void message.respond('{}'),
  });
  const clone = await agent('cloned', '--machine-id', 'cccccccccccc');
  await expect.poll(() => clone.lines.join('\n'), { timeout: 20_000 }).toContain('one is a clone of the other');
  living.unsubscribe();
  await clone.stop();
});
