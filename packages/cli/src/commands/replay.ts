import { emitKeypressEvents, type Key } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { catalog, type Table, tableNamed } from '@fleetreel/proto';
import { keepTables, moveFrame } from '@fleetreel/proto/bytes';
import { suggestion } from '@fleetreel/proto/settings';
import { ReelError, type ReelFrame } from '@fleetreel/reel/format';
import { Pacer, type Speed, speedRange } from '@fleetreel/reel/pacer';
import { ReelReader } from '@fleetreel/reel/reader';
import { Collector } from '#client.ts';
import { type Command, hostFlag, type Invocation, UsageError } from '#command.ts';
import { formatTime } from '#format.ts';
import {
  fileError,
  JsonSink,
  NatsSink,
  natsTarget,
  RecordingError,
  ReelSink,
  recordedTime,
  reelFrame,
  type Sink,
  sequenceOf,
  speedOf,
} from '#recorded.ts';

export const tableFlag = { value: 'TABLE', help: 'Only this table; may be given several times', many: true } as const;

export const replay: Command = {
  usage: 'replay [FILE.reel]',
  summary: 'Play what was recorded, from the collector or from a file without one',
  arguments: [],
  rest: 'FILE.reel',
  flags: {
    from: { value: 'TIME', help: 'Begin: -1h, RFC 3339, or milliseconds since 1970 [-1h; of a file, its begin]' },
    to: { value: 'TIME', help: 'End, exclusive [now; of a file, its end]' },
    'from-sequence': { value: 'N', help: 'Begin by the sequence of the log instead' },
    'to-sequence': { value: 'N', help: 'Last sequence of the log' },
    host: hostFlag,
    table: tableFlag,
    speed: { value: 'N', help: 'Times the original pace, 0.1 to 1000, or max [1 on a terminal and to NATS, else max]' },
    shift: { help: 'Move all times to now' },
    format: { value: 'NAME', help: 'ndjson or reel [by the name of the file, else ndjson]' },
    output: { value: 'FILE', help: 'Write into this new file [standard output]' },
    'to-nats': { value: 'URL', help: 'Publish to this NATS' },
    'nats-credentials': {
      value: 'FILE',
      help: 'With --to-nats: the credentials file by which NATS knows this program',
    },
    'nats-tls-ca': {
      value: 'FILE',
      help: 'With --to-nats: certificates of the authorities that may vouch for the server',
    },
    'nats-tls-certificate': { value: 'FILE', help: "With --to-nats: this program's own certificate" },
    'nats-tls-key': { value: 'FILE', help: 'With --to-nats: the private key of that certificate' },
    subject: { value: 'PREFIX', help: 'With --to-nats: to PREFIX.<host>' },
    tenant: { value: 'NAME', help: 'With --to-nats: as frames of this tenant, for its collector to take in' },
  },
  async run(invocation, _, signal) {
    const [path, extra] = invocation.arguments;
    if (extra !== undefined) throw new UsageError(`"${extra}" is one file too many: one is played at a time.`);
    const target = natsTarget(invocation);
    const onTerminal = process.stdout.isTTY && process.stdin.isTTY && !target && !invocation.flags.has('output');
    const options = {
      speed: speedOf(invocation.flags.get('speed')?.[0], target || onTerminal ? 1 : 'max'),
      shift: invocation.flags.has('shift'),
      tables: tablesOf(invocation),
    };
    await using player =
      path === undefined ? served(invocation, options, signal) : await filed(path, invocation, options);
    const sink = await sinkOf(invocation, target);
    using keys = onTerminal ? new Keys(process.stdin, player, !options.shift) : undefined;
    try {
      for await (const frames of player.frames(signal)) {
        keys?.at(frames.at(-1)?.time_us ?? 0);
        await sink.take(frames);
      }
    } catch (cause) {
      if (!signal.aborted) throw cause instanceof ReelError ? new RecordingError(cause.message, { cause }) : cause;
    } finally {
      await sink.close();
    }
  },
};

type Options = { speed: Speed; shift: boolean; tables: Table[] };

/** What plays, and what it can be told. */
interface Playback extends AsyncDisposable {
  frames(signal: AbortSignal): AsyncIterable<readonly ReelFrame[]>;
  pause(isPaused: boolean): void;
  setSpeed(speed: Speed): void;
  step(): void;
  seek(time_us: number): void;
  readonly speed: Speed;
}

/** From the collector. */
function served(invocation: Invocation, { speed, shift, tables }: Options, signal: AbortSignal): Playback {
  const { flags } = invocation;
  const collector = new Collector(invocation.address);
  const number = (value: Speed) => (value === 'max' ? 0 : value);
  const play = collector.play(
    {
      from: flags.get('from')?.[0] ?? '',
      to: flags.get('to')?.[0] ?? '',
      from_sequence: sequenceOf(invocation, 'from-sequence'),
      to_sequence: sequenceOf(invocation, 'to-sequence'),
      hosts: [...(flags.get('host') ?? [])],
      tables: tables.map(({ name }) => name),
      speed: number(speed),
      shift,
    },
    signal,
  );
  let now = speed;
  return {
    get speed() {
      return now;
    },
    async *frames() {
      for await (const { frames, mark } of play.messages) {
        if (frames.length > 0) yield frames.map(reelFrame);
        if (mark?.detail) process.stderr.write(`${mark.detail}\n`);
        if (mark?.kind === 'PLAY_MARK_KIND_END') play.end();
      }
    },
    pause: (isPaused) => play.send(isPaused ? { pause: {} } : { resume: {} }),
    setSpeed(wanted) {
      now = wanted;
      play.send({ speed: { speed: number(wanted) } });
    },
    step: () => play.send({ step: { frames: 1 } }),
    seek: (time_us) => play.send({ seek: { to: String(Math.max(0, Math.round(time_us / 1000))) } }),
    [Symbol.asyncDispose]: async () => collector[Symbol.dispose](),
  };
}

/** From a file, which needs no server. */
async function filed(path: string, invocation: Invocation, { speed, shift, tables }: Options): Promise<Playback> {
  for (const flag of ['from-sequence', 'to-sequence'])
    if (invocation.flags.has(flag)) throw new UsageError(`--${flag} is of the log: a file is played by times.`);
  const reader = await ReelReader.open(path).catch((cause: unknown) => {
    throw cause instanceof ReelError ? new RecordingError(cause.message, { cause }) : fileError(cause);
  });
  const { first, last } = reader.range_us ?? { first: 0, last: 0 };
  const flag = (name: string) => invocation.flags.get(name)?.[0];
  const from_us = recordedTime('from', flag('from'), last) ?? first;
  const to_us = recordedTime('to', flag('to'), last) ?? Number.POSITIVE_INFINITY;
  const hosts = invocation.flags.get('host') ?? [];
  const kept = tables.length > 0 ? new Set(tables) : undefined;
  const pacer = new Pacer(
    {
      monotonic_ms: () => performance.now(),
      sleep: (ms, signal) => sleep(ms, undefined, { signal: signal as AbortSignal }),
    },
    speed,
  );
  let seek_us: number | undefined;
  let pass = new AbortController();
  const shifted_us = Date.now() * 1000 - Math.min(to_us, last);

  const changed = (frame: ReelFrame): ReelFrame[] => {
    let { bytes, time_us } = frame;
    if (kept) {
      const some = keepTables(bytes, kept);
      if (some === undefined) return [];
      bytes = some;
    }
    if (shift) {
      time_us = pacer.speed === 'max' ? time_us + shifted_us : Date.now() * 1000;
      bytes = moveFrame(bytes, time_us);
    }
    return [{ ...frame, bytes, time_us }];
  };
  async function* play(at_us: number, signal: AbortSignal): AsyncGenerator<readonly ReelFrame[]> {
    for await (const block of reader.frames({ from_us: at_us, hosts })) {
      let due: ReelFrame[] = [];
      for (const frame of block) {
        if (frame.time_us >= to_us) continue;
        signal.throwIfAborted();
        if (!pacer.take(frame.time_us)) {
          if (due.length > 0) yield due.flatMap(changed);
          due = [];
          await pacer.wait(frame.time_us, signal);
        }
        due.push(frame);
      }
      if (due.length > 0) yield due.flatMap(changed);
    }
  }
  return {
    get speed() {
      return pacer.speed;
    },
    async *frames(signal) {
      for (let at_us = from_us; ; ) {
        pass = new AbortController();
        try {
          yield* play(at_us, AbortSignal.any([signal, pass.signal]));
          break;
        } catch (cause) {
          if (seek_us === undefined || signal.aborted) throw cause;
        }
        at_us = Math.max(from_us, seek_us);
        seek_us = undefined;
        pacer.restart();
      }
      const unknown = reader.unknown();
      if (unknown.length > 0)
        throw new RecordingError(
          `${path} was written by version ${reader.header.product} with a newer contract: ${unknown.slice(0, 20).join(', ')} are not known here and were left out of what is shown; all else is good, and a newer version reads it whole.`,
        );
    },
    pause: (isPaused) => (isPaused ? pacer.pause() : pacer.resume()),
    setSpeed: (wanted) => pacer.setSpeed(wanted),
    step: () => pacer.step(),
    seek(time_us) {
      seek_us = time_us;
      pass.abort();
    },
    [Symbol.asyncDispose]: () => reader.close(),
  };
}

/** @throws UsageError */
export function tablesOf({ flags }: Invocation): Table[] {
  return (flags.get('table') ?? [])
    .flatMap((text) => text.split(','))
    .map((name) => {
      const table = tableNamed(name);
      if (table) return table;
      throw new UsageError(
        `There is no table "${name}". ${suggestion(
          name,
          catalog.map((one) => one.name),
        )}`,
      );
    });
}

async function sinkOf({ flags }: Invocation, target: ReturnType<typeof natsTarget>): Promise<Sink> {
  const [output, format] = ['output', 'format'].map((name) => flags.get(name)?.[0]);
  if (format !== undefined && format !== 'ndjson' && format !== 'reel')
    throw new UsageError(`--format ${format} can't be: give ndjson or reel.`);
  if (target) {
    if (output ?? format) throw new UsageError('--to-nats takes neither --output nor --format.');
    return await NatsSink.connect(target.nats, target.target);
  }
  if ((format ?? (output?.endsWith('.reel') ? 'reel' : 'ndjson')) === 'ndjson') return new JsonSink(output);
  if (output === undefined) throw new UsageError('--format reel needs --output FILE: a reel is no text.');
  return await ReelSink.create(output, {
    range: {},
    hosts: [...(flags.get('host') ?? [])],
    tables: [...(flags.get('table') ?? [])],
  });
}

/** How far an arrow goes, microseconds of the recording. */
const seekMicroseconds = 10_000_000;
const help = 'space pauses, . steps, left and right go 10 s back and on, + and - change the speed, q ends';

/** The keys of a terminal. */
class Keys implements Disposable {
  readonly #input: Readable & { setRawMode?(raw: boolean): unknown };
  readonly #playback: Playback;
  readonly #canSeek: boolean;
  #isPaused = false;
  #time_us = 0;

  /** @param canSeek whether the times of the frames are those of the recording */
  constructor(input: typeof process.stdin, playback: Playback, canSeek: boolean) {
    this.#input = input;
    this.#playback = playback;
    this.#canSeek = canSeek;
    input.setRawMode(true);
    // A key that is held comes several times at once, and an arrow in several bytes.
    emitKeypressEvents(input);
    input.on('keypress', this.#press);
    input.resume();
    process.stderr.write(`${help}\n`);
  }

  at(time_us: number): void {
    this.#time_us = time_us;
  }

  [Symbol.dispose](): void {
    this.#input.off('keypress', this.#press);
    this.#input.setRawMode?.(false);
    this.#input.pause();
  }

  readonly #press = (_: string | undefined, { sequence, name, ctrl }: Key): void => {
    if (name === 'space') {
      this.#pause(!this.#isPaused);
      this.#say(this.#isPaused ? 'paused' : 'going on');
    } else if (sequence === '.') {
      this.#pause(true);
      this.#playback.step();
    } else if (name === 'left') this.#move(-seekMicroseconds);
    else if (name === 'right') this.#move(seekMicroseconds);
    else if (sequence === '+' || sequence === '=') this.#speed(2);
    else if (sequence === '-') this.#speed(0.5);
    else if (name === 'q' || (name === 'c' && ctrl)) process.kill(process.pid, 'SIGINT');
  };

  #pause(isPaused: boolean): void {
    if (isPaused !== this.#isPaused) this.#playback.pause(isPaused);
    this.#isPaused = isPaused;
  }

  #move(by_us: number): void {
    if (!this.#canSeek) return void process.stderr.write('with --shift there is no way back or on\n');
    // From nowhere there is no way: the first frame has not come yet.
    if (this.#time_us === 0) return;
    this.#time_us += by_us;
    this.#playback.seek(this.#time_us);
    this.#say(this.#isPaused ? 'paused' : 'going on');
  }

  #speed(factor: number): void {
    const { speed } = this.#playback;
    const wanted = Math.min(
      speedRange.max,
      Math.max(speedRange.min, (speed === 'max' ? speedRange.max : speed) * factor),
    );
    this.#playback.setSpeed(wanted);
    this.#say(`${wanted} times the pace`);
  }

  #say(text: string): void {
    process.stderr.write(this.#time_us > 0 ? `${text} at ${formatTime(this.#time_us / 1000)}\n` : `${text}\n`);
  }
}
