// A second host: an agent in a network namespace of its own, which reaches nothing but NATS, over a cable (a veth pair).
import { once } from 'node:events';
import { connect, createServer, type Server } from 'node:net';
import { type Browser, chromium, type Page } from 'playwright';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Cable } from '../cable.ts';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import type { Program } from '../servers/program.ts';
import { slowness } from '../slowness.ts';
import { errorLevel, eventually, logOf, machineIdOf, Stack } from '../stack.ts';

const interval = 5_000;
/** For what is not promised to come in some time. */
const patience_ms = 30_000;
let cable: Cable;
let stack: Stack;
let natsUrl: string;
let listener: Server;
let browser: Browser;
let page: Page;
let second: Program;
let third: Program;

beforeAll(async () => {
  cable = new Cable();
  stack = await Stack.start();
  natsUrl = await listenOnCable();
  await stack.startAgent({ host: 'first', interval: '5s' });
  await stack.hostThat('first', ({ status }) => status === 'online');
  browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  page = await browser.newPage();
  await page.goto(`${stack.address}/hosts`);
  await card('first').waitFor();
});

afterAll(async () => {
  await browser?.close();
  await stack?.[Symbol.asyncDispose]();
  listener?.close();
  cable?.[Symbol.dispose]();
});

test('the second appears in the overview within two intervals', async () => {
  second = await stack.startAgent({ host: 'second.example', interval: '5s', natsUrl, within: cable.within });
  await second.line(/"msg":"sampling"/);
  const sampling = performance.now();
  await card('second_example').and(page.locator('[data-status="online"]')).waitFor({ timeout: patience_ms });
  expect(performance.now() - sampling).toBeLessThan(2 * interval * slowness());
  const { description } = await stack.hostThat('second_example', (host) => host.description !== null);
  expect(description).toMatchObject({ machineId: machineIdOf('second.example'), addresses: [cable.address.there] });
  expect((await stack.hosts()).map(({ host, status }) => [host, status])).toEqual([
    ['first', 'online'],
    ['second_example', 'online'],
  ]);
});

test('its own interfaces are what it reports', async () => {
  const answer = await fetch(`${stack.address}/api/v1/latest?table=net_interface&host=second_example`);
  const { rows } = (await answer.json()) as { rows: { interface: string }[] };
  const interfaces = rows.map((row) => row.interface);
  expect(interfaces).toContain(cable.interface.there);
  expect(interfaces).not.toContain(cable.interface.here);
});

test('a third that takes the name of the second is refused: its log names the holder', async () => {
  third = await stack.startAgent({ host: 'second.example', machineId: machineIdOf('third'), interval: '5s' });
  const refused = await eventually('an error in the log of the third', patience_ms, () =>
    logOf(third).find(({ level }) => level >= errorLevel),
  );
  const text = JSON.stringify(refused);
  expect(text).toContain(machineIdOf('second.example'));
  expect(text).toContain(cable.address.there);
  expect(refused.msg).toMatch(/second.example/);
});

test('the console names who was refused and who holds the name', async () => {
  const sentence = page
    .getByRole('main')
    .getByText(/was refused/)
    .first();
  await sentence.waitFor({ timeout: patience_ms });
  const text = (await sentence.textContent()) ?? '';
  expect(text).toContain(machineIdOf('third'));
  expect(text).toContain(machineIdOf('second.example'));
  expect(text).toContain(cable.address.there);
  await card('second_example').click();
  await page.getByRole('main').getByText(machineIdOf('third')).first().waitFor();
});

test('nothing of the third is recorded, and the second goes on', async () => {
  const before = await stack.hostThat('second_example', ({ status }) => status === 'online');
  await stack.hostThat('second_example', ({ lastSeen }) => (lastSeen ?? 0) > (before.lastSeen ?? 0), 3 * interval);
  const { rows } = await stack.questdb.query(`SELECT count_distinct(session) FROM frame WHERE host = 'second_example'`);
  expect(rows).toEqual([[1]]);
});

test('the third takes the name over once its holder is gone and forgotten', async () => {
  await second.stop();
  const forgotten = await fetch(`${stack.address}/api/v1/hosts/second_example`, { method: 'DELETE' });
  expect(forgotten.ok).toBe(true);
  await stack.hostThat(
    'second_example',
    ({ description, status }) => status === 'online' && description?.machineId === machineIdOf('third'),
  );
});

const card = (host: string) => page.locator(`[data-testid="host-card"][data-host="${host}"]`);

/** The product's NATS listens on loopback: here it is reached through a listener at this end of the cable. */
async function listenOnCable(): Promise<string> {
  listener = createServer((socket) => {
    const server = connect(stack.nats.port, '127.0.0.1');
    socket.pipe(server).pipe(socket);
    // A connection that breaks on one side ends on the other.
    socket.on('error', () => server.destroy());
    server.on('error', () => socket.destroy());
  });
  listener.listen(0, cable.address.here);
  await once(listener, 'listening');
  const { port } = listener.address() as { port: number };
  return `nats://${cable.address.here}:${port}`;
}
