import { flushSync } from 'svelte';
import { beforeEach, expect, test } from 'vitest';
import { initial, rangeMilliseconds, readView, View, type ViewState, writeView } from '#lib/view.svelte.ts';

/** A history of addresses, as the browser keeps one. */
class Addresses {
  entries = $state<string[]>(['http://console/hosts/web-1']);
  at = $state(0);

  readonly address = {
    url: () => new URL(this.entries[this.at] as string),
    go: async (url: URL, { replace }: { replace: boolean }) => {
      this.entries = [...this.entries.slice(0, replace ? this.at : this.at + 1), url.href];
      this.at = this.entries.length - 1;
    },
  };
}

beforeEach(() => {
  localStorage.clear();
  delete document.documentElement.dataset.theme;
});

test('the initial view needs no parameters, and any view survives the way through the URL', () => {
  expect(writeView(initial).toString()).toBe('');
  expect(readView(new URLSearchParams())).toEqual(initial);
  const state: ViewState = {
    range: '6h',
    fixed: null,
    live: false,
    agg: 'max',
    zone: 'utc',
    layout: 'table',
    search: 'web & db, or?',
    sort: '-cpu',
    closed: ['udp', 'clock'],
    only: { disk_io: ['sda', 'nvme0n1'], filesystem: ['/a,b', '/mnt/100%'] },
    order: { process: '-memory_bytes' },
    find: { process: 'a,b & c=d' },
    wide: ['container'],
    kinds: ['process', 'llm_server'],
    hosts: ['web-1'],
    ask: { name: ['queue.*', 'a,b'], where: ['size>=10', 'version="1,0"'] },
  };
  expect(readView(writeView(state))).toEqual(state);
  const fixed = { ...initial, fixed: { from: Date.UTC(2026, 10, 21, 5), to: Date.UTC(2026, 10, 21, 6, 0, 0, 250) } };
  expect(readView(new URLSearchParams(writeView(fixed).toString()))).toEqual(fixed);
});

test('nonsense in the URL is as if it were not there', () => {
  const text = 'range=yesterday&from=x&to=1&agg=median&zone=mars&layout=pie&live=maybe&only.cpu=%25';
  expect(readView(new URLSearchParams(text))).toEqual({ ...initial, only: { cpu: ['%'] } });
  expect(readView(new URLSearchParams('from=2026-11-21T06:00:00Z&to=2026-11-21T05:00:00Z')).fixed).toBe(null);
});

test('ranges are numbers with a unit, within bounds', () => {
  expect(rangeMilliseconds('15m')).toBe(900_000);
  expect(rangeMilliseconds('7d')).toBe(7 * 86_400_000);
  for (const bad of ['', '5', 'm', '-5m', '1.5h', '9s', '99999d']) expect(rangeMilliseconds(bad)).toBe(undefined);
});

test('a zoom is a step in the history: back shows the live range again', async () => {
  const addresses = new Addresses();
  const view = new View(addresses.address);
  expect(view.live).toBe(true);
  expect(view.scope.liveRange).toBe(900_000);
  const end = Date.now() - 60_000;
  view.fix(end - 120_000, end);
  flushSync();
  expect(view.live).toBe(false);
  expect(view.window).toEqual({ from: end - 120_000, to: end });
  expect(view.scope).toMatchObject({ liveRange: null, from: end - 120_000, to: end });
  // The same URL gives the same view.
  expect(new View({ ...addresses.address }).window).toEqual(view.window);
  await new Promise((done) => setTimeout(done));
  addresses.at--;
  flushSync();
  expect(view.live).toBe(true);
  expect(view.scope.liveRange).toBe(900_000);
});

test('time that goes by moves the window and fetches nothing anew', () => {
  const view = new View(new Addresses().address);
  const { scope } = view;
  const { to } = view.window;
  view.advance(to + 5_000);
  expect(view.window).toEqual({ from: to + 5_000 - 900_000, to: to + 5_000 });
  expect(view.scope).toBe(scope);
  view.advance(to);
  expect(view.window.to).toBe(to + 5_000);
  view.refresh();
  expect(view.scope).not.toBe(scope);
});

test('paused, the window stands', () => {
  const view = new View(new Addresses().address);
  view.pause();
  const { window } = view;
  view.advance(window.to + 60_000);
  expect(view.window).toEqual(window);
  expect(view.scope).toMatchObject({ liveRange: null, from: window.from, to: window.to });
});

test('ranges move and zoom, and never reach into the future', () => {
  const view = new View(new Addresses().address);
  view.zoom(2);
  expect(view.state.range).toBe('1h');
  view.zoom(0.5);
  expect(view.state.range).toBe('15m');
  const { from, to } = view.window;
  view.move(-0.5);
  expect(view.window.from).toBeCloseTo(from - 450_000, -2);
  expect(view.window.to).toBeCloseTo(to - 450_000, -2);
  view.zoom(2);
  expect(view.window.to).toBeLessThanOrEqual(Math.ceil(view.now));
  expect(view.window.to - view.window.from).toBeCloseTo(1_800_000, -2);
  view.follow('15m');
  view.move(-0.5);
  view.move(1);
  expect(view.live).toBe(true);
});

test('changes in quick succession build on each other, and going back undoes them', async () => {
  const addresses = new Addresses();
  const { address } = addresses;
  const slow: (() => void)[] = [];
  const view = new View({
    url: address.url,
    go: (url, options) => new Promise<void>((done) => slow.push(() => void address.go(url, options).then(done))),
  });
  view.set({ layout: 'table' });
  view.set({ sort: '-cpu' });
  expect(view.state).toMatchObject({ layout: 'table', sort: '-cpu' });
  for (const go of slow) go();
  await Promise.resolve();
  expect(address.url().search).toBe('?layout=table&sort=-cpu');
  await new Promise((done) => setTimeout(done));
  addresses.at = 0;
  flushSync();
  expect(view.state).toMatchObject({ layout: 'grid', sort: 'host' });
});

test('one entity of a table is chosen and let go', () => {
  const addresses = new Addresses();
  const view = new View(addresses.address);
  view.select('disk_io', ['sda']);
  expect(addresses.address.url().searchParams.get('only.disk_io')).toBe('sda');
  view.select('disk_io', []);
  expect(addresses.address.url().search).toBe('');
});

test('the theme is kept, and the system decides again when it is let go', () => {
  const view = new View(new Addresses().address);
  const stop = view.start();
  view.setTheme('dark');
  expect(document.documentElement.dataset.theme).toBe('dark');
  expect(view.dark).toBe(true);
  const next = new View(new Addresses().address);
  const stopNext = next.start();
  expect(next.theme).toBe('dark');
  next.setTheme('system');
  expect(document.documentElement.dataset.theme).toBe(undefined);
  expect(localStorage.length).toBe(0);
  stop();
  stopNext();
});
