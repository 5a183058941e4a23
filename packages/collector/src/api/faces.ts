// What the HTTP and the gRPC face are given, and what they count.

import { Counter, Gauge, Histogram } from 'prom-client';
import type { Access } from '#access/access.ts';
import type { Enrolment } from '#access/enrolment.ts';
import type { Need } from '#access/identity.ts';
import type { LiveConnections } from '#live/connections.ts';
import type { Hub } from '#live/hub.ts';
import type { Allowances } from '#log/allowance.ts';
import type { Audit } from '#log/audit.ts';
import type { CustomLog } from '#log/custom.ts';
import type { DeadLetters } from '#log/dead.ts';
import type { Agents } from '#query/agents.ts';
import type { Query } from '#query/query.ts';
import type { Replays } from '#replay/replays.ts';
import type { Telemetry } from '#telemetry.ts';

/** What can be asked once the log is reached. */
export type Rooms = {
  query: Query;
  hub: Hub;
  deadLetters: DeadLetters;
  replays: Replays;
  agents: Agents;
  /** None where there are no keys to issue credentials with. */
  enrolment?: Enrolment | undefined;
  /** Where applications write to, and how far back. */
  custom: { log: CustomLog; allowances: Allowances; rawMilliseconds: number };
  audit: Audit;
};

/** What a face serves. */
export type FaceParts = {
  /** @throws ApiError while the log was not reached yet: the faces answer from the start, and say so. */
  rooms: () => Rooms;
  telemetry: Telemetry;
  metrics: FaceMetrics;
  /** What of live data is open, over both faces. */
  live: LiveConnections;
  /** Who asks, and so of which tenant a request is. */
  access: Access;
};

/** A face that listens. */
export type Face = {
  /** What was bound, which differs from what was asked for when that was port 0. */
  port: number;
  /** What it serves and what each asks of its caller, by `GET /api/v1/hosts` or by the path of the method. */
  needs: ReadonlyMap<string, Need>;
  /** Takes nothing new, ends streams with a reason, waits for what is in flight. */
  close(): Promise<void>;
};

const prefix = 'fleetreel_collector';

export class FaceMetrics {
  readonly #requestSeconds: Histogram;
  readonly #skipped: Counter;
  readonly #readers: Gauge;
  readonly #refused: Counter;

  constructor({ registry }: Telemetry, watches: () => number) {
    const registers = [registry];
    this.#requestSeconds = new Histogram({
      name: `${prefix}_request_duration_seconds`,
      help: 'Time of a request, by face, method or route, and result.',
      labelNames: ['face', 'route', 'code'],
      buckets: [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10],
      registers,
    });
    this.#skipped = new Counter({
      name: `${prefix}_live_skipped_total`,
      help: 'Live updates left out because a reader was slow.',
      registers,
    });
    this.#readers = new Gauge({
      name: `${prefix}_live_readers`,
      help: 'Open live connections, by face.',
      labelNames: ['face'],
      registers,
    });
    this.#refused = new Counter({
      name: `${prefix}_live_refused_total`,
      help: 'Live connections refused because their tenant had as many as it may.',
      registers,
    });
    new Gauge({
      name: `${prefix}_live_watches`,
      help: 'Tables that live readers watch.',
      registers,
      collect() {
        this.set(watches());
      },
    });
  }

  request(face: 'http' | 'grpc', route: string, code: number, seconds: number): void {
    this.#requestSeconds.observe({ face, route, code }, seconds);
  }

  /** A live reader came; returns what to call when it went. */
  reader(face: 'http' | 'grpc'): () => void {
    this.#readers.inc({ face });
    return () => this.#readers.dec({ face });
  }

  readerRefused(): void {
    this.#refused.inc();
  }

  skipped(count: number): void {
    if (count > 0) this.#skipped.inc(count);
  }
}
