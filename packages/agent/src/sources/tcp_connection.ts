import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { Tables, TcpConnection } from '@fleetreel/proto';
import { unavailable } from '#files.ts';
import type { Context, Source } from '#source.ts';

/** The kernel writes a line for each connection, and looks through a table of all that could be. */
const every_ms = 10_000;

/**
 * The share of one core that counting takes: the kernel looks through a table that grows with the machine's memory, 5 ms for half a
 * million places, however few connections there are. Those that stand, wait or have lost their program are in each frame anyway.
 */
const coreShare = 1 / 4000;

/** A minute is the longest pause, as long as counting takes less than this share. */
const pause_ms = 60_000;
const coreShareMax = 0.01;

/** With more connections than this they are not counted by state: it would take a second or more. */
export const connectionsMax = 200_000;

/** So many pieces are read before the rest of the agent has its turn. */
const piecesPerTurn = 16;

/** The states in the order of the kernel's numbers, which begin at 1. */
export const tcpStates = [
  'established',
  'syn_sent',
  'syn_recv',
  'fin_wait1',
  'fin_wait2',
  'time_wait',
  'close',
  'close_wait',
  'last_ack',
  'listen',
  'closing',
] as const;

/** TCP_NEW_SYN_RECV: how Linux since 4.4 keeps what others see as syn_recv. */
const newSynRecv = 12;

const newline = 10;
const space = 32;

/**
 * Counts the connections of /proc/net/tcp or tcp6 by state, piece by piece. Of each line only the fourth word is
 * looked at, the state in hexadecimal.
 */
export class ConnectionCounter {
  /** Connections by the kernel's number of the state. */
  readonly counts = new Uint32Array(16);
  connections = 0;

  /** Counts the complete lines in the first `length` bytes; returns how many bytes those are. */
  count(bytes: Buffer, length: number): number {
    let start = 0;
    for (;;) {
      const end = bytes.indexOf(newline, start);
      if (end < 0 || end >= length) return start;
      const state = stateAt(bytes, start, end);
      if (state >= 0) {
        this.counts[state] = (this.counts[state] ?? 0) + 1;
        this.connections++;
      }
      start = end + 1;
    }
  }
}

/** The state in a line; -1 in the heading and in what is no such line. */
function stateAt(bytes: Buffer, start: number, end: number): number {
  let position = start;
  for (let word = 0; word < 3; word++) {
    while (position < end && bytes[position] === space) position++;
    while (position < end && bytes[position] !== space) position++;
  }
  while (position < end && bytes[position] === space) position++;
  if (end - position < 2 || bytes[position] !== 48) return -1;
  const digit = bytes[position + 1]!;
  if (digit >= 48 && digit <= 57) return digit - 48;
  return digit >= 65 && digit <= 70 ? digit - 55 : -1;
}

/** TCP connections by state, IPv4 and IPv6 together. */
export function tcpConnection({ roots, clock }: Context): Source {
  const paths = [join(roots.proc, 'net/tcp'), join(roots.proc, 'net/tcp6')] as const;
  const buffer = Buffer.allocUnsafeSlow(64 * 1024);
  let countAgainAt_ms = Number.NEGATIVE_INFINITY;
  let tooMany = false;
  return {
    name: 'tcp_connection',
    tables: ['tcp_connection'],
    every_ms,
    open() {
      try {
        closeSync(openSync(paths[0], 'r'));
      } catch (error) {
        throw unavailable(paths[0], error);
      }
    },
    async sample(): Promise<Tables> {
      const begin_ms = clock.monotonic_ms();
      if (begin_ms < countAgainAt_ms) return {};
      const before = process.cpuUsage();
      const counter = new ConnectionCounter();
      await countFile(paths[0], counter, buffer);
      try {
        await countFile(paths[1], counter, buffer);
      } catch (error) {
        // Without IPv6 there is no such file.
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      }
      const { user, system } = process.cpuUsage(before);
      const took_ms = (user + system) / 1000;
      countAgainAt_ms = begin_ms + Math.max(Math.min(took_ms / coreShare, pause_ms), took_ms / coreShareMax);
      tooMany = counter.connections > connectionsMax;
      return tooMany ? {} : { tcp_connection: connectionTable(counter.counts) };
    },
    close() {},
    limitations: () =>
      tooMany ? [`There are more than ${connectionsMax} TCP connections: they are not counted by state`] : [],
  };
}

function connectionTable(counts: Uint32Array): TcpConnection {
  const table: TcpConnection = { state: [], connections_count: [] };
  for (const [index, state] of tcpStates.entries()) {
    const more = state === 'syn_recv' ? (counts[newSynRecv] ?? 0) : 0;
    table.state.push(state);
    table.connections_count.push((counts[index + 1] ?? 0) + more);
  }
  return table;
}

/** Counts one file, and stops above `connectionsMax`. */
async function countFile(path: string, counter: ConnectionCounter, buffer: Buffer): Promise<void> {
  const descriptor = openSync(path, 'r');
  try {
    let kept = 0;
    for (let piece = 1; counter.connections <= connectionsMax; piece++) {
      const read = readSync(descriptor, buffer, kept, buffer.length - kept, null);
      if (read === 0) return;
      const length = kept + read;
      const counted = counter.count(buffer, length);
      buffer.copy(buffer, 0, counted, length);
      kept = length - counted;
      if (kept === buffer.length) throw new Error(`${path} has a line of more than ${buffer.length} bytes`);
      if (piece % piecesPerTurn === 0) await setImmediate();
    }
  } finally {
    closeSync(descriptor);
  }
}
