// History, then what arrives: frames in the order of the log, each once, with a token to go on from.
import type { Table } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import type { ReelFrame } from '@fleetreel/reel/format';
import { cursorOverlapMilliseconds, orderMilliseconds, replayMessageBytes, seenStretchesMax } from '#limits.ts';
import { Seen } from '#log/seen.ts';
import { LogGone, type LogMessage, readLog, stateOf } from '#replay/log.ts';
import { type Item, itemsOf, type SourceParts } from '#replay/source.ts';
import { storedFrames } from '#replay/stored.ts';

/** What is followed; tables and hosts: none means all. */
export type FollowQuestion = {
  tenant: string;
  hosts: readonly string[];
  tables: readonly Table[];
  /** A time (UTC, microseconds), or a token. */
  from: { time_us: number } | { token: string };
};

/** Frames, and where to go on after them. */
export type Followed = { frames: ReelFrame[]; token: string };

/** What a token holds: the log by its birth, its last message that was given, and when that was stored. */
type Place = { created: string; sequence: number; stored_us: number };

/** First of a token: another form gets another. */
const tokenVersion = '1';

export function encodeToken({ created, sequence, stored_us }: Place): string {
  return Buffer.from([tokenVersion, sequence, stored_us, created].join(' ')).toString('base64url');
}

/** @throws ApiError bad_token */
export function decodeToken(token: string): Place {
  const [, version, sequence, stored_us, created = ''] =
    /^(\d+) (\d{1,16}) (\d{1,16}) (\S{1,64})$/.exec(Buffer.from(token, 'base64url').toString('latin1')) ?? [];
  if (version === undefined) throw new ApiError('bad_token', { reason: 'it has not the form of one' });
  if (version !== tokenVersion)
    throw new ApiError('bad_token', { reason: `it is of version ${version}, and this one reads ${tokenVersion}` });
  return { created, sequence: Number(sequence), stored_us: Number(stored_us) };
}

/**
 * Frames that the log stored since then, and those that arrive, until the signal. Frames of before the log, where a time asks for
 * them, are rebuilt from the store and come first.
 * @throws ApiError, and the signal's reason when it is aborted
 */
export async function* follow(
  parts: SourceParts,
  question: FollowQuestion,
  signal: AbortSignal,
): AsyncGenerator<Followed> {
  const { log, clock } = parts;
  const { tenant, hosts, from } = question;
  const state = await stateOf(log);
  const seen = new Seen(seenStretchesMax);
  const fresh = ({ frame, session, sequence }: Pick<Item, 'frame' | 'session' | 'sequence'>) =>
    seen.add(frame.host, session, sequence);
  const wanted = hosts.length > 0 ? new Set(hosts) : undefined;
  const tables = question.tables.length > 0 ? new Set(question.tables) : undefined;
  const itemsOfAll = (messages: readonly LogMessage[]) =>
    messages
      .filter(({ host }) => wanted === undefined || wanted.has(host))
      .flatMap((message) => itemsOf(message, tables));
  const asked = { tenant, hosts, kinds: ['frame', 'batch'] as const };

  const place = 'token' in from ? decodeToken(from.token) : undefined;
  let after = 0;
  let begin_us = 0;
  if (place) {
    if (place.created !== state.created)
      throw new ApiError('bad_token', { reason: 'the log was made anew since, or it is another' });
    if (place.sequence > state.last) throw new ApiError('bad_token', { reason: 'the log has not come so far' });
    const { sequence, stored_us } = place;
    if (state.first > sequence + 1) throw gone(place);
    after = sequence;
    // What the log stored twice is mostly near: what was given before the token is read once more, and not given.
    const overlap = { time_us: stored_us - cursorOverlapMilliseconds * 1000 };
    for await (const messages of readLog(log, { ...asked, from: overlap, last: sequence }, clock, signal))
      for (const item of itemsOfAll(messages)) fresh(item);
  } else if ('time_us' in from) {
    begin_us = from.time_us;
    // The store has what the log's bounds removed; the log begins anew only where nothing of it was.
    const margin = state.first === 1 ? 0 : orderMilliseconds * 1000;
    const to_us = state.first > state.last ? clock.now_us() : state.first_us + margin;
    if (begin_us < state.first_us && begin_us < to_us) {
      const stored = { tenant, hosts, tables: question.tables, from_us: begin_us, to_us };
      const token = encodeToken({ created: state.created, sequence: state.first - 1, stored_us: state.first_us });
      for await (const part of storedFrames(parts.reader, stored, signal)) {
        const frames = part.filter(fresh);
        if (frames.length > 0) yield { frames: frames.map(({ frame }) => frame), token };
      }
    }
  }
  const start = after > 0 ? { sequence: after + 1 } : { time_us: begin_us };
  const last = { created: state.created, sequence: after, stored_us: place?.stored_us ?? begin_us };
  try {
    for await (const messages of readLog(
      log,
      { ...asked, from: start, last: Number.POSITIVE_INFINITY },
      clock,
      signal,
    )) {
      let frames: ReelFrame[] = [];
      let bytes = 0;
      for (const message of messages) {
        if (message.stored_us < begin_us) continue;
        for (const item of itemsOfAll([message])) {
          if (!fresh(item)) continue;
          frames.push(item.frame);
          bytes += item.frame.bytes.length;
        }
        last.sequence = message.sequence;
        last.stored_us = message.stored_us;
        if (bytes < replayMessageBytes) continue;
        yield { frames, token: encodeToken(last) };
        frames = [];
        bytes = 0;
      }
      if (frames.length > 0) yield { frames, token: encodeToken(last) };
    }
  } catch (cause) {
    throw cause instanceof LogGone ? gone(last) : cause;
  }
}

const gone = ({ stored_us }: Place): ApiError =>
  new ApiError('token_gone', { value: new Date(stored_us / 1000).toISOString() });
