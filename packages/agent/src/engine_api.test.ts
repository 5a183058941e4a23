import { describe, expect, test } from 'vitest';
import type { EngineContainer } from '#engine.ts';
import {
  changed,
  type EngineEvent,
  eventFilter,
  microseconds,
  parseEvent,
  parseInspect,
  parseList,
  parseVersion,
  unknownContainer,
} from '#engine_api.ts';

// Answers of Docker 20.10.24 and Podman 4.3.1 as they came, shortened to what matters; of later ones what their documents say.

const id = '01ec3ea53e866345c38b3bd7af69d190f95077f4a7cee06005cfe41a85023dfa';

describe('the version of the API', () => {
  const docker = (ApiVersion: string, MinAPIVersion: string) => ({
    Platform: { Name: '' },
    Components: [{ Name: 'Engine', Version: '20.10.24+dfsg1', Details: { ApiVersion } }, { Name: 'containerd' }],
    ApiVersion,
    MinAPIVersion,
  });

  test.each([
    ['Docker 20.10', docker('1.41', '1.12'), { engine: 'docker', prefix: '/v1.41' }],
    ['Docker 28', docker('1.51', '1.24'), { engine: 'docker', prefix: '/v1.44' }],
    ['Docker 29', docker('1.52', '1.44'), { engine: 'docker', prefix: '/v1.44' }],
    ['one that has given up all that is known here', docker('1.70', '1.60'), { engine: 'docker', prefix: '/v1.60' }],
    [
      'Podman 4.3',
      { Components: [{ Name: 'Podman Engine' }, { Name: 'Conmon' }], ApiVersion: '1.41', MinAPIVersion: '1.24' },
      { engine: 'podman', prefix: '/v1.41' },
    ],
    ['one that says nothing', {}, { engine: 'docker', prefix: '' }],
    [
      'one that says nonsense',
      { Components: 'x', ApiVersion: '../..', MinAPIVersion: 7 },
      { engine: 'docker', prefix: '' },
    ],
    ['something else', null, { engine: 'docker', prefix: '' }],
  ])('%s', (_, answer, version) => {
    expect(parseVersion(answer)).toEqual(version);
  });
});

describe('the list', () => {
  test('those that run come first; names lose their slash, labels may be null', () => {
    const other = 'e'.repeat(64);
    const listed = parseList('docker', [
      {
        Id: other,
        Names: ['/short'],
        Image: 'box:1',
        Labels: null,
        State: 'exited',
        Status: 'Exited (3) 4 seconds ago',
      },
      { Id: id, Names: ['/busier', '/other/alias'], Image: 'box:1', Labels: { evil: 'a"b\nc' }, State: 'running' },
      { Id: 'not an id', Names: ['/hidden'], State: 'running' },
      null,
    ]);
    expect(listed.map(({ name, state, labels }) => ({ name, state, labels }))).toEqual([
      { name: 'busier', state: 'running', labels: { evil: 'a"b\nc' } },
      { name: 'short', state: 'exited', labels: {} },
    ]);
  });

  test('an answer that is no list is an error', () => {
    expect(() => parseList('docker', { message: 'page not found' })).toThrow('no list');
  });
});

describe('the description', () => {
  const docker = {
    Id: id,
    Name: '/busier',
    RestartCount: 2,
    Image: 'sha256:c1698ce4a12037c55749d2475114098c8a3fc5294f9034099fa979b642dbcaf8',
    State: {
      Status: 'exited',
      Running: false,
      OOMKilled: true,
      Pid: 0,
      ExitCode: 137,
      StartedAt: '2026-11-21T08:44:30.137478537Z',
      FinishedAt: '2026-11-21T08:44:30.165492645Z',
      Health: { Status: 'unhealthy', FailingStreak: 0, Log: [] },
    },
    HostConfig: { Memory: 67_108_864, NanoCpus: 500_000_000, CpuPeriod: 0, CpuQuota: 0 },
    Config: { Image: 'box:1', Labels: { evil: 'a"b\nc' } },
  };

  test('of one that has ended', () => {
    expect(parseInspect('docker', docker)).toEqual({
      id,
      engine: 'docker',
      name: 'busier',
      image: 'box:1',
      labels: { evil: 'a"b\nc' },
      state: 'exited',
      health: 'unhealthy',
      restarts: 2,
      exitCode: 137,
      isOomKilled: true,
      pid: 0,
      startedAt_us: Date.UTC(2026, 10, 21, 8, 44, 30) * 1000 + 137_478,
      finishedAt_us: Date.UTC(2026, 10, 21, 8, 44, 30) * 1000 + 165_492,
      cpuLimit_cores: 0.5,
      memoryLimit_bytes: 67_108_864,
      cgroupPath: '',
    } satisfies EngineContainer);
  });

  test('of one that runs, without limits and check: what an earlier run ended with is not its end', () => {
    const running = parseInspect('docker', {
      ...docker,
      State: {
        ...docker.State,
        Status: 'running',
        Pid: 4711,
        ExitCode: 0,
        OOMKilled: false,
        Health: { Status: 'none' },
      },
      HostConfig: { Memory: 0, NanoCpus: 0, CpuPeriod: 0, CpuQuota: -1 },
    });
    expect(running).toMatchObject({ state: 'running', health: '', pid: 4711, exitCode: Number.NaN });
    expect(running).toMatchObject({
      finishedAt_us: Number.NaN,
      cpuLimit_cores: Number.NaN,
      memoryLimit_bytes: Number.NaN,
    });
  });

  test('of one that never ran', () => {
    const never = '0001-01-01T00:00:00Z';
    const State = { Status: 'created', Pid: 0, ExitCode: 0, StartedAt: never, FinishedAt: never };
    const created = parseInspect('docker', { ...docker, State });
    expect(created).toMatchObject({ state: 'created', exitCode: Number.NaN, pid: 0 });
    expect(created).toMatchObject({ startedAt_us: Number.NaN, finishedAt_us: Number.NaN });
  });

  test('Podman: its own words for states, a quota, an end that a coarse clock puts before the start', () => {
    const State = {
      Status: 'stopped',
      ExitCode: 7,
      StartedAt: '2026-11-21T10:06:25.139144+01:00',
      FinishedAt: '2026-11-21T10:06:25.130231+01:00',
      Healthcheck: { Status: 'starting' },
    };
    const HostConfig = { Memory: 0, NanoCpus: 0, CpuPeriod: 200_000, CpuQuota: 50_000 };
    const podman = parseInspect('podman', { ...docker, State, HostConfig });
    expect(podman).toMatchObject({
      engine: 'podman',
      state: 'exited',
      health: 'starting',
      exitCode: 7,
      cpuLimit_cores: 0.25,
    });
    expect(podman.startedAt_us).toBe(Date.UTC(2026, 10, 21, 9, 6, 25) * 1000 + 139_144);
    expect(podman.finishedAt_us).toBe(podman.startedAt_us);
  });

  test('without any of it', () => {
    expect(parseInspect('docker', { Id: id })).toMatchObject({ id, name: '', state: '', restarts: Number.NaN });
    expect(() => parseInspect('docker', { message: 'No such container' })).toThrow('no id');
  });
});

describe('events', () => {
  const attributes = { evil: 'a"b\nc', image: 'box:1', name: 'busier' };
  const event = (Action: string, more: object = {}, beside: object = {}) =>
    JSON.stringify({
      status: Action,
      id,
      from: 'box:1',
      Type: 'container',
      Action,
      scope: 'local',
      Actor: { ID: id, Attributes: { ...attributes, ...more } },
      time: 1_795_250_670,
      timeNano: 1_795_250_670_189_366_800,
      ...beside,
    });
  const told: EngineEvent = {
    action: 'start',
    id,
    name: 'busier',
    image: 'box:1',
    labels: { evil: 'a"b\nc' },
    exitCode: Number.NaN,
    health: '',
    time_us: 1_795_250_670_189_366,
  };

  test.each([
    ['a start', event('start'), told],
    ['an end', event('die', { exitCode: '137', execDuration: '3' }), { ...told, action: 'die', exitCode: 137 }],
    ['an end by Podman', event('died', { containerExitCode: '3', podId: '' }), { ...told, action: 'die', exitCode: 3 }],
    ['a removal by Docker', event('destroy'), { ...told, action: 'destroy' }],
    ['a removal by Podman', event('remove', { containerExitCode: '0', podId: '' }), { ...told, action: 'destroy' }],
    ['a new name', event('rename', { oldName: '/busy' }), { ...told, action: 'rename' }],
    ['a signal', event('kill', { signal: '9' }), { ...told, action: 'kill' }],
    ['health by Docker', event('health_status: healthy'), { ...told, action: 'health_status', health: 'healthy' }],
    [
      'health by Podman 4',
      event('health_status', { containerExitCode: '0' }, { HealthStatus: 'starting' }),
      { ...told, action: 'health_status', health: 'starting' },
    ],
    [
      'health by Podman 5',
      event('health_status', { health_status: 'unhealthy', health_failing_streak: '3' }),
      { ...told, action: 'health_status', health: 'unhealthy' },
    ],
    ['what is not followed', event('exec_create: /bin/sh -c true'), undefined],
    ['what only Podman tells', event('cleanup'), undefined],
    ['a word that every object knows', event('constructor'), undefined],
    ['another kind of thing', event('start').replace('"container"', '"network"'), undefined],
    ['something without an id', JSON.stringify({ Type: 'container', Action: 'start' }), undefined],
    ['a number', '7', undefined],
  ])('%s', (_, line, expected) => {
    expect(parseEvent(line)).toEqual(expected);
  });

  test('the label of an attack on prototypes is a label', () => {
    const line = event('start').replace('"evil"', '"__proto__"');
    expect(Object.entries(parseEvent(line)?.labels ?? {})).toEqual([['__proto__', 'a"b\nc']]);
    expect(({} as Record<string, unknown>).evil).toBeUndefined();
  });

  test('Docker leaves out what is not asked for: a health check makes three events a time', () => {
    const { type, event: asked } = JSON.parse(eventFilter('docker')) as Record<string, string[]>;
    expect(type).toEqual(['container']);
    expect(asked).toContain('health_status');
    expect(asked?.some((action) => action.startsWith('exec'))).toBe(false);
  });

  test('what they change', () => {
    const begin = unknownContainer('docker', id);
    const started = changed(begin, told);
    expect(started).toMatchObject({
      name: 'busier',
      labels: { evil: 'a"b\nc' },
      state: 'running',
      startedAt_us: told.time_us,
    });
    const described = { ...started, labels: { evil: 'a"b\nc', more: '1' }, pid: 7 };
    const ended = changed(described, { ...told, action: 'die', exitCode: 3, time_us: told.time_us + 5 });
    expect(ended).toMatchObject({ labels: { more: '1' }, state: 'exited', exitCode: 3, pid: 0 });
    expect(ended.finishedAt_us - ended.startedAt_us).toBe(5);
    expect(changed(ended, told)).toMatchObject({ state: 'running', exitCode: Number.NaN, finishedAt_us: Number.NaN });
  });
});

test.each([
  ['2026-11-21T08:44:30Z', Date.UTC(2026, 10, 21, 8, 44, 30) * 1000],
  ['2026-11-21T08:44:30.1Z', Date.UTC(2026, 10, 21, 8, 44, 30) * 1000 + 100_000],
  ['2026-11-21T08:44:30.123456789+02:30', Date.UTC(2026, 10, 21, 6, 14, 30) * 1000 + 123_456],
  ['0001-01-01T00:00:00Z', Number.NaN],
  ['0001-01-01T00:00:00+00:00', Number.NaN],
  ['yesterday', Number.NaN],
  [undefined, Number.NaN],
])('the time %s', (time, expected) => {
  expect(microseconds(time)).toBe(expected);
});
