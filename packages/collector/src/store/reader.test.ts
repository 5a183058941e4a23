import { expect, test } from 'vitest';
import { timestampMicroseconds } from '#store/reader.ts';

test.each([
  ['1970-01-01 00:00:00.000001', 1],
  ['2026-01-31 12:00:00.123456', 1_769_860_800_123_456],
  ['2026-01-31T12:00:00.123Z', 1_769_860_800_123_000],
  ['2026-01-31 12:00:00', 1_769_860_800_000_000],
])('%s is UTC', (text, us) => expect(timestampMicroseconds(text)).toBe(us));
