import { expect, test } from 'vitest';
import { Unavailable } from '#source.ts';
import { clock, parseTimex, timexBytes } from '#sources/clock.ts';
import { row, SteppedTree } from '#sources/testing.ts';

function timex(fields: { offset: bigint; maximum: bigint; estimated: bigint; status: number }): Buffer {
  const buffer = Buffer.alloc(timexBytes);
  buffer.writeBigInt64LE(fields.offset, 8);
  buffer.writeBigInt64LE(fields.maximum, 24);
  buffer.writeBigInt64LE(fields.estimated, 32);
  buffer.writeInt32LE(fields.status, 40);
  return buffer;
}

test('a synchronized clock, its offset in nanoseconds', () => {
  const nano = timex({ offset: -1_234_567n, maximum: 45_000n, estimated: 120n, status: 0x2001 });
  expect(parseTimex(nano, 0)).toEqual({
    offset_seconds: -0.001234567,
    maximum_error_seconds: 0.045,
    estimated_error_seconds: 0.00012,
    synchronized_flag: 1,
  });
});

test('a clock that is not synchronized, its offset in microseconds', () => {
  const micro = timex({ offset: 250n, maximum: 16_000_000n, estimated: 16_000_000n, status: 0x40 });
  expect(parseTimex(micro, 5)).toEqual({
    offset_seconds: 0.00025,
    maximum_error_seconds: 16,
    estimated_error_seconds: 16,
    synchronized_flag: 0,
  });
});

test.runIf(process.platform === 'linux')('this machine tells its clock, and nothing in it is changed', async () => {
  using tree = new SteppedTree();
  const source = clock(tree.context);
  await source.open();
  const now = row((await source.sample()).clock);
  expect(now.maximum_error_seconds).toBeGreaterThan(0);
  expect(now.estimated_error_seconds).toBeGreaterThanOrEqual(0);
  expect(Math.abs(now.offset_seconds as number)).toBeLessThan(1);
  expect([0, 1]).toContain(now.synchronized_flag);
  await source.close();
  expect(() => source.sample()).toThrow('The clock was not opened');
});

test('the call asks for nothing to be set', async () => {
  using tree = new SteppedTree();
  const modes: number[] = [];
  const source = clock(tree.context, () =>
    Promise.resolve((buffer) => {
      modes.push(buffer.readUInt32LE(0));
      buffer.fill(0xff);
      return 0;
    }),
  );
  await source.open();
  await source.sample();
  expect(modes).toEqual([0, 0]);
});

test('refused or elsewhere it is unavailable, with the reason', async () => {
  using tree = new SteppedTree();
  const refused = clock(tree.context, () =>
    Promise.resolve(() => {
      throw new Unavailable('not permitted');
    }),
  );
  await expect(refused.open()).rejects.toThrow(Unavailable);
  await expect(clock({ ...tree.context, platform: 'darwin' }).open()).rejects.toThrow(
    'The clock is read on Linux only, not on darwin',
  );
});
