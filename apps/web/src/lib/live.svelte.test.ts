import type { LiveRequest, LiveRows } from '@fleetreel/proto/http';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Live } from '#lib/live.svelte.ts';

/** The other end of the socket. */
class Socket {
  static readonly OPEN = 1;
  static made: Socket[] = [];
  static get last(): Socket {
    return Socket.made.at(-1) as Socket;
  }

  readyState = 0;
  sent: LiveRequest[] = [];
  onopen = () => {};
  onclose = (_: { reason: string }) => {};
  onmessage = (_: { data: string }) => {};

  constructor() {
    Socket.made.push(this);
  }
  send(text: string) {
    this.sent.push(JSON.parse(text));
  }
  close(reason = '') {
    this.readyState = 3;
    this.onclose({ reason });
  }
  open() {
    this.readyState = 1;
    this.onopen();
  }
  say(message: unknown) {
    this.onmessage({ data: JSON.stringify(message) });
  }
}

const rows = (id: string, time: number): LiveRows => ({
  type: 'rows',
  id,
  host: 'web-1',
  time,
  intervalMs: 5000,
  labels: {},
  values: { used_percent: [1] },
  skipped: 0,
});

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal('WebSocket', Socket);
  Socket.made = [];
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

test('equal subscriptions are one on the wire, and the last one to go ends it', () => {
  const live = new Live({ url: () => 'ws://collector' });
  const first = vi.fn();
  const second = vi.fn();
  const watch = { table: 'memory', fields: ['used_percent', 'free_bytes'], hosts: ['web-1'] };
  const stopFirst = live.watch(watch, { message: first });
  const stopSecond = live.watch({ ...watch, fields: ['free_bytes', 'used_percent'] }, { message: second });
  expect(Socket.made).toHaveLength(1);
  expect(live.state).toBe('connecting');
  Socket.last.open();
  expect(live.state).toBe('open');
  expect(Socket.last.sent).toEqual([
    { type: 'subscribe', id: '1', table: 'memory', fields: ['free_bytes', 'used_percent'], hosts: ['web-1'] },
  ]);
  Socket.last.say(rows('1', 5000));
  expect(first).toHaveBeenCalledTimes(1);
  expect(second).toHaveBeenCalledTimes(1);
  stopFirst();
  Socket.last.say(rows('1', 10_000));
  expect(first).toHaveBeenCalledTimes(1);
  expect(second).toHaveBeenCalledTimes(2);
  stopSecond();
  stopSecond();
  expect(Socket.last.sent.at(-1)).toEqual({ type: 'unsubscribe', id: '1' });
  expect(Socket.last.sent).toHaveLength(2);
  vi.advanceTimersByTime(5_000);
  expect(Socket.last.readyState).toBe(3);
});

test('a lost connection is made again after growing pauses, with all subscriptions', () => {
  const live = new Live({ url: () => 'ws://collector' });
  live.watch({ table: 'cpu' }, { message: () => {} });
  live.watchHosts({ message: () => {} });
  Socket.last.open();
  Socket.last.close();
  expect(live.state).toBe('lost');
  expect(live.lostSince).toBe(Date.now());
  const since = live.lostSince;
  vi.advanceTimersByTime(500);
  expect(Socket.made).toHaveLength(2);
  Socket.last.close();
  vi.advanceTimersByTime(400);
  expect(Socket.made).toHaveLength(2);
  vi.advanceTimersByTime(600);
  expect(Socket.made).toHaveLength(3);
  expect(live.lostSince).toBe(since);
  Socket.last.open();
  expect(live.state).toBe('open');
  expect(live.lostSince).toBe(null);
  expect(Socket.last.sent.map(({ type }) => type)).toEqual(['subscribe', 'subscribe_hosts']);
  live.close();
  vi.advanceTimersByTime(60_000);
  expect(Socket.made).toHaveLength(3);
});

test('a connection that was never made, or that ended with its session, is told; one that was lost is not', () => {
  const refused = vi.fn();
  const live = new Live({ url: () => 'ws://collector', refused });
  live.watchHosts({ message: () => {} });
  Socket.last.close();
  expect(refused).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(1_000);
  Socket.last.open();
  Socket.last.close();
  expect(refused).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(1_000);
  Socket.last.open();
  Socket.last.close('not_signed_in');
  expect(refused).toHaveBeenCalledTimes(2);
  live.close();
});

test('what the collector refuses is told to whoever asked for it', () => {
  const live = new Live({ url: () => 'ws://collector' });
  const problem = vi.fn();
  const other = vi.fn();
  live.watch({ table: 'memry' }, { message: () => {}, problem });
  live.watch({ table: 'cpu' }, { message: () => {}, problem: other });
  Socket.last.open();
  const detail = 'There is no table "memry"; the nearest is "memory".';
  Socket.last.say({ type: 'error', id: '1', problem: { type: '', title: '', status: 400, detail, code: 'unknown' } });
  expect(problem).toHaveBeenCalledWith(expect.objectContaining({ detail }));
  expect(other).not.toHaveBeenCalled();
  live.close();
});
