// Stretches in which a model served requests without a longer pause.
import type { LlmSession } from '@fleetreel/proto';
import { emptyTable } from '#columns.ts';
import { type Distribution, meanOf, nothing, quantileOf, together } from '#llm/distribution.ts';
import { type Interval, plus } from '#llm/interval.ts';

type Session = {
  server: string;
  model: string;
  begin_us: number;
  end_us: number;
  requests: number;
  prompt_tokens: number;
  generated_tokens: number;
  timeToFirstToken: Distribution;
  interTokenLatency: Distribution;
  isRunning: boolean;
  /** Has grown since its row was last made. */
  isNew: boolean;
};

export class Sessions {
  readonly #gap_us: number;
  readonly #open = new Map<string, Session>();

  constructor(gap_ms: number) {
    this.#gap_us = gap_ms * 1000;
  }

  /** What a model of a server did in the interval that ended now. */
  take(server: string, model: string, interval: Interval, now_us: number): void {
    const { growth, work } = interval;
    const isRunning = work.running > 0 || work.waiting > 0;
    const key = JSON.stringify([server, model]);
    const open = this.#open.get(key);
    if (open) open.isRunning = isRunning;
    const has = [growth.prompt_tokens, growth.generated_tokens, growth.ok, growth.aborted, growth.error];
    if (!isRunning && !has.some((count) => count > 0)) return;

    // A server's own metrics only tell that it was after the answer before; a proxy knows.
    const [busySince_us = Number.NaN, lastEnd_us = Number.NaN] = [work.busySince_us, work.lastEnd_us];
    const begin_us = busySince_us > 0 ? busySince_us : now_us - (interval.seconds > 0 ? interval.seconds * 1e6 : 0);
    const isSame = open && Math.max(begin_us, open.end_us) - open.end_us <= this.#gap_us;
    const session = isSame ? open : this.#begin(key, server, model, begin_us);
    session.isRunning = isRunning;
    session.end_us = Math.max(session.end_us, !isRunning && lastEnd_us > 0 ? lastEnd_us : now_us);
    session.requests = plus(session.requests, plus(growth.ok, plus(growth.aborted, growth.error)));
    session.prompt_tokens = plus(session.prompt_tokens, growth.prompt_tokens);
    session.generated_tokens = plus(session.generated_tokens, growth.generated_tokens);
    const { time_to_first_token, inter_token_latency } = interval.durations;
    if (time_to_first_token) session.timeToFirstToken = together(session.timeToFirstToken, time_to_first_token);
    if (inter_token_latency) session.interTokenLatency = together(session.interTokenLatency, inter_token_latency);
    session.isNew = true;
  }

  /** The rows of the sessions that have grown or have just ended; undefined when there are none. */
  rows(now_us: number): LlmSession | undefined {
    const table = emptyTable('llm_session');
    for (const [key, session] of this.#open) {
      const isActive = session.isRunning || now_us - session.end_us <= this.#gap_us;
      if (!isActive) this.#open.delete(key);
      if (!session.isNew && isActive) continue;
      session.isNew = false;
      addRow(table, session, isActive);
    }
    return table.server.length > 0 ? table : undefined;
  }

  /** A server is gone: nothing of it runs any more. */
  gone(server: string): void {
    for (const session of this.#open.values()) if (session.server === server) session.isRunning = false;
  }

  #begin(key: string, server: string, model: string, begin_us: number): Session {
    const session: Session = {
      server,
      model,
      begin_us,
      end_us: begin_us,
      requests: Number.NaN,
      prompt_tokens: Number.NaN,
      generated_tokens: Number.NaN,
      timeToFirstToken: nothing,
      interTokenLatency: nothing,
      isRunning: false,
      isNew: true,
    };
    this.#open.set(key, session);
    return session;
  }
}

function addRow(table: LlmSession, session: Session, isActive: boolean): void {
  table.timestamp_seconds.push(session.begin_us / 1e6);
  table.server.push(session.server);
  table.model.push(session.model);
  table.duration_seconds.push((session.end_us - session.begin_us) / 1e6);
  table.active_flag.push(isActive ? 1 : 0);
  table.requests_count.push(session.requests);
  table.prompt_tokens_count.push(session.prompt_tokens);
  table.generated_tokens_count.push(session.generated_tokens);
  table.time_to_first_token_seconds.push(meanOf(session.timeToFirstToken));
  table.time_to_first_token_p95_seconds.push(quantileOf(session.timeToFirstToken, 0.95));
  table.inter_token_latency_seconds.push(meanOf(session.interTokenLatency));
  table.inter_token_latency_p95_seconds.push(quantileOf(session.interTokenLatency, 0.95));
}
