import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Type from 'typebox';
import { afterAll, expect, test } from 'vitest';
import { durationMilliseconds } from '#duration.ts';
import { Duration, help, nearest, type Program, readSettings, readYaml, reference } from '#settings.ts';

const settings = Type.Object({
  interval: Duration('5s', { description: 'Time between two samples' }),
  tags: Type.Record(Type.String(), Type.String(), { default: {}, description: 'Tags' }),
  nats: Type.Object({
    url: Type.String({ default: 'nats://127.0.0.1:4222', description: 'Server' }),
    password: Type.Optional(Type.String({ minLength: 8, secret: true, description: 'Secret' })),
  }),
  sources: Type.Object({ disable: Type.Array(Type.String(), { default: [], description: 'Left out' }) }),
  port: Type.Integer({ minimum: 1, maximum: 65535, default: 7600, description: 'Port' }),
  level: Type.Union([Type.Literal('info'), Type.Literal('debug')], { default: 'info', description: 'Level' }),
});
const program: Program<typeof settings> = {
  name: 'thing',
  version: '1.2.3',
  summary: 'Does things',
  commands: { run: 'Runs', check: 'Checks' },
  switches: { json: 'For programs' },
  settings,
};

const folder = mkdtempSync(join(tmpdir(), 'fleetreel-settings-'));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
const file = (text: string) => {
  const path = join(folder, `thing-${++files}.yaml`);
  writeFileSync(path, text);
  return path;
};
const read = (argv: string[], environment: Record<string, string> = {}) => {
  const answer = readSettings(program, argv, environment);
  if ('help' in answer) throw new Error('help');
  return answer;
};

test('a flag comes before the environment, the environment before the file, the file before the default', () => {
  const config = file('interval: 1s\nport: 1\nnats: {url: "nats://file"}\nlevel: debug\n');
  const { settings: got, command } = read(['run', '--config', config, '--port=3'], {
    FLEETREEL_PORT: '2',
    FLEETREEL_NATS_URL: 'nats://environment',
  });
  expect(command).toBe('run');
  expect(got).toMatchObject({ interval: '1s', port: 3, level: 'debug', nats: { url: 'nats://environment' }, tags: {} });
  expect(Object.isFrozen(got.nats)).toBe(true);
});

test('lists and mappings are given as text, too', () => {
  const { settings: got, switches } = read(['check', '--json'], {
    FLEETREEL_TAGS: 'rack=a,row=b=c',
    FLEETREEL_SOURCES_DISABLE: 'cpu, clock',
  });
  expect(got.tags).toEqual({ rack: 'a', row: 'b=c' });
  expect(got.sources.disable).toEqual(['cpu', 'clock']);
  expect([...switches]).toEqual(['json']);
});

test.each([
  [['run', '--intervall', '5s'], {}, 'There is no flag --intervall. Did you mean "--interval"?'],
  [['run', '--port', '0'], {}, 'port: 0 (in the flag --port) is not a whole number from 1 to 65535.'],
  [['run', '--port', 'x'], {}, 'port: x (in the flag --port) is not a whole number from 1 to 65535.'],
  [['run', '--port'], {}, 'The flag --port needs a value.'],
  [
    ['run'],
    { FLEETREEL_INTERVAL: 'often' },
    'interval: often (in the environment variable FLEETREEL_INTERVAL) is not a duration such as 5s, 10m, 72h or 30d.',
  ],
  [
    ['run'],
    { FLEETREEL_NATS_PASSWORD: 'short' },
    'nats.password: the value given (in the environment variable FLEETREEL_NATS_PASSWORD) is not a text.',
  ],
  [
    ['run'],
    { FLEETREEL_LEVEL: 'loud' },
    'level: loud (in the environment variable FLEETREEL_LEVEL) is not one of info, debug.',
  ],
  [['rum'], {}, 'There is no command "rum". Did you mean "run"?'],
  [[], {}, 'thing needs a command: run, check. See thing --help.'],
  [['run', 'more'], {}, '"more" after the command run means nothing here.'],
  [
    ['run', '--config', '/nowhere/thing.yaml'],
    {},
    "The settings file /nowhere/thing.yaml can't be read: it does not exist.",
  ],
])('%j is one clear sentence', (argv, environment, sentence) => {
  expect(() => read(argv, environment as Record<string, string>)).toThrow(
    expect.objectContaining({ message: sentence, exitCode: 2 }),
  );
});

test('a file with a mistake is named with the place', () => {
  const unknown = file('nats:\n  uri: x\n');
  expect(() => read(['run', '--config', unknown])).toThrow(
    `There is no setting "nats.uri" (in ${unknown}). Did you mean "nats.url"?`,
  );
  const torn = file('interval: 5s\nnats: {url: "x"\n');
  expect(() => read(['run', '--config', torn])).toThrow(/is not YAML, line \d+: /);
  const scalar = file('nats: yes\n');
  expect(() => read(['run', '--config', scalar])).toThrow(
    `"nats" in ${scalar} is yes: it has to be a mapping of keys.`,
  );
});

test('durations are added up; what is none is undefined', () => {
  expect(['500ms', '5s', '1h30m', '30d', '1.5s'].map(durationMilliseconds)).toEqual([
    500, 5000, 5_400_000, 2_592_000_000, 1500,
  ]);
  expect(['', '5', '5 s', '-5s', 's'].map(durationMilliseconds)).toEqual(Array(5).fill(undefined));
});

test('the nearest is none when nothing is near', () => {
  expect(nearest('cpuu', ['cpu', 'memory'])).toBe('cpu');
  expect(nearest('zzzzzzzz', ['cpu', 'memory'])).toBe(undefined);
});

test('help and reference name every key', () => {
  for (const text of [help(program), reference(program)])
    for (const name of ['interval', 'nats-url', 'sources-disable', 'port']) expect(text).toContain(`--${name}`);
});

test('after a command with settings of its own, what begins their flags may be left out', () => {
  const wider: Program<typeof settings> = { ...program, own: { check: 'nats-' } };
  const flags = ['--url', 'nats://short', '--interval', '1s'];
  const short = readSettings(wider, [...flags, 'check'], {});
  const long = readSettings(wider, ['check', '--nats-url', 'nats://long'], {});
  expect([short, long].map((one) => 'settings' in one && one.settings.nats.url)).toEqual([
    'nats://short',
    'nats://long',
  ]);
  expect(() => readSettings(wider, ['run', ...flags], {})).toThrow('There is no flag --url');
});

test('a secret is no flag, by either name, and is not repeated', () => {
  const wider: Program<typeof settings> = { ...program, own: { check: 'nats-' } };
  for (const argv of [
    ['run', '--nats-password', 'long enough'],
    ['run', '--nats-password=long enough'],
    ['check', '--password', 'long enough'],
  ])
    expect(() => readSettings(wider, argv, {})).toThrow(
      /^--(nats-)?password can't be given here, where whoever lists processes reads it: set FLEETREEL_NATS_PASSWORD, or nats\.password in the file\.$/,
    );
  for (const text of [help(program), reference(program)]) {
    expect(text).toContain('FLEETREEL_NATS_PASSWORD');
    expect(text).not.toContain('--nats-password');
  }
});

test('a YAML file is read with the lines of what is in it', () => {
  const { value, line } = readYaml(file('# first\n- a: 1\n  b:\n    - x\n    - y\n- c: 2\n'), 'list');
  expect(value).toEqual([{ a: 1, b: ['x', 'y'] }, { c: 2 }]);
  expect(line([0, 'b', 1])).toBe(5);
  expect(line([1])).toBe(6);
  // Of what is not there the line of what would hold it.
  expect(line([0, 'z', 'y'])).toBe(2);
  expect(line([])).toBe(1);
  expect(() => readYaml('/nowhere/list.yaml', 'list')).toThrow(
    "The list /nowhere/list.yaml can't be read: it does not exist.",
  );
  expect(() => readYaml(file('a: [1\nb: 2\n'), 'list')).toThrow(/^The list \S+ is not YAML, line \d: /);
});
