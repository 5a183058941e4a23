// Messages of what applications wrote, and of the audit trail, to rows.
import { decodeAuditRecord, decodeCustomBatch } from '@fleetreel/proto/custom';
import { auditLines, customLines, type Lines, timeOf } from '#store/custom.ts';

/** The rows of a message, and the latest time that one has: UTC, microseconds since 1970. */
export type MadeRows = { lines: Lines; latest_us: number };

/** @throws FrameError */
export function customRows(tenant: string, source: string, bytes: Uint8Array): MadeRows {
  const batch = decodeCustomBatch(bytes);
  const { time_us } = batch.measures ?? batch.events;
  let latest_us = Number.NEGATIVE_INFINITY;
  for (const time of time_us) latest_us = Math.max(latest_us, timeOf(time, batch.received_us));
  return { lines: customLines(tenant, source, batch), latest_us };
}

/** @throws FrameError */
export function auditRows(tenant: string, collector: string, bytes: Uint8Array): MadeRows {
  const record = decodeAuditRecord(bytes);
  return { lines: auditLines(tenant, collector, record), latest_us: record.time_us };
}
