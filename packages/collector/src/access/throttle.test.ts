import type { ApiError } from '@fleetreel/proto/errors';
import { expect, test } from 'vitest';
import { networkOf, Throttle } from '#access/throttle.ts';
import { signInBackoffMilliseconds, signInFailuresFree } from '#limits.ts';

/** A clock that stands still until it is moved. */
function still() {
  let now_ms = 1_000_000;
  const clock = { now_us: () => now_ms * 1000, monotonic_ms: () => now_ms, sleep: () => Promise.resolve() };
  return { clock, pass: (milliseconds: number) => (now_ms += milliseconds) };
}

/** How long it has to wait, seconds; 0 when it may be tried. */
function wait(throttle: Throttle, user: string, address: string, isKnown = false): number {
  try {
    throttle.begin(user, address, isKnown);
    return 0;
  } catch (error) {
    expect((error as ApiError).code).toBe('too_many_sign_ins');
    return (error as ApiError).retryAfter ?? -1;
  }
}

test('some failures are free, then each doubles the pause up to a bound', () => {
  const { clock, pass } = still();
  const throttle = new Throttle(clock);
  const pauses: number[] = [];
  for (let tries = 0; tries < 15; tries++) {
    expect(wait(throttle, 'ada', '192.0.2.1', true)).toBe(0);
    const seconds = wait(throttle, 'ada', '192.0.2.1', true);
    if (seconds === 0) tries++;
    else pauses.push(seconds);
    pass(seconds * 1000);
  }
  expect(pauses.slice(0, 4)).toEqual([1, 2, 4, 8]);
  expect(Math.max(...pauses)).toBe(signInBackoffMilliseconds.max / 1000);
});

test('100 wrong passwords a second from one address stop nobody elsewhere', () => {
  const { clock, pass } = still();
  const throttle = new Throttle(clock);
  let tried = 0;
  for (let count = 0; count < 6000; count++) {
    if (wait(throttle, 'ada', '192.0.2.1') === 0) tried++;
    pass(10);
  }
  // Within a minute: those that are free, and one after each pause.
  expect(tried).toBeLessThan(signInFailuresFree.pair + 8);
  expect(wait(throttle, 'ada', '198.51.100.7')).toBe(0);
});

test('an address that tries many users waits, but not a user who signed in from there before', () => {
  const throttle = new Throttle(still().clock);
  for (let user = 0; user < signInFailuresFree.address; user++)
    expect(wait(throttle, `user-${user}`, '192.0.2.1')).toBe(0);
  expect(wait(throttle, 'ada', '192.0.2.1')).toBeGreaterThan(0);
  expect(wait(throttle, 'ada', '192.0.2.1', true)).toBe(0);
  expect(wait(throttle, 'ada', '192.0.2.2')).toBe(0);
});

test('a sign-in that was right forgets what failed before', () => {
  const throttle = new Throttle(still().clock);
  for (let round = 0; round < 10; round++) {
    for (let failure = 1; failure < signInFailuresFree.pair; failure++)
      expect(wait(throttle, 'ada', '192.0.2.1', true)).toBe(0);
    throttle.succeed('ada', '192.0.2.1', true);
  }
});

test('a try that was not looked at is none', () => {
  const throttle = new Throttle(still().clock);
  expect(throttle.begin('ada', '192.0.2.1', false)).toBe(1);
  for (let tries = 0; tries < 2 * signInFailuresFree.address; tries++) {
    expect(throttle.begin('ada', '192.0.2.1', false)).toBe(2);
    throttle.withdraw('ada', '192.0.2.1', false);
  }
  expect(throttle.begin('ada', '192.0.2.1', true)).toBe(0);
});

test('many who right sign in from one address do not make it wait', () => {
  const throttle = new Throttle(still().clock);
  for (let user = 0; user < 200; user++) {
    expect(wait(throttle, `user-${user}`, '192.0.2.1')).toBe(0);
    throttle.succeed(`user-${user}`, '192.0.2.1', false);
  }
});

test('who has an account does not undo what fails from his address by signing in', () => {
  const throttle = new Throttle(still().clock);
  let tried = 0;
  for (let user = 0; user < 2000; user++) {
    if (wait(throttle, `user-${user}`, '192.0.2.1') === 0) tried++;
    expect(wait(throttle, 'eve', '192.0.2.1', true)).toBe(0);
    throttle.succeed('eve', '192.0.2.1', true);
  }
  expect(tried).toBe(signInFailuresFree.address);
});

test('a machine that chooses its IPv6 address counts as one', () => {
  expect(networkOf('2001:db8:1:2:3:4:5:6')).toBe('2001:db8:1:2::/64');
  expect(networkOf('2001:db8:1:2::9')).toBe('2001:db8:1:2::/64');
  expect(networkOf('2001:0DB8::1')).toBe('2001:db8:0:0::/64');
  expect(networkOf('::1')).toBe('0:0:0:0::/64');
  expect(networkOf('::ffff:192.0.2.1')).toBe('192.0.2.1');
  expect(networkOf('192.0.2.1')).toBe('192.0.2.1');
});
