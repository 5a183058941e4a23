// The README's pictures, of a real console: made when one is missing or FLEETREEL_SCREENSHOTS is set, else looked at only.
// An agent records this machine under changing load for two minutes; its frames, shifted in time against each other, are
// then the last quarter of an hour of a small fleet.
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { Child } from '@fleetreel/deploy/local/child';
import {
  decodeFrame,
  decodeHostDescription,
  encodeFrame,
  encodeHostDescription,
  type Frame,
  messageId,
  subject,
} from '@fleetreel/proto';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { chromium, type Page } from 'playwright';
import { expect, test } from 'vitest';
import { Cable } from '../cable.ts';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { eventually, machineIdOf, Stack } from '../stack.ts';

const folder = join(import.meta.dirname, '../../docs/images');
const pictures = [
  'overview-light.png',
  'overview-dark.png',
  'host-light.png',
  'host-dark.png',
  'phone-dark.png',
] as const;
const pictureBytesMax = 300_000;
const second = 1000;
const desktop = { width: 1440, height: 900 };
const phone = { width: 390, height: 844 };

/** The fleet and its tags. The last of it went offline some minutes ago. */
const fleet = [
  { host: 'alder', tags: { role: 'web', rack: 'a1' } },
  { host: 'birch', tags: { role: 'web', rack: 'a2' } },
  { host: 'cedar', tags: { role: 'db', rack: 'a3' } },
  { host: 'elm', tags: { role: 'db', rack: 'b1' } },
  { host: 'hazel', tags: { role: 'queue', rack: 'b2' } },
  { host: 'juniper', tags: { role: 'batch', rack: 'b3' } },
  { host: 'larch', tags: { role: 'batch', rack: 'c1' } },
  { host: 'maple', tags: { role: 'edge', rack: 'c2' } },
  { host: 'rowan', tags: { role: 'edge', rack: 'c3' } },
] as const;
const intervalMs = 5 * second;
const historyMs = 16 * 60 * second;
const offlineMs = 4 * 60 * second;
/** A host whose agent did not run for some time: from and to, since the begin. */
const outage = { host: 'cedar', from: 8 * 60 * second, to: 9 * 60 * second };
const recordedFrames = 120;
const echoPort = 7000;

test('the pictures of the README are there, and light enough', { timeout: 400 * second }, async () => {
  if (process.env.FLEETREEL_SCREENSHOTS || pictures.some((name) => !existsSync(join(folder, name)))) await take();
  for (const name of pictures) expect(statSync(join(folder, name)).size, name).toBeLessThan(pictureBytesMax);
});

async function take(): Promise<void> {
  mkdirSync(folder, { recursive: true });
  await using stack = await Stack.start();
  const frames = await record(stack);
  const stop = new AbortController();
  const playing = play(stack, frames, stop.signal);
  const browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  try {
    await eventually('the whole fleet', 60 * second, async () => {
      const online = (await stack.hosts()).filter(({ status }) => status === 'online');
      return online.length === fleet.length - 1 ? true : undefined;
    });
    for (const colorScheme of ['light', 'dark'] as const) {
      const context = await browser.newContext({ viewport: desktop, colorScheme });
      const page = await context.newPage();
      await overview(page, stack, `overview-${colorScheme}.png`);
      // The past was made at once, and so too late: it is shown as it would be had it been told in its time.
      await stack.questdb.query('UPDATE frame SET received = ts');
      await host(page, stack, `host-${colorScheme}.png`);
      if (colorScheme === 'dark') {
        await page.setViewportSize(phone);
        await host(page, stack, 'phone-dark.png');
      }
      await context.close();
    }
  } finally {
    stop.abort();
    await playing;
    await browser.close();
  }
}

async function overview(page: Page, stack: Stack, name: (typeof pictures)[number]): Promise<void> {
  await page.goto(`${stack.address}/hosts`);
  await expect.poll(() => page.getByTestId('host-card').count(), { timeout: 10 * second }).toBe(fleet.length);
  await pause(2 * intervalMs);
  await page.screenshot({ path: join(folder, name) });
}

async function host(page: Page, stack: Stack, name: (typeof pictures)[number]): Promise<void> {
  await page.goto(`${stack.address}/hosts/cedar`);
  const chart = page.locator('[data-testid="chart"][data-chart="cpu.mode"]');
  await eventually('history', 20 * second, async () =>
    Number(await chart.getAttribute('data-points')) > 100 ? true : undefined,
  );
  await pause(intervalMs + second);
  const area = await chart.locator('.u-over').boundingBox();
  if (area && page.viewportSize()?.width === desktop.width)
    await page.mouse.move(area.x + area.width * 0.6, area.y + area.height * 0.5);
  await pause(second / 2);
  await page.screenshot({ path: join(folder, name) });
}

/** Frames of an agent, one a second, while this machine is busy now with this, now with that. */
async function record(stack: Stack): Promise<Frame[]> {
  const agent = await stack.startAgent({ host: 'recorded', interval: '1s' });
  const connection = await connect({ servers: stack.nats.url });
  const frames: Frame[] = [];
  const messages = connection.subscribe(subject({ tenant: 'default', kind: 'frame', host: 'recorded' }));
  const stop = new AbortController();
  using cable = new Cable('lan0');
  const load = busy(stack, cable, stop.signal);
  for await (const message of messages) {
    frames.push(decodeFrame(message.data));
    // The first has no rates yet.
    if (frames.length > recordedFrames) break;
  }
  stop.abort();
  await load;
  await agent.stop();
  await connection.close();
  await fetch(`${stack.address}/api/v1/hosts/recorded`, { method: 'DELETE' });
  return frames.slice(1);
}

/** Computing, writing, asking and sending, in waves of different lengths, until the signal. */
async function busy(stack: Stack, cable: Cable, signal: AbortSignal): Promise<void> {
  const spin =
    'const { workerData } = require("node:worker_threads"); const end = Date.now() + workerData; while (Date.now() < end);';
  const path = join(stack.folder, 'load');
  const [command = '', ...within] = cable.within;
  const echo = `require("node:net").createServer((s) => s.pipe(s)).listen(${echoPort}, () => console.log("listening"))`;
  await using other = await Child.start({ name: 'echo', command, args: [...within, process.execPath, '-e', echo] });
  await other.untilReady(async () => other.lastLines.includes('listening'), 10 * second);
  const socket = createConnection({ host: cable.address.there, port: echoPort });
  socket.resume();
  for (let step = 0; !signal.aborted; step++) {
    const wave = 0.5 + 0.35 * Math.sin(step / 7) + 0.15 * Math.sin(step / 2.3);
    new Worker(spin, { eval: true, workerData: 900 * wave });
    if (step % 20 > 12) new Worker(spin, { eval: true, workerData: 500 });
    if (step % 15 < 6) {
      const file = openSync(path, 'w');
      writeSync(file, randomBytes(Math.round(6_000_000 * wave)));
      fsyncSync(file);
      closeSync(file);
    }
    for (let asked = 0; asked < 20 * wave; asked++) await (await fetch(`${stack.address}/docs/json`)).arrayBuffer();
    socket.write(randomBytes(Math.round(3_000_000 * wave ** 3)));
    await pause(second);
  }
  socket.destroy();
  rmSync(path, { force: true });
}

/** The frames as those of the fleet: the last quarter of an hour at once, then as time goes by. */
async function play(stack: Stack, recorded: readonly Frame[], signal: AbortSignal): Promise<void> {
  const connection = await connect({ servers: stack.nats.url });
  const log = jetstream(connection);
  const start = Math.floor((Date.now() - historyMs) / intervalMs) * intervalMs;
  await describe(connection);
  for (let step = 0; !signal.aborted; step++) {
    const time = start + step * intervalMs;
    if (time > Date.now()) await pause(time - Date.now());
    await Promise.all(
      fleet.map(async ({ host }, index) => {
        const since = time - start;
        if (index === fleet.length - 1 && since > historyMs - offlineMs) return;
        if (host === outage.host && since >= outage.from && since < outage.to) return;
        const frame = recorded[(step + index * 29) % recorded.length] as Frame;
        const session = sessionOf(host === outage.host && since >= outage.to ? `${host}, again` : host);
        const shifted = { ...frame, session, sequence: step + 1, time_us: time * 1000, interval_ms: intervalMs };
        await log.publish(subject({ tenant: 'default', kind: 'frame', host }), encodeFrame(shifted), {
          msgID: messageId(session, step + 1),
        });
      }),
    );
  }
  await connection.close();
}

/** The machines of the fleet are the recorded one, but for name, address and tags. */
async function describe(connection: NatsConnection): Promise<void> {
  const manager = await jetstreamManager(connection);
  const recorded = await manager.streams.getMessage('FRAMES', {
    last_by_subj: subject({ tenant: 'default', kind: 'host', host: 'recorded' }),
  });
  if (!recorded) throw new Error('The agent that was recorded has not described its machine.');
  const description = decodeHostDescription(recorded.data);
  for (const [index, { host, tags }] of fleet.entries())
    await jetstream(connection).publish(
      subject({ tenant: 'default', kind: 'host', host }),
      encodeHostDescription({
        ...description,
        host,
        machine_id: machineIdOf(host),
        session: sessionOf(host),
        interval_ms: intervalMs,
        addresses: [`10.0.0.${index + 11}`],
        tags,
      }),
    );
}

const sessionOf = (host: string): string => machineIdOf(host).slice(0, 16);
