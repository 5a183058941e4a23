import type { Agent } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { singleRow } from '#columns.ts';
import type { Events } from '#events.ts';
import type { Publisher } from '#publisher.ts';
import { percent } from '#rates.ts';
import type { Telemetry } from '#telemetry.ts';

/** The agent's report on itself: one row of the table `agent` for each tick. */
export function selfReport(
  version: string,
  publisher: Publisher,
  events: Events,
  telemetry: Telemetry,
  clock: Clock,
): (tick_s: number) => Agent {
  let cpu_us = 0;
  let at_ms = Number.NaN;
  return (tick_s) => {
    const { user, system } = process.cpuUsage();
    const now_ms = clock.monotonic_ms();
    const cpu_percent = percent((user + system - cpu_us) / 1000, now_ms - at_ms);
    cpu_us = user + system;
    at_ms = now_ms;
    const { rss, heapUsed } = process.memoryUsage();
    const { waiting, spooled } = publisher;
    return {
      version: [version],
      ...singleRow<Omit<Agent, 'version'>>({
        cpu_percent,
        resident_memory_bytes: rss,
        heap_used_bytes: heapUsed,
        tick_duration_seconds: tick_s,
        ticks_skipped_total: telemetry.ticksSkipped,
        queue_frames_count: waiting.frames,
        queue_bytes: waiting.bytes,
        queue_age_seconds: waiting.age_ms / 1000,
        frames_published_total: telemetry.framesPublished,
        frames_dropped_total: telemetry.framesDropped,
        publish_latency_seconds: telemetry.takePublishLatency(),
        reconnects_total: telemetry.reconnects,
        events_dropped_total: events.dropped,
        spool_frames_count: spooled.frames,
        spool_bytes: spooled.bytes,
        spool_age_seconds: spooled.age_ms / 1000,
        spool_dropped_frames_total: telemetry.spoolFramesDropped,
        spool_corrupt_records_total: telemetry.spoolRecordsCorrupt,
      }),
    };
  };
}
