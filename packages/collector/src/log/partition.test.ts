import { expect, test } from 'vitest';
import { isIn, whole } from '#log/partition.ts';

const hosts = Array.from({ length: 2000 }, (_, index) => `host-${String(index).padStart(4, '0')}`);
const partOf = (host: string, of: number): number[] =>
  Array.from({ length: of }, (_, index) => index + 1).filter((number) => isIn({ number, of }, 'default', host));

test('every host is in exactly one partition, and partitions are about equal', () => {
  for (const of of [1, 2, 3, 4, 7]) {
    const parts = hosts.map((host) => partOf(host, of));
    expect(parts.every(({ length }) => length === 1)).toBe(true);
    const sizes = Map.groupBy(parts, ([number]) => number);
    expect(sizes.size).toBe(of);
    for (const { length } of sizes.values()) expect(Math.abs(length - 2000 / of)).toBeLessThan(0.2 * (2000 / of));
  }
  expect(hosts.every((host) => isIn(whole, 'default', host))).toBe(true);
});

test('what one partition holds, two of twice as many hold', () => {
  for (const host of hosts) {
    const before = Number(partOf(host, 3)[0]);
    expect([before, before + 3]).toContain(partOf(host, 6)[0]);
  }
});

test('the same host of another tenant may be in another', () => {
  const moved = hosts.filter((host) => isIn({ number: 1, of: 2 }, 'a', host) !== isIn({ number: 1, of: 2 }, 'b', host));
  expect(moved.length).toBeGreaterThan(0);
});
