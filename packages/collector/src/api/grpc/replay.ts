import { ApiError } from '@fleetreel/proto/errors';
import type {
  PlayRequest__Output,
  PlayResponse,
  PlayStart__Output,
  RecordedFrame,
  ReplayHandlers,
} from '@fleetreel/proto/services';
import type { ReelFrame } from '@fleetreel/reel/format';
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { recordReplay } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { addressOf, identityOf } from '#api/grpc/rights.ts';
import { statusOf } from '#api/grpc/status.ts';
import { sourceQuestion, speedOf, timeOf } from '#api/replay.ts';
import { systemClock } from '#clock.ts';
import type { Mark, Player, Reader } from '#replay/player.ts';

type Call = ServerDuplexStream<PlayRequest__Output, PlayResponse>;

/** The handlers, and what ends the calls that are open. */
export function replayHandlers(parts: FaceParts): { handlers: ReplayHandlers; end: () => void } {
  const open = new Set<AbortController>();
  const handlers: ReplayHandlers = {
    Play(call) {
      const stopping = new AbortController();
      open.add(stopping);
      const signOut = () => stopping.abort(new ApiError('not_signed_in'));
      const release = parts.access.attend(identityOf(call), 'replay', signOut);
      void play(call, stopping, parts).finally(() => {
        open.delete(stopping);
        release();
      });
    },
  };
  return {
    handlers,
    end() {
      for (const stopping of open) stopping.abort(new ApiError('stopping'));
    },
  };
}

async function play(call: Call, stopping: AbortController, parts: FaceParts): Promise<void> {
  const { signal } = stopping;
  const first = Promise.withResolvers<PlayStart__Output>();
  let player: Player | undefined;
  let hasEnded = false;
  const gone = () => stopping.abort(new Error('the reader has gone'));
  call.on('cancelled', gone);
  call.on('error', gone);
  call.on('end', () => {
    hasEnded = true;
    player?.wake();
    first.reject(new ApiError('bad_command', { reason: 'there was no start' }));
  });
  let isStarted = false;
  call.on('data', (request: PlayRequest__Output) => {
    try {
      if (!isStarted && request.start) {
        isStarted = true;
        // What is said meanwhile is heard when there is something to control.
        call.pause();
        first.resolve(request.start);
      } else if (player) control(player, request);
      else throw new ApiError('bad_command', { reason: 'it has to begin with a start' });
    } catch (error) {
      first.reject(error);
      stopping.abort(error);
    }
  });
  const finished = parts.metrics.reader('grpc');
  try {
    signal.addEventListener('abort', () => first.reject(signal.reason), { once: true });
    const start = await first.promise;
    const { from, to, from_sequence, to_sequence, hosts, tables, speed, paused, shift } = start;
    const asked = { from, to, fromSequence: Number(from_sequence), toSequence: Number(to_sequence), hosts, tables };
    const question = sourceQuestion(identityOf(call).tenant, asked, systemClock.now_us() / 1000);
    const options = { speed: speedOf(speed), isPaused: paused, shift };
    await recordReplay(parts, { identity: identityOf(call), address: addressOf(call) }, 'play', asked);
    using opened = await parts.rooms().replays.open(question, new CallReader(call, signal), options);
    player = opened;
    call.resume();
    await opened.run(signal, () => !hasEnded);
    call.end();
  } catch (error) {
    // Who has gone is not told why.
    if (!call.cancelled) call.emit('error', statusOf(signal.aborted ? signal.reason : error, 'Replay/Play', parts));
  } finally {
    finished();
  }
}

function control(player: Player, { pause, resume, speed, seek, step }: PlayRequest__Output): void {
  if (pause) player.pause();
  else if (resume) player.resume();
  else if (speed) player.setSpeed(speedOf(speed.speed));
  else if (seek) player.seek(timeOf(seek.to, 'seek', systemClock.now_us() / 1000));
  else if (step) player.step(step.frames || 1);
  else throw new ApiError('bad_command', { reason: 'it is none that this version knows, or a second start' });
}

/** A call that holds the replay while its reader is slow. */
class CallReader implements Reader {
  readonly #call: Call;
  readonly #signal: AbortSignal;
  #frames = 0;

  constructor(call: Call, signal: AbortSignal) {
    this.#call = call;
    this.#signal = signal;
  }

  frames(frames: readonly ReelFrame[]): Promise<void> | undefined {
    this.#frames += frames.length;
    return this.#write({ frames: frames.map(recorded) });
  }

  mark({ kind, time_us, detail }: Mark): Promise<void> | undefined {
    const name = `PLAY_MARK_KIND_${kind.toUpperCase()}` as 'PLAY_MARK_KIND_END';
    return this.#write({ mark: { kind: name, time_us: Math.round(time_us), frames: this.#frames, detail } });
  }

  #write(message: PlayResponse): Promise<void> | undefined {
    return written(this.#call, message, this.#signal);
  }
}

/** Writes a message; a promise comes back where the reader is behind. It rejects with the signal's reason. */
export function written<Message>(
  call: { write(message: Message): boolean; once(event: 'drain', listener: () => void): unknown },
  message: Message,
  signal: AbortSignal,
): Promise<void> | undefined {
  if (call.write(message)) return undefined;
  return new Promise((resolve, reject) => {
    const gone = () => reject(signal.reason as Error);
    signal.addEventListener('abort', gone, { once: true });
    call.once('drain', () => {
      signal.removeEventListener('abort', gone);
      resolve();
    });
  });
}

/** A frame in the form of the contract. */
export const recorded = ({ host, time_us, logSequence, stored_us, origin, bytes }: ReelFrame): RecordedFrame => ({
  host,
  time_us: Math.round(time_us),
  log_sequence: logSequence,
  stored_us,
  origin: origin === 'log' ? 'FRAME_ORIGIN_LOG' : 'FRAME_ORIGIN_STORE',
  frame: bytes as Buffer,
});
