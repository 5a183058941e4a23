import { encodeFrame, type Frame } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { NewestFrame } from '#live/newest.ts';
import { headline } from '#query/headline.ts';

const frame = (tables: object) =>
  new NewestFrame(
    { tenant: 'default', kind: 'frame', host: 'a' },
    0,
    encodeFrame({ session: '00000000000000ab', sequence: 1, time_us: 1, interval_ms: 1000, tables } as Frame),
  );

test('the disk is the fullest that can be written, the network all interfaces that lead out', () => {
  const { diskUsedPercent, receiveBytesPerSecond, failedSourcesCount } = headline(
    frame({
      filesystem: { mount: ['/', '/data', '/iso'], used_percent: [20, 70, 100], read_only_flag: [0, 0, 1] },
      net_interface: { interface: ['lo', 'eth0', 'eth1', 'veth1'], receive_bytes_per_second: [1, 2, 4, 8] },
      source: { source: ['cpu', 'clock'], state: ['ok', 'failed'], reason: ['', 'x'], duration_seconds: [0, 0] },
    }),
  );
  expect({ diskUsedPercent, receiveBytesPerSecond, failedSourcesCount }).toEqual({
    diskUsedPercent: 70,
    receiveBytesPerSecond: 6,
    failedSourcesCount: 1,
  });
});

test('what a frame does not bring is not available', () => {
  expect(Object.values(headline(frame({ load: { load_1m_count: [3] } })))).toEqual([
    null,
    null,
    null,
    null,
    null,
    3,
    null,
    null,
  ]);
  expect(Object.values(headline(undefined))).toEqual(Array(8).fill(null));
});
