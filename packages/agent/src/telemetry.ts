// Every log line and counter of the agent, declared once.
import { type Logger, pino } from 'pino';

/** What the agent counts about itself; the table `agent` shows it. */
export class Telemetry {
  readonly #log: Logger;
  ticksSkipped = 0;
  framesPublished = 0;
  framesDropped = 0;
  spoolFramesDropped = 0;
  spoolRecordsCorrupt = 0;
  reconnects = 0;
  requestsRefused = 0;
  connectionsDropped = 0;
  #latencySum_ms = 0;
  #latencies = 0;

  constructor(level: string) {
    // Written when it is said: the last lines before an end, however sudden, are those that are looked for.
    this.#log = pino({ name: 'fleetreel-agent', level }, pino.destination({ dest: 1, sync: true }));
  }

  /** Mean time to acknowledgement since this was last asked, seconds; NaN when nothing was acknowledged. */
  takePublishLatency(): number {
    const mean = this.#latencies > 0 ? this.#latencySum_ms / this.#latencies / 1000 : Number.NaN;
    this.#latencySum_ms = 0;
    this.#latencies = 0;
    return mean;
  }

  started(host: string, interval: string, sources: readonly string[]): void {
    this.#log.info({ host, interval, sources }, 'sampling');
  }

  stopping(waiting: number): void {
    this.#log.info({ waiting }, 'stopping');
  }

  /** Frames that were not acknowledged when the agent ended. */
  abandoned(frames: number): void {
    this.#log.error({ frames }, 'stopped with frames that the log has not acknowledged');
  }

  tickSkipped(count: number): void {
    this.ticksSkipped += count;
    this.#log.warn({ count }, 'ticks left out: the one before them was not done');
  }

  framePublished(latency_ms: number): void {
    this.framesPublished++;
    this.#latencySum_ms += latency_ms;
    this.#latencies++;
  }

  /** Frames of the spool that have arrived. */
  framesDrained(count: number): void {
    this.framesPublished += count;
  }

  framesGivenUp(count: number, bound: 'frames' | 'bytes'): void {
    // One line for the first and for each hundredth: an outage of hours makes thousands.
    if (
      this.framesDropped === 0 ||
      Math.floor((this.framesDropped + count) / 100) > Math.floor(this.framesDropped / 100)
    )
      this.#log.error(
        { dropped: this.framesDropped + count, bound },
        'the queue is full: the oldest frames are given up',
      );
    this.framesDropped += count;
  }

  /** The folder of the spool does not take what is written; frames stay in memory. */
  spoolFailed(folder: string, reason: string): void {
    this.#log.error(
      { folder, reason },
      'the spool can not be written: frames stay in memory, within the bounds of the queue',
    );
  }

  spoolHealed(folder: string): void {
    this.#log.info({ folder }, 'the spool can be written');
  }

  spoolUnreadable(path: string, reason: string): void {
    this.spoolRecordsCorrupt++;
    this.#log.error({ path, reason }, 'a part of the spool can not be read or removed');
  }

  spoolDamaged(path: string, offset: number): void {
    this.spoolRecordsCorrupt++;
    this.#log.error({ path, offset }, 'frames in the spool are damaged; those before and behind them are good');
  }

  spoolDropped(frames: number, cause: string): void {
    this.spoolFramesDropped += frames;
    this.#log.error(
      { frames, cause, dropped: this.spoolFramesDropped },
      'the spool is full: the oldest frames are given up',
    );
  }

  /** What was found of sessions before. */
  spoolFound(frames: number, bytes: number): void {
    this.#log.info({ frames, bytes }, 'frames of before are in the spool; they are sent when the log takes them');
  }

  /** Frames that are on disk when the agent ends; the next start sends them. */
  keptInSpool(frames: number): void {
    this.#log.info({ frames }, 'stopped with frames in the spool; they are sent after the next start');
  }

  frameTooLarge(bytes: number, limit: number): void {
    this.framesDropped++;
    this.#log.error(
      { bytes, limit, dropped: this.framesDropped },
      'a frame is larger than the log takes: it is given up',
    );
  }

  /** A description or a refusal, which is sent until somebody takes it. */
  messageWaits(kind: string, reason: string): void {
    this.#log.warn({ kind, reason }, 'a message waits for the log; it is sent as soon as it is taken');
  }

  publishFailed(reason: string, waiting: number): void {
    this.#log.warn({ reason, waiting }, 'frames wait for the log; they are sent as soon as it takes them');
  }

  publishHealed(waiting: number): void {
    this.#log.info({ waiting }, 'the log takes frames');
  }

  connecting(servers: string, cause: unknown): void {
    this.#log.warn({ servers, reason: sentence(cause) }, 'NATS can not be reached; trying until it can');
  }

  /** A person is needed; meanwhile frames go to the spool. */
  accessRefused(reason: string): void {
    this.#log.error({ reason }, 'NATS refuses this agent; sampling goes on, and frames wait in the spool');
  }

  connected(server: string): void {
    this.#log.info({ server }, 'connected');
  }

  disconnected(): void {
    this.#log.warn('the connection to NATS is lost');
  }

  reconnected(server: string): void {
    this.reconnects++;
    this.#log.info({ server }, 'connected again');
  }

  sourceChanged(source: string, state: string, reason: string): void {
    if (state === 'ok') this.#log.info({ source }, 'the source can be read');
    else this.#log[state === 'failed' ? 'warn' : 'info']({ source, state, reason }, 'the source can not be read');
  }

  /** Settings were pushed, or taken back: those that are followed, and those that are not, with the reason. */
  settingsTaken(digest: string, settings: Readonly<Record<string, string>>, refused: readonly string[]): void {
    this.#log.info({ digest, settings }, digest === '' ? 'no settings are pushed any more' : 'settings were pushed');
    if (refused.length > 0) this.#log.warn({ refused }, 'some of the settings that were pushed are not followed');
  }

  nameClaimed(host: string): void {
    this.#log.info({ host }, 'the name is ours');
  }

  nameRefused(reason: string, host: string, holder: unknown): void {
    this.#log.error({ host, holder }, reason);
  }

  /** What was sampled before it was known that the name is another machine's. */
  framesOfRefusedName(frames: number): void {
    if (frames > 0) this.#log.warn({ frames }, 'frames are discarded: the name under which they were made is not ours');
  }

  nameLost(reason: string): void {
    this.#log.error(reason);
  }

  messageTaken(kind: string): void {
    this.#log.info({ kind }, 'the log has taken a message');
  }

  /** The proxy of language models: its own address, and the server behind it. */
  proxying(listen: string, upstream: string): void {
    this.#log.info({ listen, upstream }, 'forwarding');
  }

  proxyStopping(connections: number): void {
    this.#log.info({ connections }, 'stopping');
  }

  /** One line for a time in which each request fails. */
  upstreamAway(reason: string): void {
    if (this.requestsRefused++ % 100 === 0) this.#log.warn({ refused: this.requestsRefused }, reason);
  }

  proxyFull(limit: number): void {
    if (this.connectionsDropped++ % 100 === 0)
      this.#log.error({ limit, dropped: this.connectionsDropped }, 'too many connections: further ones are closed');
  }

  failed(what: string, cause: unknown): void {
    this.#log.warn({ reason: sentence(cause) }, what);
  }
}

/** What a thrown value says. */
export function sentence(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  return cause.message || (cause as NodeJS.ErrnoException).code || cause.name;
}
