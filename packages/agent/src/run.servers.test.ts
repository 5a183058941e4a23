import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { decodeFrame, decodeHostDescription, decodeHostRefusal, hostKey, parseSubject } from '@fleetreel/proto';
import { decodeBatch } from '@fleetreel/proto/batch';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { freePort, type Program, startProgram } from '@fleetreel/test/servers/program';
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

async function makeStream(to = connection): Promise<void> {
  const manager = await jetstreamManager(to);
  await manager.streams.add({
    name: 'FRAMES',
    subjects: ['fr.v1.>'],
    storage: StorageType.File,
    retention: RetentionPolicy.Limits,
    duplicate_window: nanos(120_000),
  });
}

/** A folder for what an agent keeps. */
function dataFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-data-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}

async function agent(host: string, ...flags: string[]): Promise<Program> {
  const data = flags.includes('--data') ? [] : ['--data', dataFolder()];
  const args = ['run', '--host', host, '--interval', '1s', '--nats-url', nats.url, ...data, ...flags];
  const program = await startProgram(main, args, {});
  onTestFinished(async () => void (await program.kill()));
  return program;
}

async function checked(
  host: string,
  ...flags: string[]
): Promise<{ exit: Awaited<Program['exited']>; lines: readonly string[] }> {
  const args = ['check', '--host', host, '--nats-url', nats.url, ...flags];
  const program = await startProgram(main, args, {});
  return { exit: await program.exited, lines: program.lines };
}

/** One machine, booted now and again: what tells its boots apart is a file of the kernel. */
function bootedAs(bootId: string): string[] {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-boot-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, 'sys/kernel/random'), { recursive: true });
  writeFileSync(join(folder, 'sys/kernel/random/boot_id'), `${bootId}\n`);
  return ['--machine-id', 'cccccccccccc', '--roots-proc', folder];
}

/** Every message of a kind that the log has of a host, oldest first; of frames also those that came in batches. */
async function messages(kind: 'frame' | 'host' | 'refusal', host: string, of = connection): Promise<Uint8Array[]> {
  const manager = await jetstreamManager(of);
  const { state } = await manager.streams.info('FRAMES');
  const found: Uint8Array[] = [];
  for (let seq = Math.max(state.first_seq, 1); seq <= state.last_seq; seq++) {
    const message = await manager.streams.getMessage('FRAMES', { seq });
    const address = message && parseSubject(message.subject);
    if (address?.host !== host) continue;
    if (address.kind === kind) found.push(message!.data);
    else if (address.kind === 'batch' && kind === 'frame') found.push(...decodeBatch(message!.data));
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
  // Asks for a look at the description; it does not end the agent.
  one.signal('SIGHUP');
  await setTimeout(1500);
  expect(await one.stop()).toEqual({ code: 0, signal: null });
  const got = (await sequences('early')).toSorted((a, b) => a - b);
  expect(got).toEqual(count(got.length));
  const frame = decodeFrame((await messages('frame', 'early')).at(-1)!);
  expect(frame.interval_ms).toBe(1000);
  const late_us = (await messages('frame', 'early')).map((data) => decodeFrame(data).time_us % 1_000_000);
  expect(late_us.toSorted((a, b) => a - b)[late_us.length >> 1], late_us.join()).toBeLessThan(300_000);
  expect(frame.tables.cpu?.core[0]).toBe('total');
  expect(frame.tables.source?.state.every((state) => ['ok', 'unavailable', 'failed'].includes(state))).toBe(true);
  expect(frame.tables.agent?.frames_published_total[0]).toBeGreaterThan(0);
  const described = decodeHostDescription((await messages('host', 'early'))[0]!);
  expect(described).toMatchObject({ host: 'early', platform: process.platform, interval_ms: 1000 });
  expect(described.cpu_count).toBeGreaterThan(0);
  expect(described.memory_bytes).toBeGreaterThan(2 ** 28);
});

test('what is sampled before NATS is there comes, too', async () => {
  const port = await freePort();
  const begin_us = Date.now() * 1000;
  const one = await agent('first', '--nats-url', `nats://127.0.0.1:${port}`);
  await one.line(/NATS can not be reached/);
  const start_us = Date.now() * 1000;
  await setTimeout(4000);
  expect(one.lines.filter((line) => line.includes('NATS can not be reached')).length).toBe(1);
  await using late = await startNats({ port });
  const started_us = Date.now() * 1000;
  await using own = await connect({ servers: late.url });
  await makeStream(own);
  const frames = async () => (await messages('frame', 'first', own)).map(decodeFrame);
  const times = async () => (await frames()).map(({ time_us }) => time_us);
  await expect.poll(async () => Math.max(...(await times())), { timeout: 20_000 }).toBeGreaterThan(started_us);
  await expect.poll(async () => Math.min(...(await times())), { timeout: 20_000 }).toBeLessThan(start_us + 3_000_000);
  expect(await one.stop()).toEqual({ code: 0, signal: null });
  const got = await frames();
  got.sort((a, b) => a.sequence - b.sequence);
  expect(got.map(({ sequence }) => sequence)).toEqual(count(got.length));
  expect(got[0]?.time_us).toBeGreaterThan(begin_us);
  expect(got[0]?.time_us).toBeLessThan(start_us + 3_000_000);
  expect(got.at(-1)?.tables.agent?.frames_dropped_total).toEqual([0]);
});

test('what an agent has while NATS is away survives its stop and its kill, and comes after the next start', async () => {
  const port = await freePort();
  const flags = ['--data', dataFolder(), '--nats-url', `nats://127.0.0.1:${port}`];
  const ends: ((one: Program) => Promise<unknown>)[] = [(one) => one.stop(), (one) => one.kill()];
  for (const end of ends) {
    const one = await agent('alone', ...flags);
    await one.line(/"msg":"sampling"/);
    await setTimeout(3500);
    await end(one);
    if (end === ends[0]) {
      expect(await one.exited).toEqual({ code: 0, signal: null });
      expect(one.lines.join('\n')).toMatch(/"frames":\d+.*stopped with frames in the spool/);
    }
  }
  await using late = await startNats({ port });
  await using own = await connect({ servers: late.url });
  await makeStream(own);
  const last = await agent('alone', ...flags);
  await last.line(/frames of before are in the spool/);
  const frames = async () =>
    Map.groupBy((await messages('frame', 'alone', own)).map(decodeFrame), (one) => one.session);
  await expect.poll(async () => (await frames()).size, { timeout: 30_000 }).toBe(3);
  await expect
    .poll(async () => (await frames()).values().toArray().at(-1)?.length, { timeout: 20_000 })
    .toBeGreaterThan(1);
  await last.stop();
  for (const [, ofSession] of await frames()) {
    const sequences = ofSession.map(({ sequence }) => sequence);
    expect(sequences.length).toBeGreaterThan(0);
    expect(sequences.toSorted((a, b) => a - b)).toEqual(count(sequences.length));
  }
});

test('nats-server killed for ten seconds leaves no hole and nothing twice', async () => {
  const one = await agent('steady');
  await expect.poll(async () => (await sequences('steady')).length, { timeout: 20_000 }).toBeGreaterThan(2);
  await nats.kill();
  await setTimeout(10_000);
  await nats.restart();
  const frames = async () =>
    (await messages('frame', 'steady')).map(decodeFrame).toSorted((a, b) => a.sequence - b.sequence);
  // Those from before it, those that waited, and one that was made after it.
  await expect
    .poll(async () => (await frames()).at(-1)?.tables.agent?.reconnects_total, { timeout: 60_000 })
    .toEqual([1]);
  await expect.poll(async () => (await frames()).length, { timeout: 60_000 }).toBeGreaterThan(14);
  await one.stop();
  const got = await frames();
  expect(got.map(({ sequence }) => sequence)).toEqual(count(got.length));
  // Frames that were sent again are counted once.
  const last = got.at(-1)!;
  expect(last.tables.agent?.frames_published_total[0]).toBeLessThan(last.sequence);
  expect(last.tables.agent?.reconnects_total).toEqual([1]);
});

test('a name that is taken away after a restart of NATS is noticed, and nothing more is sent under it', async () => {
  const one = await agent('moved');
  await expect.poll(async () => (await sequences('moved')).length, { timeout: 20_000 }).toBeGreaterThan(0);
  await nats.kill();
  await setTimeout(1000);
  await nats.restart();
  await one.line(/connected again/);
  // This test's own connection comes back when it does: what is asked before is lost.
  const answered = () =>
    sequences('moved').then(
      () => true,
      () => false,
    );
  await expect.poll(answered, { timeout: 20_000 }).toBe(true);
  const kv = await new Kvm(connection).open('claims');
  const taker = {
    machineId: 'dddddddddddd',
    bootId: 'other',
    session: 'other',
    addresses: ['192.0.2.7'],
    claimedAt: 0,
  };
  await kv.put(hostKey('default', 'moved'), JSON.stringify(taker));
  expect(await one.exited).toEqual({ code: 1, signal: null });
  expect(one.lines.join('\n')).toMatch(/Another agent has taken the name .*dddddddddddd at 192\.0\.2\.7/);
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
  const asked = await checked('wanted', '--machine-id', 'bbbbbbbbbbbb');
  expect(asked.exit.code).toBe(2);
  expect(asked.lines.at(-1)).toContain('held by machine aaaaaaaaaaaa');
  // Long enough that it would have sampled.
  await setTimeout(3000);
  await holder.stop();
  const kv = await new Kvm(connection).open('claims');
  await kv.delete(hostKey('default', 'wanted'));
  const frames = async () => (await messages('frame', 'wanted')).map(decodeFrame);
  const sessions = async () => new Set((await frames()).map(({ session }) => session));
  await expect.poll(async () => (await sessions()).size, { timeout: 20_000 }).toBe(2);
  await other.stop();
  // Nothing under the name is from before it was free, and that is no hole.
  const [held, taken] = Map.groupBy(await frames(), ({ session }) => session).values();
  expect(taken?.map(({ sequence }) => sequence)).toEqual(count(taken?.length ?? 0));
  expect(taken?.[0]?.time_us).toBeGreaterThan(held?.at(-1)?.time_us ?? Infinity);
  expect((await messages('refusal', 'wanted')).length).toBe(1);
});

test('check changes nothing: neither a claim nor a machine id is left behind', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-check-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const kv = await new Kvm(connection).open('claims');
  const keys = async () => (await Array.fromAsync(await kv.keys())).sort();
  const before = await keys();
  const { exit, lines } = await checked('nobody', '--data', join(folder, 'data'), '--roots-etc', folder);
  expect({ code: exit.code, lines }).toMatchObject({ code: 0, lines: { length: 4 } });
  expect(lines.map((line) => line.split(':')[0])).toEqual(['settings', 'folders', 'NATS', 'name']);
  expect(await keys()).toEqual(before);
  expect(readdirSync(folder)).toEqual([]);
});

test('an agent that starts again on its machine takes over, and the one it displaces stops', async () => {
  const before = await agent('again');
  await expect.poll(async () => (await sequences('again')).length, { timeout: 20_000 }).toBeGreaterThan(0);
  const after = await agent('again');
  expect(await before.exited).toMatchObject({ code: 1 });
  expect(before.lines.join('\n')).toContain('Another agent has taken the name');
  await after.stop();
});

test('a clone of a running machine is refused; the same machine after a crash and a boot is not', async () => {
  const original = await agent('cloned', ...bootedAs('first'));
  await expect.poll(async () => (await sequences('cloned')).length, { timeout: 20_000 }).toBeGreaterThan(0);
  const clone = await agent('cloned', ...bootedAs('second'));
  await clone.line(/one is a clone of the other/);
  expect(await clone.stop()).toMatchObject({ code: 0 });
  await original.kill();
  const again = await agent('cloned', ...bootedAs('third'));
  await again.line(/the name is ours/);
  await again.stop();
});
