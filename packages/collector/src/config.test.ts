import { readSettings } from '@fleetreel/proto/settings';
import { expect, test } from 'vitest';
import { checkSettings, partitionOf, placeOf, program, type Settings } from '#config.ts';

function given(...flags: string[]): Settings {
  const invocation = readSettings(program, ['check', ...flags], {});
  if (!('settings' in invocation)) throw new Error('help was asked for');
  checkSettings(invocation.settings);
  return invocation.settings;
}

test('a part has a place of its own in the log, and all hosts the one of the store', () => {
  expect(placeOf(given())).toBe('main');
  expect(placeOf(given('--store', 'copy', '--partition', '1/1'))).toBe('copy');
  const part = given('--store', 'copy', '--partition', '2/16');
  expect(placeOf(part)).toBe('copy@2-of-16');
  expect(partitionOf(part)).toEqual({ number: 2, of: 16 });
  expect(() => given('--store', 'copy@2-of-16')).toThrow('store');
});

test('a part that there is not is refused', () => {
  expect(() => given('--partition', '3/2')).toThrow('partition: 3/2 there is not: of 2 parts the last is 2/2.');
  for (const text of ['0/2', '1/0', 'half', '2', '1/1000'])
    expect(() => given('--partition', text)).toThrow('one of several parts such as 2/4');
});

test('what agents are told of NATS is an address, which may stand in a command line', () => {
  const servers = 'tls://nats-1.example.org:4222,[2001:db8::1]:4222,nats-3';
  expect(given('--nats-agents-url', servers).nats.agents_url).toBe(servers);
  for (const text of ['', 'tls://a b', '$(id)', 'tls://a;b', 'https://a', 'a,,b'])
    expect(() => given('--nats-agents-url', text), text).toThrow('nats.agents_url');
});
