import type { Event } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { emptyTable } from '#columns.ts';
import { eventBytesPerFrameMax, eventsWaitingMax } from '#limits.ts';

/** Something that happened on the host; what is left out is absent. The columns of the table `event` say what each is. */
export type Happening = {
  kind: 'process' | 'container' | 'vm' | 'gpu' | 'llm_server';
  action: string;
  entity: string;
  name: string;
  class?: string;
  container?: string;
  detail?: string;
  duration_s?: number;
  code?: number;
  /** When it happened: UTC, microseconds since 1970; absent: now. */
  time_us?: number;
};

/** What happened since the tick before: sources record it when they learn of it, the next frame takes it along. */
export class Events {
  readonly #clock: Pick<Clock, 'now_us'>;
  #waiting: Required<Happening>[] = [];
  /** Events given up since the start because too many waited. */
  dropped = 0;

  constructor(clock: Pick<Clock, 'now_us'>) {
    this.#clock = clock;
  }

  record(happening: Happening): void {
    if (this.#waiting.length >= eventsWaitingMax) {
      this.#waiting.shift();
      this.dropped++;
    }
    const absent = { class: '', container: '', detail: '', duration_s: Number.NaN, code: Number.NaN };
    this.#waiting.push({ ...absent, time_us: this.#clock.now_us(), ...happening });
  }

  /** The table's rows for one frame, oldest first; what is too much for one waits for the next. Undefined when there are none. */
  take(): Event | undefined {
    if (this.#waiting.length === 0) return undefined;
    const table = emptyTable('event');
    let bytes = 0;
    let taken = 0;
    for (const event of this.#waiting) {
      bytes += sizeOf(event);
      if (taken > 0 && bytes > eventBytesPerFrameMax) break;
      taken++;
      table.timestamp_seconds.push(event.time_us / 1e6);
      table.kind.push(event.kind);
      table.action.push(event.action);
      table.entity.push(event.entity);
      table.name.push(event.name);
      table.class.push(event.class);
      table.container.push(event.container);
      table.detail.push(event.detail);
      table.duration_seconds.push(event.duration_s);
      table.status_code.push(event.code);
    }
    this.#waiting = this.#waiting.slice(taken);
    return table;
  }
}

/** About what an event takes in a frame: characters are up to three bytes. */
const sizeOf = (event: Required<Happening>): number =>
  100 +
  3 * (event.entity.length + event.name.length + event.class.length + event.container.length + event.detail.length);
