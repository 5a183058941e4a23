// Frames as binary lines of QuestDB's protocol, made beforehand: what the store can take when nothing else is to be done.
import { Agent, request } from 'node:http';
import { type Columns, catalog, defaultTenant, encodeFrame, type Frame, type Tables } from '@fleetreel/proto';
import type { Questdb } from '../servers/questdb.ts';
import { hostName } from './fleet.ts';

/** Frames of one write, as the collector fetches them. */
export const framesPerWrite = 1000;

/** A text is written with a backslash before what has a meaning in a line. */
const escaped = (text: string): string => text.replace(/[\\ ,=\n]/g, '\\$&');

/** All rows as bodies of requests, those of the frames themselves included. */
export function prepared(frames: Iterable<{ host: number; frame: Frame }>): Buffer[] {
  const bodies: Buffer[] = [];
  let batch: { host: number; frame: Frame }[] = [];
  for (const entry of frames) {
    batch.push(entry);
    if (batch.length < framesPerWrite) continue;
    bodies.push(lines(batch));
    batch = [];
  }
  if (batch.length > 0) bodies.push(lines(batch));
  return bodies;
}

/** A body of one request. */
function lines(frames: Iterable<{ host: number; frame: Frame }>): Buffer {
  const rows: Buffer[] = [];
  for (const { host, frame } of frames) {
    const who = `,tenant=${defaultTenant},host=${hostName(host)}`;
    const size = encodeFrame(frame).length;
    const counts = `sequence=${frame.sequence}i,interval_ms=${frame.interval_ms}i,size_bytes=${size}i`;
    rows.push(Buffer.from(`frame${who},session=${frame.session} ${counts} ${frame.time_us}t\n`));
    for (const table of catalog) {
      const columns = frame.tables[table.name as keyof Tables] as Columns | undefined;
      if (!columns) continue;
      const length = Math.max(...Object.values(columns).map((column) => column.length));
      for (let row = 0; row < length; row++) {
        const labels = table.labels
          .map(({ name }) => [name, String(columns[name]?.[row] ?? '')] as const)
          .filter(([, value]) => value !== '')
          .map(([name, value]) => `,${name}=${escaped(value)}`);
        const values = table.fields.flatMap(({ name }) => {
          const value = columns[name]?.[row];
          return typeof value !== 'number' || Number.isNaN(value) ? [] : [[name, value] as const];
        });
        rows.push(Buffer.from(`${table.name}${who}${labels.join('')}${values.length > 0 ? ' ' : ''}`));
        for (const [index, [name, value]] of values.entries()) rows.push(binaryDouble(name, value, index > 0));
        rows.push(Buffer.from(` ${frame.time_us}t\n`));
      }
    }
  }
  return Buffer.concat(rows);
}

/** `name==`, the byte 16, and eight bytes: a double as it is in memory. */
function binaryDouble(name: string, value: number, follows: boolean): Buffer {
  const head = Buffer.from(`${follows ? ',' : ''}${name}==\u0010`);
  const field = Buffer.alloc(head.length + 8);
  head.copy(field);
  field.writeDoubleLE(value, head.length);
  return field;
}

/** Sends the bodies over so many connections. @throws Error with the store's answer when it refuses one */
export async function push(questdb: Questdb, bodies: readonly Buffer[], connections: number): Promise<void> {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const waiting = [...bodies];
  const worker = async () => {
    for (let body = waiting.shift(); body; body = waiting.shift()) await post(questdb, agent, body);
  };
  await Promise.all(Array.from({ length: connections }, worker));
  agent.destroy();
}

async function post({ httpUrl, user, password }: Questdb, agent: Agent, body: Buffer): Promise<void> {
  const headers = { 'content-length': body.length };
  await new Promise<void>((resolve, reject) => {
    const sent = request(`${httpUrl}/write`, { method: 'POST', agent, auth: `${user}:${password}`, headers });
    sent.once('error', reject);
    sent.once('response', (answer) => {
      let text = '';
      answer.on('data', (part) => {
        text += String(part);
      });
      answer.once('error', reject);
      answer.once('end', () =>
        answer.statusCode === 204 ? resolve() : reject(new Error(`QuestDB refused: ${answer.statusCode} ${text}`)),
      );
    });
    sent.end(body);
  });
}
