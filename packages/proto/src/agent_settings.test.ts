import { expect, test } from 'vitest';
import {
  type AgentSettings,
  labelList,
  parseTarget,
  pushedBytesMax,
  pushedText,
  readPushed,
  settingsDigest,
  sourceNames,
  targetText,
  wantedOf,
  wrongSetting,
} from '#agent_settings.ts';

const bytes = (text: string) => new TextEncoder().encode(text);

test('what can be pushed is taken, and nothing else', () => {
  const right = {
    interval: ['1s', '300s', '1m30s'],
    upload_interval: ['0s', '5m'],
    'sources.container': ['on', 'off'],
    'container.labels': ['', 'team', 'team, version'],
    'tags.rack': ['a3', '日本', 'a = b'],
    'tags.example.org/role': ['web'],
  };
  for (const [key, values] of Object.entries(right))
    for (const value of values) expect(wrongSetting(key, value), `${key}=${value}`).toBeUndefined();
  const wrong: Record<string, string[]> = {
    interval: ['', '999ms', '301s', '5', 'fast', '-5s', '1s '],
    upload_interval: ['-1s', '301s'],
    'sources.container': ['', 'true', 'ON'],
    'sources.tape': ['off'],
    'sources.NAME': ['off'],
    'sources.': ['off'],
    sources: ['off'],
    'container.labels': ['a\nb', 'x'.repeat(2001)],
    'tags.rack': ['', ' a3', 'a\u0000', 'x'.repeat(129)],
    'tags.': ['x'],
    'tags.-a': ['x'],
    'tags.a=b': ['x'],
    // Never by push: credentials, addresses, folders, command lines.
    'process.commands': ['true'],
    'nats.url': ['nats://10.0.0.1'],
    data: ['/tmp'],
    'settings.remote': ['on'],
    toString: ['x'],
    __proto__: ['x'],
    '': ['x'],
  };
  for (const [key, values] of Object.entries(wrong))
    for (const value of values) expect(wrongSetting(key, value), `${key}=${value}`).toBeDefined();
});

test('an unknown setting names what there is', () => {
  expect(wrongSetting('sources.containers', 'off')).toMatchObject({ kind: 'unknown' });
  const unknown = wrongSetting('intervall', '5s');
  expect(unknown?.kind === 'unknown' && unknown.candidates).toContain('interval');
});

test('a target is what it was written as, or none', () => {
  for (const text of ['all', 'tag:role=web', 'tag:a/b=c=d e', 'host:web-1'])
    expect(targetText(parseTarget(text)!)).toBe(text);
  expect(targetText(parseTarget('host:web.1')!)).toBe('host:web_1');
  for (const text of [
    '',
    'ALL',
    'all ',
    'tag:',
    'tag:role',
    'tag:role=',
    'tag:=x',
    'host:',
    'host:a b',
    'host:*',
    'host:>',
  ])
    expect(parseTarget(text), text).toBeUndefined();
});

const targets: Record<string, AgentSettings> = {
  all: { interval: '10s', 'sources.gpu': 'off', 'tags.site': 'north' },
  'tag:site=north': { interval: '20s', upload_interval: '60s' },
  'tag:role=web': { interval: '5s', 'container.labels': 'team' },
  'tag:role=db': { interval: '1s' },
  'host:web-1': { 'sources.gpu': 'on', 'tags.role': 'web' },
};

test('all comes before tags in the order of their names, and those before the host; pushed tags count, too', () => {
  const { settings, targets: from } = wantedOf('web-1', { role: 'db' }, (target) => targets[target]);
  expect(from).toEqual(['all', 'tag:role=web', 'tag:site=north', 'host:web-1']);
  expect(settings).toEqual({
    'container.labels': 'team',
    interval: '20s',
    'sources.gpu': 'on',
    'tags.role': 'web',
    'tags.site': 'north',
    upload_interval: '60s',
  });
  expect(wantedOf('db-1', { role: 'db', site: 'south' }, (target) => targets[target])).toMatchObject({
    // The tag of `all` comes before the host's own.
    targets: ['all', 'tag:role=db', 'tag:site=north'],
    settings: { interval: '20s', 'tags.site': 'north' },
  });
  expect(wantedOf('x', {}, () => undefined)).toEqual({ settings: {}, targets: [] });
});

test('the same settings are the same text', () => {
  const text = pushedText({ b: '2', a: '1' });
  expect(text).toBe(pushedText({ a: '1', b: '2' }));
  expect(settingsDigest(text)).toBe(settingsDigest(bytes(text)));
  expect(settingsDigest(text)).toMatch(/^[0-9a-f]{16}$/);
});

test('of what was pushed everything is followed that can be, and the rest is told with its reason', () => {
  const { settings, refused } = readPushed(
    bytes(
      '{"settings":{"interval":"2s","sources.tape":"off","upload_interval":"1d","tags.rack":7,"__proto__":"x"},"more":1}',
    ),
  );
  expect(settings).toEqual({ interval: '2s' });
  expect(Object.keys(refused).sort()).toEqual(['__proto__', 'sources.tape', 'tags.rack', 'upload_interval']);
  expect(refused['sources.tape']).toMatch(/does not know it/);
  expect(refused.upload_interval).toMatch(/at most 300s/);
});

test('what is none of settings changes nothing', () => {
  for (const text of ['', 'null', '[]', '"x"', '{}', '{"settings":[]}', '{"settings":null}', '{"settings', '\u0000'])
    expect(readPushed(bytes(text)).refused[''], text).toMatch(/^They are no /);
  expect(readPushed(Uint8Array.from([0xff, 0xfe])).refused['']).toBe('They are no JSON.');
  expect(readPushed(new Uint8Array(pushedBytesMax + 1)).refused['']).toMatch(/larger than 64 KiB/);
  const many = Object.fromEntries(Array.from({ length: 5000 }, (_, index) => [`x${index}`, '']));
  expect(Object.keys(readPushed(bytes(JSON.stringify({ settings: many }))).refused).length).toBeLessThanOrEqual(100);
});

test('labels are separated by commas', () => expect(labelList(' a, b,,c ')).toEqual(['a', 'b', 'c']));

test('sources are named as in keys', () => {
  for (const name of sourceNames) expect(wrongSetting(`sources.${name}`, 'off')).toBeUndefined();
});
