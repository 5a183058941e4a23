import { setTimeout as pause } from 'node:timers/promises';
import { startContainerd } from '@fleetreel/test/servers/containerd';
import { type DockerEngine, startDocker } from '@fleetreel/test/servers/docker';
import { type PodmanEngine, startPodman } from '@fleetreel/test/servers/podman';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { systemClock } from '#clock.ts';
import type { EngineChange, EngineContainer } from '#engine.ts';
import { SocketEngines } from '#engines.ts';
import { defaultSettings } from '#sources/testing.ts';

type Engine = DockerEngine | PodmanEngine;

const patience = { timeout: 30_000, interval: 20 };

/** What the agent knows of the engines at these sockets, and what it was told. */
async function following(...sockets: string[]) {
  const settings = { ...defaultSettings, container: { ...defaultSettings.container, sockets } };
  const engines = new SocketEngines({ settings, roots: { ...defaultSettings.roots }, clock: systemClock });
  onTestFinished(() => engines.close());
  const changes: EngineChange[] = [];
  engines.onChange((change) => changes.push(change));
  await engines.open();
  await vi.waitFor(() => expect(engines.limitations()).toEqual([]), patience);
  return {
    engines,
    changes,
    known: (id: string) => engines.containers.get(id.slice(0, 12)),
    actionsOf: (id: string) => changes.filter(({ container }) => container.id === id).map(({ action }) => action),
    toldOf: async (id: string, action: EngineChange['action'], count = 1): Promise<EngineChange> => {
      const found = () => changes.filter((change) => change.container.id === id && change.action === action);
      await vi.waitFor(() => expect(found().length).toBeGreaterThanOrEqual(count), patience);
      return found()[count - 1] as EngineChange;
    },
  };
}

const isolated = ['--network', 'none'];
let number = 0;
const unusedName = (): string => `box-${++number}`;

describe.each([
  ['docker', startDocker],
  ['podman', startPodman],
] as const)('%s', (name, start) => {
  let engine: Engine;

  beforeAll(async () => {
    engine = await start();
  });

  afterAll(async () => {
    await engine?.[Symbol.asyncDispose]();
  });

  test('what runs and what has ended is known at once, with its limits and its end', async () => {
    const labels = ['--label', 'note="quoted" <script>\n$(reboot)', '--label', 'team=a'];
    const called = unusedName();
    const running = await engine.run(
      [...isolated, '--name', called, '--memory', '64m', '--cpus', '0.5', ...labels],
      'sleep',
      '1000',
    );
    const ended = await engine.run(isolated, 'sh', '-c', 'exit 7');
    await engine.command('wait', ended);
    const begin_us = systemClock.now_us();
    const { changes, known } = await following(engine.socket);
    const box = known(running);
    expect(box).toMatchObject({
      id: running,
      engine: name,
      name: called,
      labels: { note: '"quoted" <script>\n$(reboot)', team: 'a' },
      state: 'running',
      health: '',
      restarts: 0,
      exitCode: Number.NaN,
      isOomKilled: false,
      cpuLimit_cores: 0.5,
      memoryLimit_bytes: 64 * 1024 * 1024,
      finishedAt_us: Number.NaN,
    });
    expect(box?.image).toMatch(/fleetreel\/box:1$/);
    expect(box?.pid).toBe(Number(await engine.command('inspect', '--format', '{{.State.Pid}}', running)));
    expect(box?.startedAt_us).toBeGreaterThan(begin_us - 60e6);
    expect(box?.startedAt_us).toBeLessThan(begin_us);
    expect(known(ended)).toMatchObject({ state: 'exited', exitCode: 7, pid: 0 });
    const { startedAt_us = 0, finishedAt_us = 0 } = known(ended) ?? {};
    expect(finishedAt_us).toBeGreaterThanOrEqual(startedAt_us);
    expect(changes).toEqual([]);
    await engine.remove(running, ended);
  });

  test('a container of a moment has its start, its end and its exit code', async () => {
    const { actionsOf, toldOf, known } = await following(engine.socket);
    const called = unusedName();
    const before_us = systemClock.now_us();
    const id = await engine.run(
      [...isolated, '--rm', '--name', called, '--label', 'team=b'],
      'sh',
      '-c',
      'sleep 0.2; exit 3',
    );
    const { container: gone } = await toldOf(id, 'destroy');
    expect(actionsOf(id)).toEqual(['start', 'die', 'destroy']);
    const started = await toldOf(id, 'start');
    expect(started.container).toMatchObject({ name: called, state: 'running', labels: { team: 'b' }, engine: name });
    const died = await toldOf(id, 'die');
    expect(died.container).toMatchObject({ name: called, state: 'exited', exitCode: 3, pid: 0 });
    expect(started.time_us).toBeGreaterThan(before_us);
    expect(died.time_us - started.time_us).toBeGreaterThan(150_000);
    expect(died.time_us - started.time_us).toBeLessThan(10e6);
    expect(gone.exitCode).toBe(3);
    expect(known(id)).toBeUndefined();
  });

  test('rename, pause, kill and start again are told as they happen', async () => {
    const { actionsOf, toldOf, known } = await following(engine.socket);
    const [first, second] = [unusedName(), unusedName()];
    const id = await engine.run([...isolated, '--name', first], 'sleep', '1000');
    await toldOf(id, 'start');
    await vi.waitFor(() => expect(known(id)?.pid).toBeGreaterThan(0), patience);
    await engine.command('rename', first, second);
    expect((await toldOf(id, 'rename')).container.name).toBe(second);
    await engine.command('pause', second);
    expect((await toldOf(id, 'pause')).container.state).toBe('paused');
    await engine.command('unpause', second);
    expect((await toldOf(id, 'unpause')).container.state).toBe('running');
    await engine.command('kill', second);
    expect((await toldOf(id, 'die')).container).toMatchObject({ exitCode: 137, name: second });
    const before = known(id)?.startedAt_us ?? 0;
    await engine.command('start', second);
    await toldOf(id, 'start', 2);
    await engine.command('restart', '--time', '0', second);
    await toldOf(id, 'start', 3);
    await vi.waitFor(() => expect(known(id)?.pid).toBeGreaterThan(0), patience);
    expect(known(id)).toMatchObject({ state: 'running', name: second, exitCode: Number.NaN });
    expect(known(id)?.startedAt_us).toBeGreaterThan(before);
    await engine.remove(second);
    await toldOf(id, 'destroy');
    const told = actionsOf(id).filter((action) => action !== 'kill' && action !== 'restart');
    expect(told).toEqual(['start', 'rename', 'pause', 'unpause', 'die', 'start', 'die', 'start', 'die', 'destroy']);
    expect(known(id)).toBeUndefined();
  });

  test('a container whose memory ran out has ended by a signal', async () => {
    const { toldOf, known } = await following(engine.socket);
    const limit = ['--memory', '16m', '--memory-swap', '16m'];
    const id = await engine.run([...isolated, ...limit], 'sh', '-c', 'exec tail /dev/zero');
    expect((await toldOf(id, 'die')).container.exitCode).toBe(137);
    // Podman 4.3 with cgroup v1 does not learn of it: then the container's cgroup alone says it.
    if (name === 'docker') {
      await toldOf(id, 'oom');
      await vi.waitFor(() => expect(known(id)).toMatchObject({ isOomKilled: true, state: 'exited' }), patience);
    }
    await engine.remove(id);
  });

  test('what happened while the connection was broken is told afterwards', async () => {
    const { engines, toldOf, actionsOf, known } = await following(engine.socket);
    const [stays, ends] = [await engine.run(isolated, 'sleep', '1000'), await engine.run(isolated, 'sleep', '1000')];
    await toldOf(ends, 'start');
    await toldOf(stays, 'start');
    await vi.waitFor(() => expect(known(ends)?.pid).toBeGreaterThan(1), patience);
    const { pid } = known(ends) as EngineContainer;
    await engine.kill();
    await vi.waitFor(() => expect(engines.limitations()).toHaveLength(1), patience);
    expect(engines.limitations()[0]).toContain(engine.socket);
    // As a crash of it, while nobody is there who could tell of it.
    process.kill(pid, 'SIGKILL');
    await engine.start();
    await vi.waitFor(() => expect(engines.limitations()).toEqual([]), patience);
    const died = await toldOf(ends, 'die');
    expect(died.container.state).toBe('exited');
    expect(actionsOf(ends)).toEqual(['start', 'die']);
    // Podman's containers go on without it; Docker ends those that it finds after a crash.
    if (name === 'podman') expect(actionsOf(stays)).toEqual(['start']);
    else await toldOf(stays, 'die');
    const later = await engine.run([...isolated, '--rm'], 'true');
    await toldOf(later, 'destroy');
    expect(actionsOf(later)).toEqual(['start', 'die', 'destroy']);
    await engine.remove(stays, ends);
  });

  test('fifty short containers, each told of once', async () => {
    const { actionsOf, toldOf } = await following(engine.socket);
    const ids: string[] = [];
    for (let round = 0; round < 10; round++)
      ids.push(...(await Promise.all(Array.from({ length: 5 }, () => engine.run([...isolated, '--rm'], 'true')))));
    for (const id of ids) {
      await toldOf(id, 'destroy');
      expect(actionsOf(id)).toEqual(['start', 'die', 'destroy']);
    }
    await pause(500);
    for (const id of ids) expect(actionsOf(id)).toHaveLength(3);
  });
});

describe('containerd with the interface of Kubernetes', () => {
  test('pods and containers: what runs, starts, ends, crashes of the engine', async () => {
    await using engine = await startContainerd();
    const labels = { 'io.kubernetes.pod.name': 'web-1', 'io.kubernetes.pod.namespace': 'shop', team: '"a"\n<b>' };
    const pod = { name: 'web-1', labels, id: await engine.runPod('web-1', labels) };
    const running = await engine.runContainer(pod, 'nginx', labels, 'sleep', '1000');
    const { engines, toldOf, actionsOf, known, changes } = await following(engine.socket);
    expect(changes).toEqual([]);
    expect(known(running)).toMatchObject({
      id: running,
      engine: 'containerd',
      name: 'nginx',
      image: 'docker.io/fleetreel/box:1',
      labels,
      state: 'running',
      exitCode: Number.NaN,
    });
    expect(known(running)?.startedAt_us).toBeGreaterThan(systemClock.now_us() - 120e6);
    expect(known(pod.id)).toMatchObject({ name: 'POD', state: 'running', labels });

    const short = await engine.runContainer(pod, 'job', labels, 'sh', '-c', 'sleep 0.2; exit 3');
    expect((await toldOf(short, 'start')).container).toMatchObject({ name: 'job', labels, state: 'running' });
    expect((await toldOf(short, 'die')).container).toMatchObject({ name: 'job', exitCode: 3, state: 'exited' });
    await engine.removeContainer(short);
    await toldOf(short, 'destroy');
    expect(actionsOf(short)).toEqual(['start', 'die', 'destroy']);
    expect(known(short)).toBeUndefined();

    const second = await engine.runPod('web-2', labels);
    await toldOf(second, 'start');
    await vi.waitFor(() => expect(known(second)?.name).toBe('POD'), patience);

    await engine.kill();
    await vi.waitFor(() => expect(engines.limitations()).toHaveLength(1), patience);
    await engine.start();
    await vi.waitFor(() => expect(engines.limitations()).toEqual([]), patience);
    expect(actionsOf(running)).toEqual([]);
    await engine.stopContainer(running);
    expect((await toldOf(running, 'die')).container.exitCode).toBe(137);
  });

  test("an engine's own containerd serves no Kubernetes: nothing to tell, nothing missing", async () => {
    await using engine = await startDocker();
    const engines = new SocketEngines({
      settings: { ...defaultSettings, container: { ...defaultSettings.container, sockets: [engine.containerdSocket] } },
      roots: defaultSettings.roots,
      clock: systemClock,
    });
    onTestFinished(() => engines.close());
    await engines.open();
    await vi.waitFor(() => expect(engines.limitations()).toEqual([]), patience);
    expect(engines.containers.size).toBe(0);
  });
});
