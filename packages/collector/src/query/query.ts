// The questions that both faces of the API pass on.
import type { Clock } from '#clock.ts';
import type { Newest } from '#live/newest.ts';
import type { DeadLetters } from '#log/dead.ts';
import type { Registry } from '#log/registry.ts';
import { type CoverageQuestion, queryCoverage } from '#query/coverage.ts';
import {
  type AuditQuestion,
  type CustomQuestion,
  type EventQuestion,
  findAuditRecords,
  findEvents,
  findMeasures,
} from '#query/custom.ts';
import { type FleetQuestion, queryFleet } from '#query/fleet.ts';
import { Hosts } from '#query/hosts.ts';
import { type LatestQuestion, queryLatest } from '#query/latest.ts';
import type { Retention } from '#query/plan.ts';
import { queryRows, type RowsQuestion } from '#query/rows.ts';
import { querySeries, type SeriesQuestion } from '#query/series.ts';
import type { Reader } from '#store/reader.ts';
import type { Telemetry } from '#telemetry.ts';

export type QueryParts = {
  reader: Reader;
  registry: Registry;
  newest: Newest;
  clock: Clock;
  telemetry: Telemetry;
  retention: Retention;
};

/** History and the newest state. */
export class Query {
  readonly hosts: Hosts;
  readonly #parts: QueryParts;

  constructor(parts: QueryParts) {
    this.#parts = parts;
    this.hosts = new Hosts({ ...parts, rawMs: parts.retention.raw });
  }

  /** @throws ApiError */
  latest(tenant: string, question: LatestQuestion) {
    return queryLatest({ ...this.#parts, hosts: this.hosts }, tenant, question);
  }

  /** @throws ApiError */
  rows(tenant: string, question: RowsQuestion) {
    return queryRows({ ...this.#parts, hosts: this.hosts }, tenant, question, this.#parts.clock.now_us() / 1000);
  }

  /** @throws ApiError */
  series(tenant: string, question: SeriesQuestion) {
    const now = this.#parts.clock.now_us() / 1000;
    return querySeries({ ...this.#parts, hosts: this.hosts }, tenant, question, now);
  }

  /** The newest values of the fleet as a page for Prometheus, in pieces. @throws ApiError */
  fleet(tenant: string, question: FleetQuestion): AsyncGenerator<string> {
    return queryFleet({ ...this.#parts, hosts: this.hosts }, tenant, question);
  }

  /** @throws ApiError */
  coverage(tenant: string, question: CoverageQuestion, letters: Pick<DeadLetters, 'next'>) {
    const now = this.#parts.clock.now_us() / 1000;
    return queryCoverage({ ...this.#parts, hosts: this.hosts }, letters, tenant, question, now);
  }

  /** @throws ApiError */
  measures(tenant: string, question: CustomQuestion) {
    return findMeasures(this.#parts.reader, tenant, question, this.#parts.clock.now_us() / 1000);
  }

  /** @throws ApiError */
  events(tenant: string, question: EventQuestion) {
    return findEvents(this.#parts.reader, tenant, question, this.#parts.clock.now_us() / 1000);
  }

  /** @throws ApiError */
  auditRecords(tenant: string, question: AuditQuestion) {
    return findAuditRecords(this.#parts.reader, tenant, question, this.#parts.clock.now_us() / 1000);
  }

  close(): void {
    this.hosts.close();
  }
}
