import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, onTestFinished, test, vi } from 'vitest';
import { systemClock } from '#clock.ts';
import { Lines } from '#engine_socket.ts';
import { SocketEngines, socketsAt } from '#engines.ts';
import {
  engineAnswerBytesMax,
  engineAnswerMilliseconds,
  engineEventBytesMax,
  engineOpenMilliseconds,
} from '#limits.ts';
import { defaultSettings } from '#sources/testing.ts';

// What a socket may do that is no engine, or none that works; real engines are in engines.servers.test.ts.

const folder = (): string => {
  const path = mkdtempSync(join(tmpdir(), 'fr-sockets-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
};

/** Something that listens at a socket: `answer` gets each request's path. */
async function listening(path: string, answer: (asked: string, socket: Socket) => void): Promise<{ asked: string[] }> {
  const asked: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
    socket.on('data', (data) => {
      const wanted = /^GET (\S+)/.exec(data.toString())?.[1] ?? '';
      asked.push(wanted);
      answer(wanted, socket);
    });
  });
  await new Promise<void>((resolve) => {
    server.listen(path, resolve);
  });
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { asked };
}

function enginesAt(...sockets: string[]): SocketEngines {
  const settings = { ...defaultSettings, container: { ...defaultSettings.container, sockets } };
  const engines = new SocketEngines({ settings, roots: defaultSettings.roots, clock: systemClock });
  onTestFinished(() => engines.close());
  return engines;
}

const head = 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n';
const reply = (socket: Socket, value: unknown): void => {
  socket.end(head + JSON.stringify(value));
};
const version = { ApiVersion: '1.41', MinAPIVersion: '1.12', Components: [{ Name: 'Engine' }] };
const id = 'a'.repeat(64);
const listed = { Id: id, Names: ['/web'], Image: 'box', Labels: null, State: 'running' };
const described = {
  Id: id,
  Name: '/web',
  State: { Status: 'running', Pid: 1, StartedAt: '2026-11-21T08:44:30Z' },
  Config: { Image: 'box' },
};

/** An engine that answers as one does; each part may be another. */
type Parts = Partial<Record<'version' | 'events' | 'list' | 'inspect', (socket: Socket) => void>>;

const engineOf =
  (parts: Parts) =>
  (asked: string, socket: Socket): void => {
    if (asked === '/version') (parts.version ?? ((to) => reply(to, version)))(socket);
    else if (asked.includes('/events')) (parts.events ?? ((to) => to.write(head)))(socket);
    else if (asked.includes('/containers/json')) (parts.list ?? ((to) => reply(to, [listed])))(socket);
    else (parts.inspect ?? ((to) => reply(to, described)))(socket);
  };

const patience = { timeout: 30_000, interval: 20 };

test('a host without engines: nothing to tell, nothing loaded', async () => {
  const engines = enginesAt(join(folder(), 'docker.sock'));
  await engines.open();
  expect(engines.limitations()).toEqual([]);
  expect(engines.containers.size).toBe(0);
});

test('one that answers as an engine does', async () => {
  const socket = join(folder(), 'docker.sock');
  const { asked } = await listening(socket, engineOf({}));
  const engines = enginesAt(socket);
  await engines.open();
  await vi.waitFor(() => expect(engines.limitations()).toEqual([]), patience);
  expect(engines.containers.get('a'.repeat(12))).toMatchObject({ name: 'web', state: 'running', pid: 1 });
  expect(asked.filter((path) => path.startsWith('/v1.41/containers/json'))).toHaveLength(1);
  // What is connected is told of; nobody asks again.
  await pause(700);
  expect(asked).toHaveLength(4);
  // Closed and opened again, as a source that failed: it begins anew.
  engines.close();
  expect(engines.containers.size).toBe(0);
  await engines.open();
  await vi.waitFor(() => expect(engines.containers.size).toBe(1), patience);
});

test('opening waits a moment for those that hang, and no longer', async () => {
  const path = folder();
  await listening(join(path, 'hangs.sock'), () => {});
  await listening(join(path, 'works.sock'), engineOf({}));
  const took_ms: number[] = [];
  for (let time = 0; time < 3; time++) {
    const opened = enginesAt(join(path, 'hangs.sock'), join(path, 'works.sock'));
    const begin_ms = performance.now();
    await opened.open();
    took_ms.push(performance.now() - begin_ms);
    opened.close();
  }
  // The machine may do something else for a moment: the least counts.
  expect(Math.min(...took_ms)).toBeLessThan(engineOpenMilliseconds + 2000);
  const engines = enginesAt(join(path, 'hangs.sock'), join(path, 'works.sock'));
  await engines.open();
  await vi.waitFor(() => expect(engines.containers.size).toBe(1), patience);
  expect(engines.limitations()).toEqual([expect.stringContaining('is not known yet')]);
  await vi.waitFor(
    () =>
      expect(engines.limitations()).toEqual([
        expect.stringContaining(`hangs.sock has not answered within ${engineAnswerMilliseconds / 1000} s`),
      ]),
    patience,
  );
});

const endless = (socket: Socket): void => {
  const piece = Buffer.alloc(1024 * 1024, '"x",');
  socket.write(`${head}[`);
  const more = (): void => {
    if (!socket.destroyed) socket.write(piece, more);
  };
  more();
};

test.each<[string, Parts, string]>([
  ['that is no HTTP', { version: (to) => to.end('SSH-2.0-OpenSSH_9.2\r\n') }, 'does not speak HTTP'],
  [
    'whose head never ends',
    { version: (to) => to.write(`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(100_000)}`) },
    'not speak HTTP',
  ],
  [
    'that answers less than it says',
    { list: (to) => to.end('HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[]') },
    'breaks off',
  ],
  [
    'that answers in pieces',
    { list: (to) => to.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n') },
    'in pieces',
  ],
  ['that closes at once', { version: (to) => to.destroy() }, 'breaks off its answer'],
  ['that answers with broken JSON', { list: (to) => to.end(`${head}[{"Id":`) }, 'something that is not JSON'],
  ['that answers something else', { list: (to) => reply(to, { message: 'no' }) }, 'no list'],
  ['that refuses', { list: (to) => to.end('HTTP/1.1 403 Forbidden\r\n\r\n{}') }, 'the status 403'],
  ['that never stops answering', { list: endless }, `more than ${engineAnswerBytesMax / 1024 / 1024} MiB`],
  ['that has no events', { events: (to) => to.end('HTTP/1.1 404 Not Found\r\n\r\n') }, 'the status 404'],
  ['whose events end', { events: (to) => to.end(head) }, 'has ended its stream of events'],
  ['whose events are no JSON', { events: (to) => to.write(`${head}{"Type":\n`) }, "can't be followed"],
])('an engine %s is a reason, and tried again', async (_, parts, reason) => {
  const socket = join(folder(), 'docker.sock');
  const { asked } = await listening(socket, engineOf(parts));
  const engines = enginesAt(socket);
  await engines.open();
  await vi.waitFor(() => expect(engines.limitations()).toEqual([expect.stringContaining(reason)]), patience);
  await vi.waitFor(() => expect(asked.filter((path) => path === '/version').length).toBeGreaterThan(1), patience);
});

test.each([
  ['hangs', () => {}, 'has not answered within'],
  ['is none', (_: string, to: Socket) => to.end('SSH-2.0-OpenSSH_9.2\r\n'), "can't be followed"],
  ['closes at once', (_: string, to: Socket) => to.destroy(), 'breaks off its answer'],
])('a containerd that %s is a reason', async (_, answer, reason) => {
  const socket = join(folder(), 'containerd.sock');
  await listening(socket, answer);
  const engines = enginesAt(socket);
  await engines.open();
  await vi.waitFor(() => expect(engines.limitations()).toEqual([expect.stringContaining(reason)]), patience);
});

test('descriptions that fail leave what the list says; a line of events that is too long is left out', async () => {
  const socket = join(folder(), 'docker.sock');
  const start = JSON.stringify({
    Type: 'container',
    Action: 'start',
    timeNano: 1.8e18,
    Actor: { ID: 'b'.repeat(64), Attributes: { name: 'later' } },
  });
  const long = JSON.stringify({ Type: 'container', Action: 'start', junk: 'x'.repeat(engineEventBytesMax) });
  await listening(
    socket,
    engineOf({
      inspect: (to) => to.end('HTTP/1.1 500 Internal Server Error\r\n\r\n'),
      events: (to) => to.write(`${head}${long}\n${start}\n`),
    }),
  );
  const engines = enginesAt(socket);
  const told: string[] = [];
  engines.onChange(({ action, container }) => told.push(`${action} ${container.name}`));
  await engines.open();
  await vi.waitFor(() => expect(told).toEqual(['start later']), patience);
  expect(engines.containers.get('a'.repeat(12))).toMatchObject({ name: 'web', pid: 0 });
  expect(engines.limitations()).toEqual([]);
});

test("an engine says nothing of another's containers", async () => {
  const path = folder();
  await listening(join(path, 'first.sock'), engineOf({}));
  const stop = { Type: 'container', Action: 'die', timeNano: 1.8e18, Actor: { ID: id, Attributes: { name: 'mine' } } };
  const engines = enginesAt(join(path, 'first.sock'), join(path, 'second.sock'));
  const second = await listening(
    join(path, 'second.sock'),
    engineOf({
      list: (to) => setTimeout(() => reply(to, [{ ...listed, Names: ['/mine'] }]), 300),
      events: (to) => to.write(`${head}${JSON.stringify(stop)}\n`),
    }),
  );
  const told: unknown[] = [];
  engines.onChange((change) => told.push(change));
  await engines.open();
  await vi.waitFor(
    () => expect(second.asked.filter((asked) => asked.includes('/json')).length).toBeGreaterThan(1),
    patience,
  );
  await vi.waitFor(() => expect(engines.limitations()).toEqual([]), patience);
  expect(engines.containers.get('a'.repeat(12))?.name).toBe('web');
  expect(told).toEqual([]);
});

test('sockets that this user may not open: the right that would change it, and no more', async () => {
  const run = folder();
  chmodSync(run, 0o755);
  mkdirSync(join(run, 'podman'));
  for (const socket of ['docker.sock', 'podman/podman.sock']) {
    await listening(join(run, socket), engineOf({}));
    chmodSync(join(run, socket), 0o600);
  }
  chmodSync(join(run, 'podman'), 0o700);
  const engines = enginesAt(join(run, 'docker.sock'), join(run, 'podman', 'podman.sock'), join(run, '*', 'none.sock'));
  const isRoot = process.geteuid?.() === 0;
  // Root may open them all: what follows is done as another user. An ordinary user has no right to give away.
  if (isRoot) process.seteuid?.(65_534);
  else for (const closed of ['docker.sock', 'podman']) chmodSync(join(run, closed), 0);
  try {
    await engines.open();
    await vi.waitFor(
      () =>
        expect(engines.limitations()).toEqual([
          expect.stringMatching(/docker.sock may not be opened by this user.*group "docker", which is as good as root/),
          expect.stringMatching(/podman.sock may not be opened by this user.*as the user whose containers they are/),
        ]),
      patience,
    );
  } finally {
    engines.close();
    if (isRoot) process.seteuid?.(0);
    else chmodSync(join(run, 'podman'), 0o700);
  }
});

test('the sockets that a setting means', async () => {
  const run = folder();
  mkdirSync(join(run, 'user', '1000', 'podman'), { recursive: true });
  mkdirSync(join(run, 'user', '1001'), { recursive: true });
  await listening(join(run, 'user', '1000', 'podman', 'podman.sock'), () => {});
  await listening(join(run, 'real.sock'), () => {});
  symlinkSync(join(run, 'real.sock'), join(run, 'docker.sock'));
  symlinkSync(join(run, 'nowhere'), join(run, 'broken.sock'));
  expect(socketsAt(run, 'user/*/podman/podman.sock')).toEqual([join(run, 'user', '1000', 'podman', 'podman.sock')]);
  expect(socketsAt(run, 'docker.sock')).toEqual([join(run, 'real.sock')]);
  expect(socketsAt('/nowhere', join(run, 'real.sock'))).toEqual([join(run, 'real.sock')]);
  for (const none of ['broken.sock', 'absent.sock', 'user', 'absent/*/docker.sock'])
    expect(socketsAt(run, none)).toEqual([]);
});

test('lines are put together from pieces, each bounded', () => {
  const taken: string[] = [];
  const lines = new Lines((line) => taken.push(line));
  for (const piece of ['{"a":', '1}\n\n{"b":2}\n{', '"c":3}']) lines.add(Buffer.from(piece));
  expect(taken).toEqual(['{"a":1}', '{"b":2}']);
  lines.add(Buffer.from('\n'));
  expect(taken).toEqual(['{"a":1}', '{"b":2}', '{"c":3}']);
  for (let sent = 0; sent < 3; sent++) lines.add(Buffer.alloc(engineEventBytesMax / 2, 'x'));
  lines.add(Buffer.from('\n"é"\n'));
  const [first, second] = [Buffer.from('"é"\n').subarray(0, 2), Buffer.from('"é"\n').subarray(2)];
  lines.add(first);
  lines.add(second);
  expect(taken.slice(3)).toEqual(['"é"', '"é"']);
});
